"""Estimators of ART and models of foolbox as what rbfbench attacks: from [0,1] images to logits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn


class Adapted:
    """Answers (N, classes) of another library's model to images (N, C, H, W) in [0,1].

    Args:
        answer: From pixels in the model's own range, on its own device, to logits or whatever it answers.
        bounds: That range.
        device: Where it computes; None where it does not matter.
        weights: Its module, by which it is told from others; None where none can be seen.
    """

    def __init__(
        self,
        answer: Callable[[Tensor], Tensor],
        bounds: tuple[float, float],
        device: torch.device | None,
        weights: nn.Module | None,
    ) -> None:
        self.answer, self.bounds, self.device, self.weights = answer, bounds, device, weights

    def __call__(self, x: Tensor) -> Tensor:
        """Ask about a batch."""
        low, high = self.bounds
        pixels = x if (low, high) == (0.0, 1.0) else low + (high - low) * x
        return self.answer(pixels if self.device is None else pixels.to(self.device)).to(x.device)


def adapted(model: Any) -> Any:  # noqa: ANN401  (whatever a user's factory returns)
    """The model itself, or a callable around it if it comes from ART or foolbox; its own preprocessing is kept.

    Pixels in [0,1] are stretched to the range that the model declares. ART estimators are differentiable where they
    and all that they do before and after the net are written in PyTorch; others are asked for predictions only.
    """
    kinds = {kind.__module__.partition(".")[0] for kind in type(model).__mro__}
    if "art" in kinds and hasattr(model, "predict"):
        return _from_art(model)
    if "foolbox" in kinds:
        low, high = model.bounds
        return Adapted(model, (float(low), float(high)), getattr(model, "device", None), _net_of_foolbox(model))
    return model


def _net_of_foolbox(model: Any) -> nn.Module | None:  # noqa: ANN401
    """The module that a model of foolbox asks: its own, or that of the function which it is wrapped into."""
    inner = getattr(model, "_model", None)
    held = [cell.cell_contents for cell in getattr(inner, "__closure__", None) or ()]
    return next((each for each in (inner, *held) if isinstance(each, nn.Module)), None)


def _from_art(estimator: Any) -> Adapted:  # noqa: ANN401
    low, high = (0.0, 1.0) if estimator.clip_values is None else map(float, map(np.max, estimator.clip_values))
    net = getattr(estimator, "model", None)
    weights = net if isinstance(net, nn.Module) else None
    if _is_torch_throughout(estimator):
        device = torch.device(estimator.device)
        return Adapted(lambda x: estimator._predict_framework(x)[0], (low, high), device, weights)

    def predictions(x: Tensor) -> Tensor:
        answers = estimator.predict(x.detach().cpu().numpy().astype(np.float32))
        return torch.from_numpy(np.asarray(answers, np.float32))

    return Adapted(predictions, (low, high), None, weights)


def _is_torch_throughout(estimator: Any) -> bool:  # noqa: ANN401
    """Whether what the net answers is what the estimator predicts, and gradients pass all that stands before it.

    Not where something is done to predictions, or a subclass predicts in its own way, as randomised smoothing does.
    """
    if not hasattr(estimator, "_predict_framework"):
        return False
    from art.estimators.classification import PyTorchClassifier

    plain = getattr(type(estimator), "predict", None) is PyTorchClassifier.predict
    return plain and bool(estimator.all_framework_preprocessing) and not estimator.postprocessing_defences
