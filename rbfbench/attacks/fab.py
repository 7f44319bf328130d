"""Fast adaptive boundary attack: the nearest adversarial example, by moves onto linearised borders between classes."""

from __future__ import annotations

from functools import partial
from itertools import product

import torch
from torch import Tensor

from rbfbench.attacks.best import Nearest
from rbfbench.attacks.hyperplane import move_to_plane
from rbfbench.attacks.losses import margin, ranked_targets, targeted_margin
from rbfbench.attacks.norms import NORMS
from rbfbench.attacks.oracle import Oracle
from rbfbench.attacks.rng import Keys

SEARCH = 12  # halvings of the way from the image to the candidate, which leave 1/4000 of it
SURE = 1e-4  # of the clean margin must be left beyond the border, so that float32 rounding does not undo it


def fab_t(
    oracle: Oracle,
    x: Tensor,
    y: Tensor,
    *,
    norm: str,
    eps: float,
    rng: Keys,
    steps: int = 100,
    restarts: int = 1,
    targets: int = 9,
    alpha_max: float = 0.1,
    eta: float = 1.05,
    beta: float = 0.9,
) -> Tensor:
    """Targeted FAB (Croce & Hein, arXiv 1907.02044, algorithm 1; targeted as in AutoAttack, arXiv 2003.01690).

    Each step moves the point and the image onto the linearised border between the true class and the target, mixes the
    two with a bias towards the image, and pulls a misclassified point back towards it. The segment from the image to
    the nearest candidate is then searched for the border. Images misclassified in an exact view are their own nearest
    candidates. Models of few classes are served: there are min(targets, classes - 1) targets.

    Args:
        oracle: View of the model for these images.
        x: Clean images (N, C, H, W) in [0,1].
        y: (N,) true classes.
        norm: "linf", "l2" or "l1".
        eps: Unused: the nearest candidate is looked for, however far it is.
        rng: Keys of these images, for the starts after the first, which is the image.
        steps: Moves in each restart.
        restarts: Starts for each target; those after the first are uniform in a ball of half the shortest length known.
        targets: Classes to try, in the order of their logits at x.
        alpha_max: Largest weight of the image in the mix.
        eta: Overshoot of the moves, above 1.
        beta: Share of a misclassified point's perturbation that is kept, below 1.

    Returns:
        The nearest misclassified point of the box seen for each image, or the image (N, C, H, W).
    """
    del eps
    nearest = Nearest(x, y, norm)
    logits = oracle.logits(x)
    everyone = torch.arange(len(x), device=x.device)
    alive = everyone[margin(logits, y) <= 0] if oracle.exact else everyone
    if len(alive) == 0:
        return nearest.x_adv
    near = oracle[alive]
    ranked = ranked_targets(logits, y, targets)[alive]
    for restart, (number, target) in product(range(restarts), enumerate(ranked.unbind(1))):
        keys = rng[alive.cpu().numpy()].fold("start", number, restart)
        x_adv = _start(keys, x[alive], nearest.length[alive], norm) if restart else x[alive]
        loss = partial(targeted_margin, y=y[alive], target=target)
        for step in range(steps):
            seen = near.value_and_grad(x_adv, loss)
            if step:  # pulled back, and perhaps misclassified all the same
                nearest.take(near, alive, x_adv, margin(seen.logits, y[alive]) > 0)
            # Logits that are not numbers say nothing about where the border is.
            gap = torch.nan_to_num(seen.values, nan=0.0, posinf=0.0, neginf=0.0)
            x_adv = _mix(x[alive], x_adv, seen.gradient, gap, norm=norm, alpha_max=alpha_max, eta=eta)
            wins = margin(near.logits(x_adv), y[alive]) > 0
            nearest.take(near, alive, x_adv, wins)
            kept = 1 - (1 - beta) * wins.to(x).view(-1, 1, 1, 1)
            x_adv = (x[alive] + kept * (x_adv - x[alive])).clamp(0, 1)
    _search(oracle, nearest, margin(logits, y).abs())
    return nearest.x_adv


def _start(keys: Keys, x: Tensor, length: Tensor, norm: str) -> Tensor:
    """Uniform in a ball of half the shortest length known, which is at most that of the way to the farthest corner."""
    geometry = NORMS[norm]
    radius = torch.minimum(length, geometry.length(torch.maximum(x, 1 - x))) / 2
    return (x + radius.view(-1, 1, 1, 1) * geometry.start(keys, x, 1.0)).clamp(0, 1)


def _mix(x: Tensor, x_adv: Tensor, w: Tensor, gap: Tensor, *, norm: str, alpha_max: float, eta: float) -> Tensor:
    """From x_adv and from x just beyond the plane <w, . - x_adv> = -gap, and a point between the two (section 2.3)."""
    to_plane = move_to_plane(x_adv, w, -gap, norm)
    from_x = move_to_plane(x, w, ((x_adv - x) * w).flatten(1).sum(dim=1) - gap, norm)
    length, length_from_x = (NORMS[norm].length(move).clamp(min=1e-8) for move in (to_plane, from_x))
    alpha = (length / (length + length_from_x)).clamp(max=alpha_max).view(-1, 1, 1, 1)
    return ((1 - alpha) * (x_adv + eta * to_plane) + alpha * (x + eta * from_x)).clamp(0, 1)


def _search(oracle: Oracle, nearest: Nearest, clean_margin: Tensor) -> None:
    """Halve the way between each image and its candidate, and take what is surely misclassified."""
    where = nearest.found.nonzero()[:, 0]
    if len(where) == 0:
        return
    near, x = oracle[where], nearest.x[where]
    way = nearest.x_adv[where] - x
    low = torch.zeros_like(nearest.length[where])
    high = torch.ones_like(low)
    for _ in range(SEARCH):
        middle = (low + high) / 2
        x_adv = (x + middle.view(-1, 1, 1, 1) * way).clamp(0, 1)
        beyond = margin(near.logits(x_adv), nearest.y[where]) > SURE * clean_margin[where]
        nearest.take(near, where, x_adv, beyond)
        low, high = torch.where(beyond, low, middle), torch.where(beyond, middle, high)
