"""A model that expects other numbers than [0,1]."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from rbfbench.errors import UsageError
from rbfbench.evaluation.load_options import LoadOptions


class Scaled(nn.Module):
    """A model that gets (low + (high - low) x - mean) / std for images x (N, C, H, W) in [0,1].

    Args:
        model: From what it expects to logits.
        options: `input_range`, `mean` and `std`, one number or one a channel.
        channels: Channels of the images.

    Raises:
        UsageError: Another number of channels, or a standard deviation that is not positive.
    """

    low: Tensor
    spread: Tensor
    mean: Tensor
    std: Tensor

    def __init__(self, model: Callable[[Tensor], Tensor], options: LoadOptions, channels: int) -> None:
        super().__init__()
        self.model = model
        low, high = options.input_range or (0.0, 1.0)
        mean, std = options.mean or (0.0,), options.std or (1.0,)
        for flag, values in (("--mean", mean), ("--std", std)):
            if len(values) not in (1, channels):
                raise UsageError(
                    f"{flag} has {len(values)} numbers", f"the images have {channels} channels", "give one for each"
                )
        for name, values in (("low", (low,)), ("spread", (high - low,)), ("mean", mean), ("std", std)):
            self.register_buffer(name, torch.tensor(values).view(-1, 1, 1))

    @property
    def stochastic(self) -> bool | None:
        """What the model says of itself."""
        return getattr(self.model, "stochastic", None)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of images in [0,1]."""
        return self.model((self.low + self.spread * x - self.mean) / self.std)
