"""Controls: what an attack that knows nothing reaches, so that luck is not taken for strength."""

from __future__ import annotations

import torch
from torch import Tensor

from rbfbench.attacks.best import Best
from rbfbench.attacks.norms import NORMS, SHRINK
from rbfbench.attacks.oracle import Oracle
from rbfbench.attacks.rng import Keys


def null(oracle: Oracle, x: Tensor, y: Tensor, *, norm: str, eps: float, rng: Keys) -> Tensor:
    """The images themselves: whatever this breaks is noise of the model.

    Args:
        oracle: Not asked.
        x: Clean images (N, C, H, W) in [0,1].
        y: (N,) true classes.
        norm: Not used.
        eps: Not used.
        rng: Not used.

    Returns:
        A copy of x.
    """
    del oracle, y, norm, eps, rng
    return x.clone()


def noise(oracle: Oracle, x: Tensor, y: Tensor, *, norm: str, eps: float, rng: Keys, tries: int = 10) -> Tensor:
    """The best of some uniformly random points of the ball, projected onto the box.

    Args:
        oracle: View of the model for these images; one forward pass a try.
        x: Clean images (N, C, H, W) in [0,1].
        y: (N,) true classes.
        norm: "linf", "l2" or "l1".
        eps: Radius of the ball.
        rng: Keys of these images.
        tries: Random points for each image.

    Returns:
        The best candidate seen for each image (N, C, H, W).
    """
    geometry, budget = NORMS[norm], eps * SHRINK
    best = Best(x, y)
    everyone = torch.arange(len(x), device=x.device)
    for attempt in range(tries):
        delta = geometry.project(x, geometry.start(rng.fold("try", attempt), x, budget), budget)
        x_adv = (x + delta).clamp(0, 1)
        best.offer(everyone, x_adv, oracle.logits(x_adv))
    return best.x_adv
