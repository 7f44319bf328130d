"""A model behind an input transformation of ART, attacked by backward pass differentiable approximation.

The transformation computes in NumPy, so no gradient passes it: forward as the defence is, backward through a stand-in
(arXiv 1802.00420). For JPEG compression, which hardly moves its input, that is the identity; for the median it is the
median itself, written with torch, whose gradient is that of the one pixel that it picks.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rbfbench.attacks.bpda import bpda
from rbfbench.defenses import is_purifier
from rbfbench.defenses.rbf import Keys

Step = Callable[[Tensor], Tensor]


class Defended(nn.Module):
    """Logits (N, classes) of transformed images (N, C, H, W) in [0,1].

    Args:
        model: From images in [0,1] to logits.
        step: The transformation, differentiated as its stand-in.
    """

    approximated = True  # what gradients see is a stand-in

    def __init__(self, model: Callable[[Tensor], Tensor], step: Step) -> None:
        super().__init__()
        self.model, self.step = model, step

    @property
    def stochastic(self) -> bool | None:
        """What the model says of itself."""
        return getattr(self.model, "stochastic", None)

    def forward(self, x: Tensor) -> Tensor:
        """The decision on transformed images."""
        return self.model(self.step(x))


class DefendedPurifier(Defended):
    """The same in front of a model that purifies its input itself; its parts stay apart, and its noise keyed."""

    model: Any

    @property
    def config(self) -> Any:  # noqa: ANN401  (the model's own constants)
        """Constants of the model."""
        return self.model.config

    def front(self, x: Tensor, keys: Keys | None = None, *, draws: int = 1) -> Tensor:
        """As the model's, of transformed images."""
        images: Tensor = self.model.front(self.step(x), keys, draws=draws)
        return images

    def front_static(self, x: Tensor) -> Tensor:
        """As the model's, of transformed images."""
        images: Tensor = self.model.front_static(self.step(x))
        return images

    def classify(self, images: Tensor) -> Tensor:
        """As the model's."""
        logits: Tensor = self.model.classify(images)
        return logits


def defended(model: Callable[[Tensor], Tensor], name: str, value: int) -> Defended:
    """A model behind one of `PREPROCESSINGS`.

    Args:
        model: From images (N, C, H, W) in [0,1] to logits.
        name: "art:jpeg" or "art:spatial-smoothing".
        value: Quality of the compression, or odd width of the window.
    """
    step = _jpeg(value) if name == "art:jpeg" else _smoothing(value)
    return DefendedPurifier(model, step) if is_purifier(model) else Defended(model, step)


def _jpeg(quality: int) -> Step:
    from art.defences.preprocessor import JpegCompression

    return bpda(_in_numpy(JpegCompression((0.0, 1.0), quality, channels_first=True)), lambda x: x)


def _smoothing(window: int) -> Step:
    from art.defences.preprocessor import SpatialSmoothing

    return bpda(_in_numpy(SpatialSmoothing(window, channels_first=True)), lambda x: median(x, window))


def _in_numpy(preprocessor: Callable[..., Any]) -> Step:
    def step(x: Tensor) -> Tensor:
        made = preprocessor(x.detach().cpu().numpy().astype(np.float32, copy=False))[0]
        return torch.from_numpy(np.ascontiguousarray(made)).to(x)

    return step


def median(x: Tensor, window: int) -> Tensor:
    """The median over an odd window around each pixel, edges mirrored with the edge itself; (N, C, H, W)."""
    for axis in (2, 3):
        size, reach = x.shape[axis], window // 2
        position = torch.arange(-reach, size + reach, device=x.device) % (2 * size)
        x = x.index_select(axis, torch.minimum(position, 2 * size - 1 - position))
    return x.unfold(2, window, 1).unfold(3, window, 1).flatten(4).median(dim=4).values
