"""RBF-CNN as a model of foolbox. Importing this page imports foolbox."""

from __future__ import annotations

import os
from typing import Any

os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")  # foolbox imports GitPython, which wants a git program

from foolbox.models.pytorch import PyTorchModel

from rbfbench.defenses.rbfcnn import RBFCNN
from rbfbench.interop.viewed import Viewed


class RBFCNNModel(PyTorchModel):
    """The decision by m noisy runs, with the gradients of a view; tensors stay on their device.

    Args:
        model: An RBF-CNN, as `rbfbench.load_model("rcnn+", "mnist")` gives it.
        view: Whose gradients attacks follow, see `Viewed`.
        draws: Draws averaged in each look of the views "eot" and "bpda-eot".
        others: Arguments of foolbox's PyTorchModel; bounds are (0, 1) by default.
    """

    def __init__(self, model: RBFCNN, *, view: str = "eot", draws: int = 20, **others: Any) -> None:  # noqa: ANN401
        super().__init__(Viewed(model, view, draws).eval(), **({"bounds": (0, 1)} | others))
