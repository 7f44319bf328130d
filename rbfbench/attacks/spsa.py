"""SPSA: ascent along slopes measured between pairs of points, for models whose gradients are hidden or mislead."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from rbfbench.attacks.adam import Adam
from rbfbench.attacks.best import Best
from rbfbench.attacks.losses import margin
from rbfbench.attacks.norms import NORMS, SHRINK
from rbfbench.attacks.oracle import Oracle
from rbfbench.attacks.rng import Keys

# What Adam divides by is the root of this. Under linf each coordinate has its own, so that all move alike; under l2 an
# image has one, or the walk would turn from the gradient to its signs, which on the l2 sphere are not the optimum.
SQUARE: dict[str, Callable[[Tensor], Tensor]] = {
    "linf": torch.square,
    "l2": lambda slope: slope.square().sum(dim=(1, 2, 3), keepdim=True),
}


def spsa(
    oracle: Oracle,
    x: Tensor,
    y: Tensor,
    *,
    norm: str,
    eps: float,
    rng: Keys,
    steps: int = 100,
    pairs: int = 64,
    delta: float = 0.01,
    lr: float | None = None,
    queries: int | None = None,
) -> Tensor:
    """Adam on the perturbation along measured slopes of the margin (Uesato et al., arXiv 1802.05666, section 4).

    It sees scores only, no gradients. An image broken in an exact view takes no further steps.

    Args:
        oracle: View of the model for these images.
        x: Clean images (N, C, H, W) in [0,1].
        y: (N,) true classes.
        norm: "linf" or "l2".
        eps: Radius of the ball.
        rng: Keys of these images, for the start and the directions.
        steps: Steps of Adam.
        pairs: Antithetic pairs of points that measure the slope in each step.
        delta: Distance of these points from the middle, in each coordinate.
        lr: Largest length of a lasting step, in the norm; eps / 10 if None.
        queries: Most passes for each image, the last step's pairs cut to fit; as many as the steps take if None.

    Returns:
        The best point of the walk for each image (N, C, H, W); through noise its end, see `gradient.walk`.
    """
    geometry, budget, rate = NORMS[norm], eps * SHRINK, eps / 10 if lr is None else lr
    left = steps * (2 * pairs + 1) + 1 if queries is None else queries
    # The least number in place of Adam's 1e-8, so that the scale of the logits does not matter.
    best, adam = Best(x, y), Adam(x, SQUARE[norm], torch.finfo(x.dtype).tiny)
    alive = torch.arange(len(x), device=x.device)

    point = (x + geometry.project(x, geometry.start(rng.fold("start"), x, budget), budget)).clamp(0, 1)
    best.offer(alive, point, oracle.logits(point))
    left -= 1
    for step in range(steps):
        if oracle.exact:
            going = ~best.broken[alive]
            alive = alive[going]
            adam.narrow(going)
        taken = min(pairs, (left - 1) // 2)  # one pass is kept for the point itself
        if taken < 1 or len(alive) == 0:
            break
        left -= 2 * taken + 1
        near, clean, keys = oracle[alive], x[alive], rng[alive.cpu().numpy()].fold("step", step)
        measured = slope(near, point[alive], y[alive], keys, pairs=taken, delta=delta)
        moved = point[alive] - clean - rate * adam.descent(measured)
        point[alive] = (clean + geometry.project(clean, moved, budget)).clamp(0, 1)
        best.offer(alive, point[alive], near.logits(point[alive]))
    return best.x_adv if oracle.steady else point


def slope(oracle: Oracle, x: Tensor, y: Tensor, rng: Keys, *, pairs: int, delta: float) -> Tensor:
    """The gradient of the margin at x as the mean of difference quotients along random signs (N, C, H, W).

    Points stay in the box, where alone a model is defined: a coordinate without room on one side goes half the way,
    and is divided by the way that it went. For a linear loss with gradient g the mean is g in either case, and away
    from the bounds the expected squared error (d - 1) ||g||^2 / pairs.

    Args:
        oracle: View of the model for these images.
        x: Points (N, C, H, W) in [0,1].
        y: (N,) true classes.
        rng: Keys of these images; each pair has its own.
        pairs: Directions for each image.
        delta: Distance of the points from x in each coordinate, at most.

    Returns:
        Estimates (N, C, H, W).
    """
    total, n = torch.zeros_like(x), len(x)
    at_once = max(1, oracle.room // 2)
    for first in range(0, pairs, at_once):
        count = min(at_once, pairs - first)
        signs = rng.spread(count, np.full(n, first)).signs(tuple(x.shape[1:]), x).view(n, count, *x.shape[1:])
        up, down = ((x[:, None] + way * delta * signs).clamp(0, 1) for way in (1, -1))
        # Side by side, so that the noise a pair sees does not depend on how many pairs fit into a pass.
        values = _margins(oracle, torch.stack([up, down], dim=2).flatten(1, 2), y).view(n, count, 2)
        rise = torch.nan_to_num(values[..., 0] - values[..., 1], nan=0.0, posinf=0.0, neginf=0.0)
        total += (rise[..., None, None, None] / (up - down)).sum(dim=1)
    return total / pairs


def _margins(oracle: Oracle, points: Tensor, y: Tensor) -> Tensor:
    """Margins (N, k) of k points near each image, (N, k, C, H, W), in passes that fit."""
    margins = []
    for part in torch.split(points, oracle.room, dim=1):
        owner = torch.arange(len(points), device=points.device).repeat_interleave(part.shape[1])
        margins.append(margin(oracle[owner].logits(part.flatten(0, 1)), y[owner]).view(len(points), -1))
    return torch.cat(margins, dim=1)
