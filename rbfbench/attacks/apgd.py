"""Auto-PGD: gradient ascent that sets its own step size, on cross-entropy, DLR and targeted DLR."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import product

import torch
from torch import Tensor

from rbfbench.attacks.apgd_rules import RULES, Ascent
from rbfbench.attacks.best import Best
from rbfbench.attacks.losses import cross_entropy, dlr, ranked_targets, targeted_dlr
from rbfbench.attacks.norms import NORMS, SHRINK
from rbfbench.attacks.oracle import Oracle
from rbfbench.attacks.rng import Keys

Loss = Callable[[Tensor, Tensor], Tensor]  # (positions of some images in the batch, their logits) -> (k,)

# (multiple of eps, tenths of the steps): l1 starts in larger balls (arXiv 2103.01208, section 4).
PHASES = {"linf": [(1, 10)], "l2": [(1, 10)], "l1": [(3, 3), (2, 3), (1, 4)]}


def apgd_ce(
    oracle: Oracle, x: Tensor, y: Tensor, *, norm: str, eps: float, rng: Keys, steps: int = 100, restarts: int = 1
) -> Tensor:
    """Auto-PGD on the cross-entropy (Croce & Hein, arXiv 2003.01690, algorithm 1; l1: arXiv 2103.01208).

    Starts are uniform in the ball, projections exact for ball and box. Images broken in an exact view leave at the next
    checkpoint; in any other view everyone stays to the end.

    Args:
        oracle: View of the model for these images.
        x: Clean images (N, C, H, W) in [0,1].
        y: (N,) true classes.
        norm: "linf", "l2" or "l1".
        eps: Radius of the ball.
        rng: Keys of these images, for the starts.
        steps: Gradient steps in each restart; checkpoints follow from it. Under l1 they are shared out: 30% in a ball
            of 3 eps, 30% in one of 2 eps, the rest in that of eps.
        restarts: Independent starts.

    Returns:
        The candidate of largest margin loss seen in the ball for each image (N, C, H, W).
    """

    def loss(where: Tensor, logits: Tensor) -> Tensor:
        return cross_entropy(logits, y[where])

    return _climb(oracle, x, Best(x, y), [loss], norm=norm, eps=eps, rng=rng, steps=steps, restarts=restarts)


def apgd_dlr(
    oracle: Oracle, x: Tensor, y: Tensor, *, norm: str, eps: float, rng: Keys, steps: int = 100, restarts: int = 1
) -> Tensor:
    """Auto-PGD on the difference of logits ratio, which no factor of the logits changes (arXiv 2003.01690, eq. 6).

    With two classes there is no such ratio: the attack then raises the margin.

    Args:
        oracle: View of the model for these images.
        x: Clean images (N, C, H, W) in [0,1].
        y: (N,) true classes.
        norm: "linf", "l2" or "l1".
        eps: Radius of the ball.
        rng: Keys of these images, for the starts.
        steps: Gradient steps in each restart, as in `apgd_ce`.
        restarts: Independent starts.

    Returns:
        The candidate of largest margin loss seen in the ball for each image (N, C, H, W).
    """

    def loss(where: Tensor, logits: Tensor) -> Tensor:
        return dlr(logits, y[where])

    return _climb(oracle, x, Best(x, y), [loss], norm=norm, eps=eps, rng=rng, steps=steps, restarts=restarts)


def apgd_t(
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
) -> Tensor:
    """Auto-PGD towards each of the likeliest wrong classes (arXiv 2003.01690, eq. 7).

    Models of few classes are served: there are min(targets, classes - 1) targets, and with two or three classes the
    targeted margin takes the place of the targeted DLR, which needs four.

    Args:
        oracle: View of the model for these images.
        x: Clean images (N, C, H, W) in [0,1].
        y: (N,) true classes.
        norm: "linf", "l2" or "l1".
        eps: Radius of the ball.
        rng: Keys of these images, for the starts.
        steps: Gradient steps in each restart, as in `apgd_ce`.
        restarts: Independent starts for each target.
        targets: Classes to try, in the order of their logits at x.

    Returns:
        The candidate of largest untargeted margin loss seen in the ball for each image (N, C, H, W).
    """
    best = Best(x, y)
    logits = oracle.logits(x)
    best.offer(torch.arange(len(x), device=x.device), x, logits)

    def towards(target: Tensor) -> Loss:
        return lambda where, logits: targeted_dlr(logits, y[where], target[where])

    losses = [towards(target) for target in ranked_targets(logits, y, targets).unbind(1)]
    return _climb(oracle, x, best, losses, norm=norm, eps=eps, rng=rng, steps=steps, restarts=restarts)


def _climb(
    oracle: Oracle,
    x: Tensor,
    best: Best,
    losses: Sequence[Loss],
    *,
    norm: str,
    eps: float,
    rng: Keys,
    steps: int,
    restarts: int,
) -> Tensor:
    """Ascend each loss from each start, with the images that are not broken yet."""
    geometry = NORMS[norm]
    everyone = torch.arange(len(x), device=x.device)
    for (number, loss), restart in product(enumerate(losses), range(restarts)):
        alive = everyone[~best.broken] if oracle.exact else everyone
        if len(alive) == 0:
            break
        budgets = [multiple * eps * SHRINK for multiple, _ in PHASES[norm]]
        lengths = [tenths * steps // 10 for _, tenths in PHASES[norm]]
        lengths[-1] += steps - sum(lengths)
        keys = rng[alive.cpu().numpy()].fold("start", number, restart)
        delta = geometry.start(keys, x[alive], budgets[0])
        for phase, (budget, length) in enumerate(zip(budgets, lengths, strict=True), start=1):
            ascent = Ascent.start(alive, x[alive], geometry.project(x[alive], delta, budget))
            # Points outside the ball of eps are no candidates.
            watch = best if phase == len(budgets) else None
            _ascend(oracle, ascent, loss, watch, norm=norm, budget=budget, steps=length)
            delta = ascent.best_delta
    return best.x_adv


def _ascend(
    oracle: Oracle, ascent: Ascent, loss: Loss, best: Best | None, *, norm: str, budget: float, steps: int
) -> None:
    """One ascent; where `best` watches an exact view, images that it knows to be broken leave at checkpoints."""
    near = oracle[ascent.where]
    rule = RULES[norm].start(norm, budget, ascent)
    checkpoints = rule.checkpoints(steps)
    for step in range(steps):
        x_adv = ascent.x_adv
        seen = near.value_and_grad(x_adv, partial(loss, ascent.where))
        if best:
            best.offer(ascent.where, x_adv, seen.logits)
        ascent.see(seen.values, seen.gradient)
        if step in checkpoints:
            rule.check(ascent, checkpoints[step])
            if best and oracle.exact:
                alive = ~best.broken[ascent.where]
                near = near[alive]
                ascent.keep(alive)
                rule.keep(alive)
                if len(near) == 0:
                    return
        rule.advance(ascent, first=step == 0)
    x_adv = ascent.x_adv
    logits = near.logits(x_adv)
    if best:
        best.offer(ascent.where, x_adv, logits)
    ascent.see(loss(ascent.where, logits), ascent.gradient)
