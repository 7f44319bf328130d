"""Adam for a batch of images that start, restart and finish on their own (Kingma & Ba, arXiv 1412.6980)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

MEAN, SQUARE = 0.9, 0.999  # decay of the two moments


class Adam:
    """The moments of each image, and how many steps they hold.

    Args:
        like: (N, C, H, W), the shape, dtype and device of what is optimised.
        squared: What the second moment is of, for another than each coordinate's own.
        tiny: Keeps the ratio of the moments finite.
    """

    def __init__(self, like: Tensor, squared: Callable[[Tensor], Tensor] = torch.square, tiny: float = 1e-8) -> None:
        self.squared, self.tiny = squared, tiny
        self.mean = torch.zeros_like(like)
        self.square = torch.zeros_like(squared(like))
        self.taken = torch.zeros_like(like[:, :1, :1, :1])

    def descent(self, gradient: Tensor) -> Tensor:
        """The way down along `gradient` (N, C, H, W), for a step size of one."""
        self.taken += 1
        self.mean.lerp_(gradient, 1 - MEAN)
        self.square.mul_(SQUARE).add_(self.squared(gradient), alpha=1 - SQUARE)
        mean = self.mean / (1 - MEAN**self.taken)
        square = self.square / (1 - SQUARE**self.taken)
        return -mean / (square.sqrt() + self.tiny)

    def narrow(self, going: Tensor) -> None:
        """Keep the images at `going`, a mask or positions."""
        self.mean, self.square, self.taken = self.mean[going], self.square[going], self.taken[going]

    def restart(self, where: Tensor) -> None:
        """Forget what was gathered for the images where the mask (N, 1, 1, 1) is set."""
        kept = (~where).to(self.taken)
        self.mean *= kept
        self.square *= kept
        self.taken *= kept
