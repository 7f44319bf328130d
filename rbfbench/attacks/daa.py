"""Distributionally adversarial attacks: the images of a group move as particles of one distribution.

Beside the gradient of its own loss, each particle follows a kernel over the group: its neighbours' gradients, and a
pull towards them (Zheng, Chen, Ren, arXiv 1808.05537). What is done to an image depends on its group, by definition.
The authors deal a data set into new groups of 200 after every 10 steps; within one fixed group that changes nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from rbfbench.attacks.best import Best
from rbfbench.attacks.losses import LOSSES
from rbfbench.attacks.norms import NORMS, SHRINK
from rbfbench.attacks.oracle import Oracle
from rbfbench.attacks.rng import Keys

Flow = Callable[[Tensor, Tensor], Tensor]  # (particles (B, d), their gradients (B, d)) -> what the group adds (B, d)

# As the authors chose them, on pixels in [0,1]. Their scripts print the numbers for the margin, but a name that is
# local by mistake lets those for cross-entropy hold for both.
BLOB_WEIGHT = {"ce": 1.1, "margin": 10.0}
DGF_WEIGHT = {"ce": -0.001, "margin": -0.01}
STEPS_ACROSS = 30  # steps from the image to the border of the ball: 0.01 at eps 0.3


def daa_blob(
    oracle: Oracle,
    x: Tensor,
    y: Tensor,
    *,
    norm: str,
    eps: float,
    rng: Keys,
    steps: int = 200,
    step_size: float | None = None,
    restarts: int = 1,
    particles: int = 200,
    loss: str = "ce",
    weight: float | None = None,
) -> Tensor:
    """Projected ascent of a group along its blob flow (Zheng et al., arXiv 1808.05537).

    The group stays whole in every restart, those already broken included, since each is a part of what moves the
    others; in an exact view the restarts end when all are broken. The order of the images does not matter.

    Args:
        oracle: View of the model for the group, asked in pieces that fit into one pass.
        x: Clean images (N, C, H, W) in [0,1]: one group.
        y: (N,) true classes.
        norm: "linf".
        eps: Radius of the ball.
        rng: Keys of these images, for the starts.
        steps: Gradient steps in each restart.
        step_size: Length of a step; eps / 30 if None.
        restarts: Independent starts.
        particles: Most images of a group; for whoever makes the groups.
        loss: "ce" or "margin".
        weight: Of the kernel term; 0 is PGD; None is the authors' choice for the loss. Positive: particles attract.

    Returns:
        The best candidate seen for each image (N, C, H, W); through noise, see `gradient.walk`.
    """
    del particles
    return _ascend(
        oracle,
        x,
        y,
        norm=norm,
        eps=eps,
        rng=rng,
        steps=steps,
        step_size=eps / STEPS_ACROSS if step_size is None else step_size,
        restarts=restarts,
        loss=loss,
        weight=BLOB_WEIGHT[loss] if weight is None else weight,
        flow=blob,
    )


def daa_dgf(
    oracle: Oracle,
    x: Tensor,
    y: Tensor,
    *,
    norm: str,
    eps: float,
    rng: Keys,
    steps: int = 200,
    step_size: float | None = None,
    restarts: int = 1,
    particles: int = 200,
    loss: str = "ce",
    weight: float | None = None,
) -> Tensor:
    """Projected ascent of a group along its discrete gradient flow (Zheng et al., arXiv 1808.05537).

    Groups, restarts and order are treated as by `daa_blob`.

    Args:
        oracle: View of the model for the group, asked in pieces that fit into one pass.
        x: Clean images (N, C, H, W) in [0,1]: one group.
        y: (N,) true classes.
        norm: "linf".
        eps: Radius of the ball.
        rng: Keys of these images, for the starts.
        steps: Gradient steps in each restart.
        step_size: Length of a step; eps / 30 if None.
        restarts: Independent starts.
        particles: Most images of a group; for whoever makes the groups.
        loss: "ce" or "margin".
        weight: Of the kernel term; 0 is PGD; None is the authors' choice for the loss. Negative: particles farther
            apart than the bandwidth attract.

    Returns:
        The best candidate seen for each image (N, C, H, W); through noise, see `gradient.walk`.
    """
    del particles
    return _ascend(
        oracle,
        x,
        y,
        norm=norm,
        eps=eps,
        rng=rng,
        steps=steps,
        step_size=eps / STEPS_ACROSS if step_size is None else step_size,
        restarts=restarts,
        loss=loss,
        weight=DGF_WEIGHT[loss] if weight is None else weight,
        flow=dgf,
    )


def blob(theta: Tensor, gradient: Tensor) -> Tensor:
    """(K g - q) / B with K_ij = exp(-D_ij / 2h^2), q_i = sum_j K_ij (theta_i - theta_j) / h^2, h^2 = med D / (2 ln B).

    Args:
        theta: Particles (B, d).
        gradient: g, the gradients of their losses (B, d).
    """
    theta = _near_zero(theta)
    squared = _squared_distances(theta)
    middle = _median(squared)
    if middle == 0:  # a particle alone, for which ln B = 0, or all in one place
        return torch.zeros_like(gradient)
    h2 = middle / (2 * math.log(len(theta)))
    kernel = torch.exp(-squared / (2 * h2))
    return (kernel @ gradient - _differences(kernel, theta) / h2) / len(theta)


def dgf(theta: Tensor, gradient: Tensor) -> Tensor:
    """q_i = sum_j (s_ij - 1) exp(-s_ij) (theta_i - theta_j) with s_ij = D_ij / 2h^2, h^2 = med D / (2 ln(B + 1)).

    Args:
        theta: Particles (B, d).
        gradient: Not part of this flow (B, d).
    """
    theta = _near_zero(theta)
    squared = _squared_distances(theta)
    middle = _median(squared)
    if middle == 0:
        return torch.zeros_like(gradient)
    scaled = squared * (math.log(len(theta) + 1) / middle)
    return _differences((scaled - 1) * torch.exp(-scaled), theta)


def _near_zero(theta: Tensor) -> Tensor:
    """The particles, moved together: differences are all that counts, and lose fewest digits there.

    A coordinate on which all agree becomes exactly zero, or the sign of a rounding error would be a step.
    """
    return theta - theta.amin(dim=0)


def _squared_distances(theta: Tensor) -> Tensor:
    products = theta @ theta.T
    lengths = products.diagonal()
    return (lengths[:, None] + lengths - 2 * products).clamp(min=0)


def _median(squared: Tensor) -> Tensor:
    """Of the whole matrix, diagonal included; the mean of the two middle numbers where they are two."""
    ranked = squared.flatten().sort().values
    return (ranked[(len(ranked) - 1) // 2] + ranked[len(ranked) // 2]) / 2


def _differences(kernel: Tensor, theta: Tensor) -> Tensor:
    """sum_j kernel_ij (theta_i - theta_j)."""
    return kernel.sum(dim=1, keepdim=True) * theta - kernel @ theta


def _ascend(
    oracle: Oracle,
    x: Tensor,
    y: Tensor,
    *,
    norm: str,
    eps: float,
    rng: Keys,
    steps: int,
    step_size: float,
    restarts: int,
    loss: str,
    weight: float,
    flow: Flow,
) -> Tensor:
    """PGD on g + weight * flow, in an order that the keys fix: signs are taken of sums that must round alike."""
    by_key = rng.images.argsort(kind="stable")
    order = torch.from_numpy(by_key).to(x.device)
    oracle, rng, x, y = oracle[order], rng[by_key], x[order], y[order]
    geometry, budget, ascend = NORMS[norm], eps * SHRINK, LOSSES[loss]
    best = Best(x, y)
    everyone = torch.arange(len(x), device=x.device)
    size = max(1, oracle.max_rows // oracle.draws)
    pieces = [(piece, oracle[piece]) for piece in torch.split(everyone, size)]
    for restart in range(restarts):
        if len(x) == 0 or (oracle.exact and bool(best.broken.all())):
            break
        delta = geometry.project(x, geometry.start(rng.fold("start", restart), x, budget), budget)
        for _ in range(steps):
            x_adv = (x + delta).clamp(0, 1)
            seen = [near.value_and_grad(x_adv[piece], partial(ascend, y=y[piece])) for piece, near in pieces]
            if oracle.steady:  # see `gradient.walk`
                best.offer(everyone, x_adv, torch.cat([part.logits for part in seen]))
            gradient = torch.cat([part.gradient for part in seen])
            pushed = gradient + weight * flow(x_adv.flatten(1), gradient.flatten(1)).view_as(gradient)
            delta = geometry.project(x, delta + geometry.step(x_adv, pushed, step_size), budget)
        x_adv = (x + delta).clamp(0, 1)
        best.offer(everyone, x_adv, torch.cat([near.logits(x_adv[piece]) for piece, near in pieces]))
    return best.x_adv[order.argsort()]
