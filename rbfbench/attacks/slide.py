"""Sparse l1 descent (SLIDE): steps in the few steepest coordinates that have room."""

from __future__ import annotations

import torch
from torch import Tensor

from rbfbench.attacks.gradient import walk
from rbfbench.attacks.oracle import Oracle
from rbfbench.attacks.rng import Keys

FULL = 0.1  # of a coordinate's part of a step: with less room it is at its bound


def slide(
    oracle: Oracle,
    x: Tensor,
    y: Tensor,
    *,
    norm: str,
    eps: float,
    rng: Keys,
    steps: int = 100,
    step_size: float | None = None,
    quantile: float = 0.99,
    restarts: int = 1,
) -> Tensor:
    """Sparse l1 descent on the margin loss (Tramer and Boneh, arXiv 1904.13000, algorithm 1).

    Every step is projected exactly onto ball and box; the authors project onto the ball and clip, which wastes budget
    on images full of 0 and 1 (arXiv 2103.01208).

    Args:
        oracle: View of the model for these images.
        x: Clean images (N, C, H, W) in [0,1].
        y: (N,) true classes.
        norm: "l1".
        eps: Radius of the ball.
        rng: Keys of these images, for the starts.
        steps: Gradient steps in each restart.
        step_size: l1 length of a step; eps / 20 if None, the authors' 0.5 at eps 10.
        quantile: Of |gradient|: coordinates below it stay where they are.
        restarts: Independent starts.

    Returns:
        The best candidate seen for each image (N, C, H, W); through noise, see `gradient.walk`.
    """
    return walk(
        oracle,
        x,
        y,
        norm=norm,
        eps=eps,
        rng=rng,
        steps=steps,
        step_size=eps / 20 if step_size is None else step_size,
        restarts=restarts,
        random_start=True,
        loss="margin",
        stepper=lambda: lambda x_adv, gradient, size: sparse_step(x_adv, gradient, size, quantile),
    )


def sparse_step(x_adv: Tensor, gradient: Tensor, size: float, quantile: float) -> Tensor:
    """An l1 step of this size, in equal parts along the gradients from the quantile on, coordinates without room aside.

    What the projection takes from a full coordinate is not room again: steps of few coordinates would refill the first
    ones for ever, and never reach the next.

    Args:
        x_adv: Where the step begins (N, C, H, W).
        gradient: There (N, C, H, W).
        size: l1 length; an image without any way up stays.
        quantile: Of |gradient| over each image, the blocked coordinates counting as zero.
    """
    part = size / max(1.0, (1 - quantile) * gradient[0].numel())
    blocked = torch.where(gradient > 0, 1 - x_adv, x_adv) <= FULL * part
    steepness = gradient.abs().masked_fill(blocked, 0).flatten(1)
    least = steepness.quantile(quantile, dim=1, keepdim=True)
    kept = (steepness >= least) & (steepness > 0)  # zeros would take parts, and go nowhere
    direction = gradient.sign() * kept.view_as(gradient)
    return direction * size / direction.abs().sum(dim=(1, 2, 3), keepdim=True).clamp(min=1)
