"""FGSM, PGD on either loss, MI-FGSM, and the walk that all iterated attacks on gradients share."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from rbfbench.attacks.best import Best
from rbfbench.attacks.losses import LOSSES
from rbfbench.attacks.norms import NORMS, SHRINK
from rbfbench.attacks.oracle import Oracle
from rbfbench.attacks.rng import Keys

Step = Callable[[Tensor, Tensor, float], Tensor]  # (x_adv, gradient, size) -> ascent


def fgsm(oracle: Oracle, x: Tensor, y: Tensor, *, norm: str, eps: float, rng: Keys, loss: str = "ce") -> Tensor:
    """One step to the maximiser of the linearised loss over ball and box (Goodfellow et al., arXiv 1412.6572).

    Args:
        oracle: View of the model for these images.
        x: Clean images (N, C, H, W) in [0,1].
        y: (N,) true classes.
        norm: "linf", "l2" or "l1".
        eps: Radius of the ball, in units of the norm on [0,1] pixels.
        rng: Keys of these images; unused, since nothing is random here.
        loss: "ce" or "margin".

    Returns:
        Candidates (N, C, H, W); success is for the verifier to judge.
    """
    del rng
    gradient = oracle.value_and_grad(x, partial(LOSSES[loss], y=y)).gradient
    return (x + NORMS[norm].linear_optimum(x, gradient, eps * SHRINK)).clamp(0, 1)


def pgd(
    oracle: Oracle,
    x: Tensor,
    y: Tensor,
    *,
    norm: str,
    eps: float,
    rng: Keys,
    steps: int = 40,
    step_size: float | None = None,
    restarts: int = 1,
    random_start: bool = True,
    loss: str = "ce",
) -> Tensor:
    """Projected gradient ascent from random points of the ball (Madry et al., arXiv 1706.06083, section 2.1).

    l1 steps are spread over 1% of the coordinates (SLIDE, arXiv 1904.13000). Projections are exact for ball and box.
    Images broken in an exact view take no part in later restarts.

    Args:
        oracle: View of the model for these images.
        x: Clean images (N, C, H, W) in [0,1].
        y: (N,) true classes.
        norm: "linf", "l2" or "l1".
        eps: Radius of the ball.
        rng: Keys of these images, for the starts.
        steps: Gradient steps in each restart.
        step_size: Length of a step in the norm; 2.5 * eps / steps if None.
        restarts: Independent starts.
        random_start: Start uniformly in the ball; else at x.
        loss: "ce" or "margin".

    Returns:
        The best candidate seen for each image (N, C, H, W); through noise, see `walk`.
    """
    return walk(
        oracle,
        x,
        y,
        norm=norm,
        eps=eps,
        rng=rng,
        steps=steps,
        step_size=2.5 * eps / steps if step_size is None else step_size,
        restarts=restarts,
        random_start=random_start,
        loss=loss,
        stepper=lambda: NORMS[norm].step,
    )


def cw(
    oracle: Oracle,
    x: Tensor,
    y: Tensor,
    *,
    norm: str,
    eps: float,
    rng: Keys,
    steps: int = 100,
    step_size: float | None = None,
    restarts: int = 1,
) -> Tensor:
    """Projected gradient ascent on the margin of Carlini and Wagner (arXiv 1608.04644), as in tables of linf attacks.

    Their loss under the walk of `pgd` (arXiv 1706.06083, section 5); they look for the nearest adversarial example
    instead. The loss is not capped where a margin is wide: a cap would only take the gradient from such images.

    Args:
        oracle: View of the model for these images.
        x: Clean images (N, C, H, W) in [0,1].
        y: (N,) true classes.
        norm: "linf".
        eps: Radius of the ball.
        rng: Keys of these images, for the starts.
        steps: Gradient steps in each restart.
        step_size: Length of a step; 2.5 * eps / steps if None.
        restarts: Independent starts.

    Returns:
        The best candidate seen for each image (N, C, H, W); through noise, see `walk`.
    """
    return pgd(
        oracle,
        x,
        y,
        norm=norm,
        eps=eps,
        rng=rng,
        steps=steps,
        step_size=step_size,
        restarts=restarts,
        loss="margin",
    )


def mi_fgsm(
    oracle: Oracle,
    x: Tensor,
    y: Tensor,
    *,
    norm: str,
    eps: float,
    rng: Keys,
    steps: int = 10,
    decay: float = 1.0,
    loss: str = "ce",
) -> Tensor:
    """Iterated FGSM along accumulated l1-normalised gradients, from x (Dong et al., arXiv 1710.06081, eqs. 6-7).

    Args:
        oracle: View of the model for these images.
        x: Clean images (N, C, H, W) in [0,1].
        y: (N,) true classes.
        norm: "linf", "l2" or "l1".
        eps: Radius of the ball; steps have length eps / steps.
        rng: Keys of these images; the walk starts at x and draws nothing.
        steps: Gradient steps.
        decay: Factor on the accumulated gradient; 0 is iterated FGSM.
        loss: "ce" or "margin".

    Returns:
        The best candidate seen for each image (N, C, H, W); through noise, see `walk`.
    """
    return walk(
        oracle,
        x,
        y,
        norm=norm,
        eps=eps,
        rng=rng,
        steps=steps,
        step_size=eps / steps,
        restarts=1,
        random_start=False,
        loss=loss,
        stepper=momentum_stepper(norm, decay),
    )


def momentum_stepper(norm: str, decay: float) -> Callable[[], Step]:
    """Steps along accumulated l1-normalised gradients; a new accumulation each time it is called (eqs. 6-7 there)."""

    def start() -> Step:
        momentum: Tensor | None = None

        def step(x_adv: Tensor, gradient: Tensor, size: float) -> Tensor:
            nonlocal momentum
            length = gradient.abs().sum(dim=(1, 2, 3), keepdim=True)
            unit = gradient / length.clamp(min=torch.finfo(gradient.dtype).tiny)  # a zero gradient stays zero, not NaN
            momentum = unit if momentum is None else decay * momentum + unit
            return NORMS[norm].step(x_adv, momentum, size)

        return step

    return start


def walk(
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
    random_start: bool,
    loss: str,
    stepper: Callable[[], Step],
) -> Tensor:
    """Step and project, again and again, keeping the best point of each image over all steps and restarts.

    Through noise only the ends of the walks are compared: of many points seen by few draws each, the best would be the
    luckiest, which new draws find weaker than the end.
    """
    geometry, budget, ascend = NORMS[norm], eps * SHRINK, LOSSES[loss]
    best = Best(x, y)
    everyone = torch.arange(len(x), device=x.device)
    for restart in range(restarts):
        alive = everyone[~best.broken] if oracle.exact else everyone
        if len(alive) == 0:
            break
        near, clean, labels = oracle[alive], x[alive], y[alive]
        delta = torch.zeros_like(clean)
        if random_start:
            keys = rng[alive.cpu().numpy()].fold("start", restart)
            delta = geometry.project(clean, geometry.start(keys, clean, budget), budget)
        step = stepper()  # a new one for each restart: momentum starts at rest
        for _ in range(steps):
            x_adv = (clean + delta).clamp(0, 1)
            seen = near.value_and_grad(x_adv, partial(ascend, y=labels))
            if near.steady:
                best.offer(alive, x_adv, seen.logits)
            delta = geometry.project(clean, delta + step(x_adv, seen.gradient, step_size), budget)
        x_adv = (clean + delta).clamp(0, 1)
        best.offer(alive, x_adv, near.logits(x_adv))
    return best.x_adv
