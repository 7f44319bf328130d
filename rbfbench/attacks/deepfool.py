"""DeepFool (Moosavi-Dezfooli et al., arXiv 1511.04599): step onto the nearest linearised border, again and again."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from rbfbench.attacks.best import Nearest
from rbfbench.attacks.losses import margin, ranked_targets, targeted_margin
from rbfbench.attacks.norms import NORMS
from rbfbench.attacks.oracle import Oracle
from rbfbench.attacks.rng import Keys

DUAL = {"linf": "l1", "l2": "l2"}  # the norm of a gradient by which a distance is a gap over a slope
BEYOND = 1e-4  # added to the length of each step, which would else end on the border


def deepfool(
    oracle: Oracle,
    x: Tensor,
    y: Tensor,
    *,
    norm: str,
    eps: float,
    rng: Keys,
    steps: int = 50,
    targets: int = 9,
    overshoot: float = 0.02,
) -> Tensor:
    """Sum steps onto the nearest linearised border until the class changes (algorithm 2; section 3.3 for linf).

    As there, but that the walk keeps to the box and leaves the true class, not the predicted one. A view that does not
    decide like the model ends no walk: beyond the border, the next step leads back to it.

    Args:
        oracle: View of the model for these images.
        x: Clean images (N, C, H, W) in [0,1].
        y: (N,) true classes.
        norm: "linf" or "l2".
        eps: Unused: the nearest candidate is looked for, however far it is.
        rng: Unused, since nothing is random here.
        steps: Steps of each image, at most.
        targets: Classes to look at, in the order of their logits at x.
        overshoot: Share by which the sum of the steps is exceeded.

    Returns:
        The nearest misclassified point seen for each image, or the image (N, C, H, W).
    """
    del eps, rng
    nearest = Nearest(x, y, norm)
    logits = oracle.logits(x)
    classes = ranked_targets(logits, y, targets)
    alive = torch.arange(len(x), device=x.device)
    if oracle.exact:
        alive = alive[margin(logits, y) <= 0]
    total = torch.zeros_like(x)
    x_adv = x.clone()
    for _ in range(steps):
        if len(alive) == 0:
            break
        near, clean = oracle[alive], x[alive]
        move = _to_nearest_border(near, x_adv[alive], y[alive], classes[alive], norm)
        walked = (clean + total[alive] + move).clamp(0, 1) - clean
        total[alive] = walked
        x_adv[alive] = (clean + (1 + overshoot) * walked).clamp(0, 1)
        wins = margin(near.logits(x_adv[alive]), y[alive]) > 0
        wins = nearest.take(near, alive, x_adv[alive], wins)
        if oracle.exact:
            alive = alive[~wins]
    return nearest.x_adv


def _to_nearest_border(near: Oracle, x_adv: Tensor, y: Tensor, classes: Tensor, norm: str) -> Tensor:
    """The step (k, C, H, W) onto the nearest linearised border of y with `classes` (k, targets); back, if beyond."""
    shortest = torch.full_like(x_adv[:, :1, :1, :1], torch.inf)
    move = torch.zeros_like(x_adv)
    for target in classes.unbind(1):
        seen = near.value_and_grad(x_adv, partial(targeted_margin, y=y, target=target))
        gap = (-seen.values / NORMS[DUAL[norm]].length(seen.gradient)).view(-1, 1, 1, 1)
        nearer = gap.isfinite() & (gap < shortest)  # where the model is flat there is no border
        shortest = torch.where(nearer, gap, shortest)
        move = torch.where(nearer, NORMS[norm].step(x_adv, seen.gradient, 1.0) * (gap + BEYOND), move)
    return move
