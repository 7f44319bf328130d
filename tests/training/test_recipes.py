"""The tables of recipes against the paper and the authors' scripts, and the refusal of constants without meaning."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest

from rbfbench.defenses import PRESET_NAMES
from rbfbench.defenses.classifiers import CLASSIFIERS
from rbfbench.defenses.em import EM_PRESETS, EMConfig
from rbfbench.errors import UsageError
from rbfbench.training.recipes import (
    ADVERSARIES,
    DATASETS,
    LIGHT,
    NOISES,
    RECIPES,
    SCHEDULES,
    Adversary,
    Noise,
    Recipe,
    Schedule,
    adversary_of,
    noise_of,
    schedule_of,
)


# The rows -------------------------------------------------------------------------------------------------------------
def test_each_defence_has_its_control_with_the_same_targets_and_noise() -> None:
    rows = {name: (recipe.rbf, recipe.smoothing, recipe.source) for name, recipe in RECIPES.items()}
    assert rows == {
        "cnn": (False, 0.0, None),
        "cnn-ls": (False, 0.1, None),
        "cnn-ls-noise": (False, 0.1, "cnn-ls"),
        "madry": (False, 0.0, None),
        "fast": (False, 0.0, None),
        "trades": (False, 0.0, None),
        "rcnn": (True, 0.1, None),
        "rcnn+": (True, 0.1, "rcnn"),
    }
    for recipe in RECIPES.values():
        if recipe.source:
            source = RECIPES[recipe.source]
            assert (source.rbf, source.smoothing, source.source) == (recipe.rbf, recipe.smoothing, None)


def row(preset: str, dataset: str, recipe: str) -> dict[str, Any]:
    """Schedule and noise of a training, as one flat dictionary."""
    schedule, noise = schedule_of(preset, dataset, RECIPES[recipe]), noise_of(preset, dataset, RECIPES[recipe])
    return vars(schedule) | ({} if noise is None else {f"noise.{name}": value for name, value in vars(noise).items()})


NO_AUGMENTATION = {"shift": 0, "contrast": 0, "colour": 0, "shading": 0}
AUTHORS_MNIST: dict[str, Any] = NO_AUGMENTATION | {
    "classifier": "mnist-cnn",
    "optimizer": "adam",
    "policy": "halving",
    "epochs": 150,
    "batch": 128,
    "lr": 1e-3,
    "halve_every": 20,
    "lr_least": 1e-6,
    "lr_then": None,
    "fade": 1e-6,
    "weight_decay": 0,
    "flip": False,
}
AUTHORS_CIFAR: dict[str, Any] = NO_AUGMENTATION | {
    "classifier": "vgg16",
    "optimizer": "sgd",
    "policy": "halving",
    "epochs": 50,
    "batch": 128,
    "lr": 0.1,
    "halve_every": 10,
    "fade": 0,
    "weight_decay": 1e-3,  # of 5e-4 w^2
    "decay_on": "kernels",
    "flip": True,
}
AUTHORS_MNIST_NOISE = {
    "noise.copies": 30,
    "noise.gaussian_std": 0.35,
    "noise.gaussian_bound_low": 0.15,
    "noise.gaussian_bound": 0.4,
    "noise.adversarial_eps": 0.3,
    "noise.stored": None,
    "noise.made_at": None,
    "noise.pairing": "mismatched",
    "noise.rotate": 25,
    "noise.shift": 0.25,
    "noise.flip": True,
}
AUTHORS_CIFAR_NOISE = AUTHORS_MNIST_NOISE | {
    "noise.gaussian_std": 0.03,
    "noise.gaussian_bound_low": 0.005,
    "noise.gaussian_bound": 0.03,
    "noise.adversarial_eps": 0.05,
    "noise.rotate": 0,
    "noise.shift": 0,
}
PAPER_MNIST_NOISE = {
    "noise.gaussian_std": 0.35,
    "noise.gaussian_bound": 0.3,
    "noise.gaussian_bound_low": None,
    "noise.adversarial_eps": 0.3,
    "noise.stored": None,
    "noise.made_at": 25,
    "noise.pairing": "mismatched",  # "randomly add this adversarial noise"
}
PAPER_CIFAR_NOISE = PAPER_MNIST_NOISE | {
    "noise.gaussian_std": 0.05,
    "noise.gaussian_bound": 0.03,
    "noise.adversarial_eps": 0.03,
    "noise.made_at": 200,
}
WRITTEN: dict[tuple[str, str, str], dict[str, Any]] = {
    ("authors", "mnist", "rcnn"): AUTHORS_MNIST,
    ("authors", "mnist", "rcnn+"): AUTHORS_MNIST | AUTHORS_MNIST_NOISE | {"halve_every": 25},
    ("authors", "cifar10", "rcnn"): AUTHORS_CIFAR,
    ("authors", "cifar10", "rcnn+"): AUTHORS_CIFAR
    | AUTHORS_CIFAR_NOISE
    | {"epochs": 450, "batch": 68, "lr": 1e-5, "lr_least": 1e-6, "lr_then": 1e-5},
    ("paper", "mnist", "rcnn"): {"classifier": "mnist-cnn", "epochs": 100},
    ("paper", "mnist", "rcnn+"): {"classifier": "mnist-cnn", "epochs": 100} | PAPER_MNIST_NOISE,
    ("paper", "cifar10", "rcnn"): {"classifier": "vgg16", "epochs": 600},
    ("paper", "cifar10", "rcnn+"): {"classifier": "vgg16", "epochs": 600} | PAPER_CIFAR_NOISE,
    # The paper's Gaussian, noise of another image
    ("default", "mnist", "rcnn+"): {
        "noise.gaussian_std": 0.35,
        "noise.gaussian_bound": 0.3,
        "noise.gaussian_bound_low": None,
        "noise.pairing": "mismatched",
        "noise.made_at": None,
    },
    ("default", "cifar10", "rcnn+"): {
        "noise.gaussian_std": 0.05,
        "noise.gaussian_bound": 0.03,
        "noise.gaussian_bound_low": None,
        "noise.pairing": "mismatched",
        "noise.made_at": None,
    },
}


@pytest.mark.parametrize(("preset", "dataset", "recipe"), WRITTEN)
def test_what_paper_and_scripts_say_stands_in_the_table(preset: str, dataset: str, recipe: str) -> None:
    got = row(preset, dataset, recipe)
    expected = WRITTEN[preset, dataset, recipe]
    assert {name: got[name] for name in expected} == expected
    control = row(preset, dataset, {"rcnn": "cnn-ls", "rcnn+": "cnn-ls-noise"}[recipe])
    assert control == got  # a control that is trained otherwise shows nothing


@pytest.mark.parametrize(("dataset", "rcnn", "epochs"), [("mnist", 150, 100), ("cifar10", 50, 600)])
def test_the_paper_s_longer_training_halves_as_often_as_the_scripts(dataset: str, rcnn: int, epochs: int) -> None:
    written, paper = (SCHEDULES[preset, dataset, False] for preset in ("authors", "paper"))
    assert (written.epochs, paper.epochs) == (rcnn, epochs)
    assert (paper.epochs - 1) // paper.halve_every == (written.epochs - 1) // written.halve_every


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("dataset", DATASETS)
@pytest.mark.parametrize("preset", PRESET_NAMES)
def test_every_training_that_can_be_asked_for_is_whole(preset: str, dataset: str, recipe: str) -> None:
    schedule, noise = schedule_of(preset, dataset, RECIPES[recipe]), noise_of(preset, dataset, RECIPES[recipe])
    assert schedule.classifier in CLASSIFIERS
    assert dataset in EM_PRESETS
    assert (noise is None) == (RECIPES[recipe].source is None)
    if noise:
        assert noise.made_at is None or noise.made_at < schedule.epochs
    assert (adversary_of(dataset, RECIPES[recipe]) is None) == (RECIPES[recipe].adversary is None)
    if RECIPES[recipe].adversary:
        assert not any(getattr(schedule, name) for name in LIGHT)
    if dataset == "digits":  # described by nobody: the preset changes nothing
        assert schedule == schedule_of("default", dataset, RECIPES[recipe])
        assert noise == noise_of("default", dataset, RECIPES[recipe])


def test_tables_have_no_row_that_nothing_reads() -> None:
    assert {preset for preset, _, _ in SCHEDULES} == {preset for preset, _ in NOISES} == set(PRESET_NAMES)
    assert {dataset for _, dataset in NOISES} == set(DATASETS) == {"cifar10", "mnist", "digits"}


@pytest.mark.parametrize(
    ("kind", "dataset", "steps", "eps", "reach"),
    [
        ("madry", "mnist", 40, 0.3, 0.4),  # arXiv 1706.06083: 40 steps of 0.01 at 0.3, 7 of 2/255 at 8/255
        ("madry", "cifar10", 7, 0.031, 14 / 255),
        ("fast", "mnist", 1, 0.3, 0.375),  # arXiv 2001.03994: one step of 1.25 eps
        ("fast", "cifar10", 1, 0.031, 1.25 * 0.031),
        ("trades", "mnist", 40, 0.3, 0.4),  # arXiv 1901.08573: 40 of 0.01 at 0.3, 10 of 0.007 at 0.031
        ("trades", "cifar10", 10, 0.031, 0.07),
    ],
)
def test_adversaries_are_those_of_their_papers(kind: str, dataset: str, steps: int, eps: float, reach: float) -> None:
    adversary = ADVERSARIES[kind, dataset]
    assert (adversary.norm, adversary.eps, adversary.steps) == ("linf", eps, steps)
    assert adversary.steps * adversary.step_size == pytest.approx(reach, rel=0.01)


@pytest.mark.parametrize("kind", ["madry", "fast", "trades"])
@pytest.mark.parametrize(
    ("dataset", "norm", "eps"), [("mnist", "l2", 2.0), ("cifar10", "l1", 20.0), ("digits", "l2", 1.0)]
)
def test_adversaries_of_other_norms_walk_as_far_for_their_radius(
    kind: str, dataset: str, norm: Any, eps: float
) -> None:
    linf, other = (adversary_of(dataset, RECIPES[kind], each) for each in ("linf", norm))
    assert linf
    assert other
    assert (other.norm, other.eps, other.steps, other.beta) == (norm, eps, linf.steps, linf.beta)
    assert other.step_size / other.eps == pytest.approx(linf.step_size / linf.eps)


# Refusals -------------------------------------------------------------------------------------------------------------
VALID: dict[type, Any] = {
    Recipe: RECIPES["rcnn"],
    Schedule: SCHEDULES["default", "cifar10", False],
    Noise: dataclasses.replace(NOISES["default", "mnist"], gaussian_bound_low=0.1),
    Adversary: ADVERSARIES["trades", "mnist"],
    EMConfig: EM_PRESETS["mnist"],
}
NOT_POSITIVE = (0.0, -1e-9, -math.inf, math.inf, math.nan)
NEGATIVE = (-1e-9, -math.inf, math.inf, math.nan)
BAD: list[tuple[type, str, tuple[float, ...]]] = [
    (Recipe, "smoothing", (-0.1, 1.0, 1.5, math.nan)),
    *((Schedule, name, (0, -1)) for name in ("epochs", "batch", "halve_every")),
    (Schedule, "shading_grid", (1, 0, -3)),
    *((Schedule, name, NOT_POSITIVE) for name in ("lr", "lr_least", "lr_then")),
    *((Schedule, name, NEGATIVE) for name in ("fade", "weight_decay", "contrast", "colour", "shading")),
    (Schedule, "shift", (-1,)),
    (Schedule, "settle", (-1, 1)),
    (Schedule, "momentum", (-0.1, 1.0, math.nan)),
    *((Noise, name, (0, -1)) for name in ("copies", "adversarial_steps", "stored", "made_at")),
    *((Noise, name, NEGATIVE) for name in ("gaussian_std", "gaussian_bound", "adversarial_eps", "rotate", "shift")),
    (Noise, "gaussian_bound_low", (-0.1, 0.31, math.nan)),
    *((Adversary, name, NOT_POSITIVE) for name in ("eps", "step_size", "beta")),
    (Adversary, "steps", (0, -1)),
    *((EMConfig, name, (0, -1)) for name in ("wish", "updates", "images_per_update", "window")),
    *((EMConfig, name, (-1,)) for name in ("freeze_after", "min_count")),
    *((EMConfig, name, (0.0, -0.1, 1.1, math.nan)) for name in ("patch_fraction", "min_share")),
]


@pytest.mark.parametrize(
    ("kind", "name", "value"), [(kind, name, value) for kind, name, values in BAD for value in values]
)
def test_a_constant_without_meaning_is_refused_in_one_line(kind: type, name: str, value: float) -> None:
    with pytest.raises(UsageError) as caught:
        dataclasses.replace(VALID[kind], **{name: value})
    message = str(caught.value)
    if not (name == "gaussian_bound" and value != value):
        assert message.startswith(f"{name} = {value} cannot be used: it must be ")
    assert "\n" not in message
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        (Recipe, {"smoothing": 0.0}),
        (Schedule, {"epochs": 1, "batch": 1, "halve_every": 1, "shading_grid": 2}),
        (Schedule, {"lr": 1e-12, "lr_least": 1e-12, "lr_then": 1e-12, "fade": 0.0, "weight_decay": 0.0}),
        (Schedule, {"momentum": 0.0}),
        (Noise, {"copies": 1, "adversarial_steps": 1, "stored": 1, "made_at": 1}),
        (Noise, {"gaussian_std": 0.0, "gaussian_bound": 0.0, "gaussian_bound_low": 0.0, "adversarial_eps": 0.0}),
        (Noise, {"gaussian_bound_low": 0.3}),
        (Noise, {"pairing": "matched", "stored": None, "rotate": 0.0, "shift": 0.0, "flip": False}),
        (EMConfig, {"wish": 1, "updates": 1, "freeze_after": 0, "min_count": 0, "patch_fraction": 1.0, "window": 1}),
    ],
)
def test_the_edge_of_meaning_is_allowed(kind: type, changes: dict[str, Any]) -> None:
    made = dataclasses.replace(VALID[kind], **changes)
    assert {name: getattr(made, name) for name in changes} == changes


@pytest.mark.parametrize("left", [{"stored": 100}, {"rotate": 5.0}, {"shift": 0.1}, {"flip": True}])
def test_matched_noise_must_be_stored_for_all_and_stay_in_place(left: dict[str, Any]) -> None:
    still = {"pairing": "matched", "stored": None, "rotate": 0.0, "shift": 0.0, "flip": False}
    with pytest.raises(UsageError, match="an image's own noise must be stored and stay in place") as caught:
        dataclasses.replace(VALID[Noise], **still | left)
    assert "\n" not in str(caught.value)
