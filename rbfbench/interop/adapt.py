"""Estimators of ART and models of foolbox as what rbfbench attacks: from [0,1] images to logits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

Model = Callable[[Tensor], Tensor]


def adapted(model: Any) -> Any:  # noqa: ANN401  (whatever a user's factory returns)
    """The model itself, or a callable around it if it comes from ART or foolbox; its own preprocessing is kept.

    Pixels in [0,1] are stretched to the range that the model declares. ART estimators are differentiable where they
    and their preprocessing are written in PyTorch; others are asked for predictions only.
    """
    kinds = {kind.__module__.partition(".")[0] for kind in type(model).__mro__}
    if "art" in kinds and hasattr(model, "predict"):
        return _from_art(model)
    if "foolbox" in kinds:
        low, high = model.bounds
        return _stretched(model, float(low), float(high))
    return model


def _stretched(model: Model, low: float, high: float) -> Model:
    if (low, high) == (0.0, 1.0):
        return lambda x: model(x)
    return lambda x: model(low + (high - low) * x)


def _from_art(estimator: Any) -> Model:  # noqa: ANN401
    low, high = (0.0, 1.0) if estimator.clip_values is None else map(float, map(np.max, estimator.clip_values))
    if hasattr(estimator, "_predict_framework") and estimator.all_framework_preprocessing:
        return _stretched(lambda x: estimator._predict_framework(x)[0], low, high)

    def predictions(x: Tensor) -> Tensor:
        answers = estimator.predict(x.detach().cpu().numpy().astype(np.float32))
        return torch.from_numpy(np.asarray(answers, np.float32)).to(x.device)

    return _stretched(predictions, low, high)
