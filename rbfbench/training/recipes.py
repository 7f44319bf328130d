"""What each recipe trains: one row a recipe, one row of defaults a data set."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A model to train.

    Attributes:
        rbf: Put the RBF and reconstruction layers in front.
        smoothing: Label smoothing; the true class keeps 1 - smoothing of the target (authors' clipping, 0.1).
        about: One line for people.
    """

    rbf: bool
    smoothing: float
    about: str


RECIPES: dict[str, Recipe] = {
    "cnn": Recipe(rbf=False, smoothing=0.0, about="plain classifier, cross-entropy: the undefended baseline"),
    "cnn-ls": Recipe(rbf=False, smoothing=0.1, about="the same with label smoothing: the control for rcnn"),
    "rcnn": Recipe(rbf=True, smoothing=0.1, about="RBF-CNN trained without noise or adversarial examples"),
}


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """Optimisation of one data set's classifier.

    Attributes:
        classifier: Name in `rbfbench.defenses.classifiers.CLASSIFIERS`.
        optimizer: `sgd` (Nesterov, one cycle: linear warm-up, linear decay) or `adam` (cosine decay).
        epochs: Passes over the training images.
        batch: Images a step.
        lr: Peak learning rate.
        weight_decay: L2 factor on all parameters (`sgd`) or none (`adam`).
        shift: Random shifts up to this many pixels, reflected at the border.
        flip: Random horizontal flips.
        contrast: Contrast of an image is multiplied by up to 1 +- this.
        colour: Standard deviation of an offset for each channel.
        shading: Standard deviation of smooth offsets that vary over the image, at most: each image draws its share.
        shading_grid: Side of the grid between whose points those offsets are interpolated.
    """

    classifier: str
    optimizer: Literal["sgd", "adam"]
    epochs: int
    batch: int
    lr: float
    weight_decay: float
    shift: int
    flip: bool
    contrast: float = 0.0
    colour: float = 0.0
    shading: float = 0.0
    shading_grid: int = 8


SCHEDULES: dict[str, Schedule] = {
    "cifar10": Schedule(
        classifier="small",
        optimizer="sgd",
        epochs=10,
        batch=500,
        lr=0.4,
        weight_decay=5e-4,
        shift=2,
        flip=True,
        contrast=0.3,
        colour=0.1,
        shading=0.15,
        shading_grid=16,
    ),
    "mnist": Schedule(
        classifier="mnist-cnn", optimizer="adam", epochs=8, batch=128, lr=1e-3, weight_decay=0.0, shift=0, flip=False
    ),
    "digits": Schedule(
        classifier="digits-cnn", optimizer="adam", epochs=40, batch=64, lr=3e-3, weight_decay=0.0, shift=0, flip=False
    ),
}
