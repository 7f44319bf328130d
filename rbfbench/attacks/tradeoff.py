"""Distance plus a constant times the margin: the search for that constant, image by image, in which C&W and EAD agree.

Carlini & Wagner, arXiv 1608.04644, section V; Chen et al., arXiv 1709.04114, section 4.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Protocol

import torch
from torch import Tensor

from rbfbench.attacks.best import Nearest
from rbfbench.attacks.losses import margin
from rbfbench.attacks.oracle import Oracle

GROWTH = 10.0  # of the constant, as long as nothing is misclassified
CHECKS = 10  # times that a descent is asked whether it still gets anywhere
STALLED = 0.9999  # of the last loss: what is not below it is not getting anywhere


class Descent(Protocol):
    """A minimiser of distance + c * hinge for a batch of images."""

    @property
    def point(self) -> Tensor:
        """Where it stands (N, C, H, W), in the box."""

    def penalty(self) -> Tensor:
        """(N,) the distance there, as it is minimised."""

    def step(self, pull: Tensor) -> None:
        """Move, given the gradient `pull` (N, C, H, W) of c * hinge at the point."""

    def narrow(self, going: Tensor) -> None:
        """Go on with the images at positions `going`."""


def search_constant(
    oracle: Oracle,
    nearest: Nearest,
    *,
    start: Callable[[Tensor, Tensor], Descent],
    steps: int,
    search_steps: int,
    initial_c: float,
    kappa: float,
    rescaled: bool,
) -> Tensor:
    """Minimise distance + c * max(kappa - margin, 0) for one constant c after the other, each image with its own.

    The constant grows tenfold until some point is misclassified, and is then halved in between the largest that failed
    and the smallest that did not. Images misclassified by more than kappa in an exact view are their own nearest.

    Args:
        oracle: View of the model for the images of `nearest`.
        nearest: Gathers the nearest point of margin above kappa.
        start: Clean images (k, C, H, W), and the shortest lengths known (k,) -> a descent that starts there.
        steps: Steps of each descent, at most.
        search_steps: Constants tried.
        initial_c: The first one.
        kappa: Margin to reach.
        rescaled: Descents are finer once a length is known: the first success at a constant does not bound the search.

    Returns:
        What `nearest` holds in the end (N, C, H, W).
    """
    x, y = nearest.x, nearest.y
    alive = torch.arange(len(x), device=x.device)
    if oracle.exact:
        alive = alive[margin(oracle.logits(x), y) <= kappa]
    if len(alive) == 0:
        return nearest.x_adv
    near = oracle[alive]
    c = torch.full_like(x[alive, 0, 0, 0], initial_c)
    failed, enough = torch.zeros_like(c), torch.full_like(c, torch.inf)
    for _ in range(search_steps):
        length = nearest.length[alive]
        won = _descend(near, nearest, alive, start(x[alive], length), c, steps=steps, kappa=kappa)
        sure = won & torch.isfinite(length) if rescaled else won
        enough = torch.where(sure, torch.minimum(enough, c), enough)
        failed = torch.where(won, failed, torch.maximum(failed, c))
        c = torch.where(torch.isfinite(enough), (failed + enough) / 2, torch.where(won, c, GROWTH * c))
    return nearest.x_adv


def _descend(
    near: Oracle, nearest: Nearest, alive: Tensor, descent: Descent, c: Tensor, *, steps: int, kappa: float
) -> Tensor:
    """(k,) bool: which of the images at positions `alive` had a point of margin above kappa on their way."""
    won = torch.zeros_like(c, dtype=torch.bool)
    on = torch.arange(len(alive), device=alive.device)  # who is still on the way, of those alive
    before = torch.full_like(c, torch.inf)
    every = max(1, steps // CHECKS)
    for step in range(1, steps + 1):
        labels, x_adv = nearest.y[alive[on]], descent.point
        seen = near.value_and_grad(x_adv, partial(margin, y=labels))
        short = kappa - seen.values
        won[on] |= nearest.take(near, alive[on], x_adv, short < 0, needed=~won[on], kappa=kappa)
        pull = torch.where(short >= 0, -c[on], 0.0).view(-1, 1, 1, 1) * seen.gradient
        if step % every == 0 and near.steady:  # with noise a loss that rose says nothing
            loss = descent.penalty() + c[on] * short.clamp(min=0)
            going = loss <= STALLED * before[on]
            before[on] = loss
            if not going.all():
                left = going.nonzero()[:, 0]
                on, near, pull = on[left], near[left], pull[left]
                descent.narrow(left)
            if len(on) == 0:
                break
        descent.step(pull)
    return won
