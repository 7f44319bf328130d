"""RBF-CNN as an estimator of the Adversarial Robustness Toolbox. Importing this page imports ART."""

from __future__ import annotations

from typing import Any

from art.estimators.classification import PyTorchClassifier
from torch import nn

from rbfbench.defenses.rbfcnn import RBFCNN
from rbfbench.interop.viewed import Viewed


class RBFCNNClassifier(PyTorchClassifier):  # type: ignore[misc]
    """`predict` is the decision by m noisy runs; loss and class gradients are those of a view.

    Everything else, pre- and postprocessing, saving and pickling included, is as in ART's own PyTorch classifier.

    Args:
        model: An RBF-CNN, as `rbfbench.load_model("rcnn+", "mnist")` gives it.
        input_shape: (C, H, W).
        nb_classes: Classes.
        view: Whose gradients attacks follow, see `Viewed`.
        draws: Draws averaged in each look of the views "eot" and "bpda-eot".
        others: Arguments of ART's PyTorchClassifier; the loss is the cross-entropy and pixels lie in [0,1] by default.
    """

    def __init__(
        self,
        model: RBFCNN,
        input_shape: tuple[int, ...],
        nb_classes: int,
        *,
        view: str = "eot",
        draws: int = 20,
        **others: Any,  # noqa: ANN401
    ) -> None:
        defaults = {"loss": nn.CrossEntropyLoss(), "clip_values": (0.0, 1.0)}
        viewed = Viewed(model, view, draws)
        super().__init__(model=viewed, input_shape=input_shape, nb_classes=nb_classes, **(defaults | others))
