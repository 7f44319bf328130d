"""The numbers that a model expects in place of [0,1], and the suspicion that it expects others."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from rbfbench.data.images import Images
from rbfbench.errors import UsageError
from rbfbench.evaluation.load_options import LoadOptions
from rbfbench.evaluation.target import Target
from rbfbench.results.intervals import wilson

IMAGES = 200  # on which other ranges are tried

# What people train on most, by the flags that say it.
SUSPECTS: dict[str, LoadOptions] = {
    "--input-range 0,255": LoadOptions(input_range=(0.0, 255.0)),
    "--input-range=-1,1": LoadOptions(input_range=(-1.0, 1.0)),
    "--mean 0.485,0.456,0.406 --std 0.229,0.224,0.225": LoadOptions(
        mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)
    ),
    "--mean 0.4914,0.4822,0.4465 --std 0.2470,0.2435,0.2616": LoadOptions(
        mean=(0.4914, 0.4822, 0.4465), std=(0.2470, 0.2435, 0.2616)
    ),
    "--mean 0.1307 --std 0.3081": LoadOptions(mean=(0.1307,), std=(0.3081,)),
}


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


def suspected(target: Target, images: Images) -> str:
    """Flags with which a model that is at chance is right more often than chance allows, or "".

    Args:
        target: A model whose accuracy cannot be told from chance.
        images: The images it failed on; the first ones are tried.
    """
    model = target.model
    if target.keyed or isinstance(model, Scaled):
        return ""
    found: dict[str, float] = {}
    head = images.head(IMAGES)
    for flags, options in SUSPECTS.items():
        if len(options.mean or (0.0,)) not in (1, images.shape[0]):
            continue
        try:
            accuracy = _accuracy(Scaled(model, options, images.shape[0]).to(target.device), head, target)
        except Exception:  # noqa: S112  (a foreign model may refuse numbers that are not its own in any way it likes)
            continue
        if wilson(accuracy * len(head), len(head))[0] > 1 / target.n_classes:
            found[flags] = accuracy
    best = max(found, key=lambda flags: found[flags], default="")
    return f"with {best} it is right on {found[best]:.1%} of the first {len(head)}" if best else ""


def _accuracy(model: nn.Module, images: Images, target: Target) -> float:
    right = 0
    with torch.no_grad():
        for start in range(0, len(images), target.max_rows):
            x, y = images.batch(start, start + target.max_rows)
            right += int((model(x.to(target.device)).argmax(1).cpu() == y).sum())
    return right / len(images)
