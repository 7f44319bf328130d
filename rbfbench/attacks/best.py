"""The best candidate of each image, the strongest or the nearest, kept while an attack walks."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from rbfbench.attacks.losses import margin
from rbfbench.attacks.norms import NORMS
from rbfbench.attacks.oracle import Oracle

LOOKS = 2  # by which a view with noise must confirm a point, or the nearest of thousands would be the luckiest


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


class Nearest:
    """For each image the nearest misclassified point that was visited; the image itself until there is one.

    Args:
        x: Clean images (N, C, H, W).
        y: (N,) true classes.
        norm: Norm of the distance.
        measure: (N, C, H, W) -> (N,), another distance in its place.
    """

    def __init__(self, x: Tensor, y: Tensor, norm: str, measure: Callable[[Tensor], Tensor] | None = None) -> None:
        self.x_adv = x.clone()
        self.x = x
        self.y = y
        self.measure = measure or NORMS[norm].length
        self.length = torch.full((len(x),), torch.inf, dtype=x.dtype, device=x.device)

    @property
    def found(self) -> Tensor:
        """(N,) bool: there is such a point."""
        return torch.isfinite(self.length)

    def take(
        self,
        near: Oracle,
        index: Tensor,
        x_adv: Tensor,
        wins: Tensor,
        *,
        needed: Tensor | None = None,
        kappa: float = 0.0,
    ) -> Tensor:
        """Keep winning points if nearer; where the view draws noise, only those that stay so in further looks.

        Args:
            near: View of the model for the images at `index`.
            index: (k,) positions of images.
            x_adv: Points near them (k, C, H, W).
            wins: (k,) bool: whose margin was above kappa.
            needed: (k,) bool: where it matters whether a win holds, though it may not be nearer; nowhere if None.
            kappa: Margin that further looks must find.

        Returns:
            (k,) bool: the wins that hold, of those that are nearer or needed; without noise, all.
        """
        length = self.measure(x_adv - self.x[index])
        nearer = length < self.length[index]
        if not near.steady:
            wins = wins & (nearer if needed is None else nearer | needed)
            for _ in range(LOOKS):
                again = wins.nonzero()[:, 0]
                if len(again):
                    wins[again] = margin(near[again].logits(x_adv[again]), self.y[index[again]]) > kappa
        chosen = wins & nearer
        # Under masks, not positions: to count them would have the host wait for the device at each step.
        self.x_adv[index] = torch.where(chosen.view(-1, 1, 1, 1), x_adv.detach(), self.x_adv[index])
        self.length[index] = torch.where(chosen, length, self.length[index])
        return wins
