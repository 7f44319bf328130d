"""Losses that attacks raise, one number an image, never averaged: gradients do not depend on the batch."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

TINY = 1e-12  # keeps a ratio finite where the logits are tied


def cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
    """-log softmax_y of logits (N, classes), as (N,)."""
    return F.cross_entropy(logits, y, reduction="none")


def margin(logits: Tensor, y: Tensor) -> Tensor:
    """Best other logit minus the true one, (N,): positive where the image is misclassified (arXiv 1608.04644).

    The true class is masked by -inf; masking by a product would cap the other classes at 0.
    """
    others = logits.scatter(1, y[:, None], -torch.inf)
    return others.amax(1) - logits.gather(1, y[:, None])[:, 0]


def targeted_margin(logits: Tensor, y: Tensor, target: Tensor) -> Tensor:
    """Logit of the class at `target` (N,) minus the true one, (N,)."""
    return (logits.gather(1, target[:, None]) - logits.gather(1, y[:, None]))[:, 0]


def dlr(logits: Tensor, y: Tensor) -> Tensor:
    """Difference of logits ratio: the margin over the lead of the first class on the third (arXiv 2003.01690, eq. 6).

    Neither a shift nor a positive factor of the logits changes it. Fewer than three classes have no such lead: the
    margin itself then, along whose gradient normalised steps do not depend on a factor either.
    """
    if logits.shape[1] < 3:
        return margin(logits, y)
    first, _, third = logits.topk(3, dim=1).values.unbind(1)
    return margin(logits, y) / (first - third + TINY)


def targeted_dlr(logits: Tensor, y: Tensor, target: Tensor) -> Tensor:
    """Targeted difference of logits ratio, (N,) (arXiv 2003.01690, eq. 7); `targeted_margin` below four classes."""
    lead = targeted_margin(logits, y, target)
    if logits.shape[1] < 4:
        return lead
    first, _, third, fourth = logits.topk(4, dim=1).values.unbind(1)
    return lead / (first - (third + fourth) / 2 + TINY)


def ranked_targets(logits: Tensor, y: Tensor, count: int) -> Tensor:
    """The `count` likeliest classes other than y, likeliest first, (N, k); k is all of them where there are fewer."""
    others = logits.scatter(1, y[:, None], -torch.inf)
    return others.topk(min(count, logits.shape[1] - 1), dim=1).indices


LOSSES: dict[str, Callable[..., Tensor]] = {"ce": cross_entropy, "margin": margin}
