"""What to make of attacks that look for the nearest adversarial example: honest under a budget, and beyond it."""

from __future__ import annotations

import torch
from torch import Tensor

from rbfbench.attacks.norms import NORMS, SHRINK
from rbfbench.attacks.rng import Keys
from rbfbench.evaluation.target import Target
from rbfbench.evaluation.verify import float64, leaning, within_budget


def candidates_within(
    target: Target, x: Tensor, nearest: Tensor, y: Tensor, *, norm: str, eps: float, keys: Keys, passes: int
) -> Tensor:
    """Candidates in ball and box, from the nearest adversarial examples that an attack found.

    One that lies too far away is projected; whether that still fools the model is for the verifier to find out. The
    nearest example is at the border, where rounding to 8 bits or the noise of a random model takes it back: the same
    direction, followed up to eps, is a second candidate. Decisions that score nothing choose between the two.

    Args:
        target: The model.
        x: Clean images (N, C, H, W).
        nearest: What the attack returned for them; the image itself where it found nothing.
        y: (N,) true classes.
        norm: Norm of the budget.
        eps: The budget.
        keys: (N,) keys of the choice.
        passes: Decisions of a random model that choose.
    """
    geometry, budget = NORMS[norm], eps * SHRINK
    lost = ~torch.isfinite(nearest).flatten(1).all(1)
    delta = torch.nan_to_num(nearest - x)
    inside, _ = within_budget(x, nearest, norm, eps)
    projected = (x + geometry.project(x, delta, budget)).clamp(0, 1)
    candidates = torch.where(inside[:, None, None, None], nearest, projected)
    length = geometry.length(delta)
    longer = delta * (budget / length.clamp(min=1e-12)).clamp(min=1)[:, None, None, None]
    extended = (x + geometry.project(x, longer, budget)).clamp(0, 1)
    near, far = (
        leaning(target.decide(points, keys.fold(name), passes), y)
        for name, points in (("near", candidates), ("far", extended))
    )
    chosen = torch.where((far < near).to(x.device)[:, None, None, None], extended, candidates)
    return torch.where(lost[:, None, None, None], nearest, chosen)  # for the verifier to call invalid


def verified_distance(
    target: Target, x: Tensor, found: tuple[Tensor, ...], y: Tensor, *, norm: str, keys: Keys
) -> Tensor:
    """(N,) float64 length of the shortest of the points found that the model gets wrong; inf where it gets all right.

    Of a model that always answers alike: through noise the nearest point lies at the border, where half of all
    decisions take it back, and its length would say more of luck than of the model.

    Args:
        target: The model, deterministic, asked in eval mode as a user would ask it.
        x: Clean images (N, C, H, W).
        found: Points near them, each (N, C, H, W).
        y: (N,) true classes.
        norm: Norm of the distance.
        keys: (N,) keys of these decisions.
    """
    distance = torch.full_like(float64(y), torch.inf)
    for i, points in enumerate(found):
        valid, lengths = within_budget(x, points, norm, torch.inf)
        shown = torch.where(valid[:, None, None, None], points, x)
        logits = target.decide(shown, keys.fold("point", i))[0]
        wrong = (logits.argmax(1) != y) & torch.isfinite(logits).all(1)
        counts = wrong & valid.to(wrong.device)
        distance = torch.where(counts, torch.minimum(distance, lengths[norm]), distance)
    return distance
