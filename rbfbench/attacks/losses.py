"""Losses that attacks raise, one number an image, never averaged: gradients do not depend on the batch."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F


def cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
    """-log softmax_y of logits (N, classes), as (N,)."""
    return F.cross_entropy(logits, y, reduction="none")


def margin(logits: Tensor, y: Tensor) -> Tensor:
    """Best other logit minus the true one, (N,): positive where the image is misclassified (arXiv 1608.04644).

    The true class is masked by -inf; masking by a product would cap the other classes at 0.
    """
    others = logits.scatter(1, y[:, None], -torch.inf)
    return others.amax(1) - logits.gather(1, y[:, None])[:, 0]


LOSSES: dict[str, Callable[..., Tensor]] = {"ce": cross_entropy, "margin": margin}
