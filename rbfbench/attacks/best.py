"""The best candidate of each image, kept while an attack walks."""

from __future__ import annotations

import torch
from torch import Tensor

from rbfbench.attacks.losses import margin


class Best:
    """For each image the visited point of largest margin loss, so that a point once misclassified is never lost.

    Args:
        x: Clean images (N, C, H, W), the candidates until something better is offered.
        y: (N,) true classes.
    """

    def __init__(self, x: Tensor, y: Tensor) -> None:
        self.x_adv = x.clone()
        self.y = y
        self.margin = torch.full((len(x),), -torch.inf, dtype=x.dtype, device=x.device)

    @property
    def broken(self) -> Tensor:
        """(N,) bool: misclassified in the view that the attack was given."""
        return self.margin > 0

    def offer(self, index: Tensor, x_adv: Tensor, logits: Tensor) -> None:
        """Offer points x_adv (k, C, H, W) with their logits for the images at positions `index` (k,)."""
        found = margin(logits, self.y[index])
        better = found > self.margin[index]
        where = index[better]
        self.x_adv[where] = x_adv[better].detach()
        self.margin[where] = found[better].to(self.margin.dtype)
