"""Attacks of the Adversarial Robustness Toolbox as rows and functions of ours: `art:AutoProjectedGradientDescent`.

The run sets norm, budget and true classes; everything else of a simple type is a parameter with ART's default, its
`batch_size` too, on which results can depend. `eps_step` is ART's 0.1, or the budget where that is smaller, unless it
is given. ART works in float32 and NumPy, and draws from global generators.

A norm is served where ART accepts it, whatever it makes of it: `SquareAttack` accepts l1 and returns the images as they
are. That is for the verifier to show.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Mapping
from functools import partial
from importlib.metadata import version
from math import inf, log, sqrt
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor

from rbfbench.attacks.norms import SHRINK
from rbfbench.attacks.oracle import Oracle
from rbfbench.attacks.rng import Keys
from rbfbench.attacks.table import POSITIVE, Parameter, Value
from rbfbench.errors import UsageError, unknown_name
from rbfbench.interop.info import ForeignAttackInfo, headline, parameters_of, reference, refused, rounds
from rbfbench.interop.shown import Shown, undisturbed

ORDERS = {"linf": inf, "l2": 2, "l1": 1}
ANY = ("linf", "l2", "l1")

BUDGET: dict[str, tuple[str, ...]] = {  # attacks that keep to a ball, and the norms that they accept
    "AutoAttack": ANY,
    "AutoConjugateGradient": ANY,
    "AutoProjectedGradientDescent": ANY,
    "BasicIterativeMethod": ("linf",),
    "FastGradientMethod": ANY,
    "MomentumIterativeMethod": ANY,
    "ProjectedGradientDescent": ANY,
    "ProjectedGradientDescentNumpy": ANY,
    "ProjectedGradientDescentPyTorch": ANY,
    "RescalingAutoConjugateGradient": ANY,
    "SquareAttack": ANY,
    "VirtualAdversarialMethod": ("l2",),
}

NEAREST: dict[str, tuple[str, ...]] = {  # attacks that look for a near example, and the norms that they measure
    "BoundaryAttack": ("l2",),
    "CarliniL2Method": ("l2",),
    "CarliniLInfMethod": ("linf",),
    "DeepFool": ("l2",),
    "ElasticNet": ("l1",),
    "HopSkipJump": ("linf", "l2"),
    "NewtonFool": ("l2",),
    "SignOPTAttack": ("l2",),
    "SimBA": ("l2",),
    "ThresholdAttack": ("linf",),
    "ZooAttack": ("l2",),
}

BLIND = {
    "BoundaryAttack",
    "HopSkipJump",
    "SignOPTAttack",
    "SimBA",
    "SquareAttack",
    "ThresholdAttack",
    "VirtualAdversarialMethod",
    "ZooAttack",
}

ON_PROBABILITIES = {"NewtonFool", "SimBA", "VirtualAdversarialMethod"}  # others want logits

FIXED: dict[str, Any] = {
    "adv_criterion": None,
    "attacks": None,
    "estimator_orig": None,
    "loss": None,
    "parallel_pool_size": 0,
    "summary_writer": False,
    "targeted": False,
    "verbose": False,
}
CHOICES = {
    "attack": ("dct", "px"),
    "decision_rule": ("EN", "L1", "L2"),
    "loss_type": ("cross_entropy", "difference_logits_ratio"),
    "order": ("random", "diag"),
}
EPS_STEP = 0.1  # ART's default wherever there is such a parameter


def foreign_attack(name: str) -> ForeignAttackInfo:
    """The row of an ART attack, from its constructor.

    Args:
        name: A class of `art.attacks.evasion`.

    Raises:
        UsageError: There is none of this name, or none that can be run here.
    """
    norms = BUDGET | NEAREST
    if name not in norms:
        if inspect.isclass(getattr(_evasion(), name, None)):
            why = "it bounds none of our norms on single images, or needs more than a classifier"
            raise UsageError(f"art:{name} cannot be run here", why, "choose another attack")
        raise unknown_name("ART attack", name, norms)
    attack = getattr(_evasion(), name)
    parameters = parameters_of(attack, {*FIXED, "norm", "eps"}, CHOICES)
    if "eps_step" in parameters:
        parameters["eps_step"] = Parameter(None, "float", POSITIVE)
    gradient = name not in BLIND
    return ForeignAttackInfo(
        name=name,
        release=f"adversarial-robustness-toolbox {version('adversarial-robustness-toolbox')}",
        function="rbfbench.interop.art:run_attack",
        norms=norms[name],
        gradient=gradient,
        kind="budget" if name in BUDGET else "minimum-norm",
        batch_invariant=False,
        parameters=parameters,
        passes=partial(_passes, name, gradient),
        reference=reference(attack, "ART"),
        about=headline(attack),
    )


def run_attack(
    name: str, oracle: Oracle, x: Tensor, y: Tensor, *, norm: str, eps: float, rng: Keys, **parameters: Value
) -> Tensor:
    """Run an ART attack.

    Args:
        name: A class of `art.attacks.evasion`.
        oracle: View of the model for these images; one more look at one of them finds its number of classes.
        x: Clean images (N, C, H, W) in [0,1].
        y: (N,) true classes.
        norm: "linf", "l2" or "l1"; one that the attack serves.
        eps: Radius of the ball; unheeded by attacks that look for the nearest example.
        rng: Keys of these images, for the global generators that ART draws from.
        parameters: All of the row's parameters.

    Returns:
        What ART gives, in the box (N, C, H, W); exactly x wherever it moved nothing.

    Raises:
        UsageError: The attack does not accept its parameters.
    """
    budget = eps * SHRINK
    if len(x) == 0 or (name in BUDGET and budget == 0):
        return x.clone()
    shown = Shown(oracle, x, probabilities=name in ON_PROBABILITIES)
    before = x.cpu().numpy().astype(np.float32)
    with undisturbed(rng, x.device), patch.object(np.random, "RandomState", _Seeded):
        classifier = _classifier(shown)
        attack = _built(name, classifier, norm, budget, parameters)
        labels = np.eye(classifier.nb_classes, dtype=np.float32)[y.cpu().numpy()]
        after = attack.generate(x=before.copy(), y=labels)
    moved = torch.from_numpy(after != before).to(x.device)
    return torch.where(moved, torch.from_numpy(after).to(x), x).clamp(0, 1)


class _Seeded(np.random.RandomState):
    """Some attacks take a generator with fresh entropy: give them one from the global generator, which is seeded."""

    def __init__(self, seed: int | None = None) -> None:
        super().__init__(np.random.randint(2**32, dtype=np.uint32) if seed is None else seed)


def _evasion() -> Any:  # noqa: ANN401
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from art.attacks import evasion
    return evasion


def _classifier(shown: Shown) -> Any:  # noqa: ANN401
    from art.estimators.classification import PyTorchClassifier

    with torch.no_grad():
        classes = shown(shown.x[:1]).shape[1]
    return PyTorchClassifier(
        model=shown,
        loss=torch.nn.CrossEntropyLoss(),
        input_shape=tuple(shown.x.shape[1:]),
        nb_classes=classes,
        clip_values=(0.0, 1.0),
        device_type="cpu" if shown.x.device.type == "cpu" else "gpu",
    )


def _built(name: str, classifier: Any, norm: str, budget: float, parameters: Mapping[str, Value]) -> Any:  # noqa: ANN401
    """The attack with every argument passed."""
    attack = getattr(_evasion(), name)
    ours = FIXED | {"norm": ORDERS[norm], "eps": budget}
    if parameters.get("eps_step", EPS_STEP) is None:
        ours["eps_step"] = min(EPS_STEP, budget)
    taken = list(inspect.signature(attack).parameters)[1:]  # the first is the classifier
    try:
        built = attack(classifier, **{**parameters, **{key: value for key, value in ours.items() if key in taken}})
    except (ValueError, TypeError) as error:
        raise refused(f"art:{name}", error) from error
    for part in getattr(built, "attacks", ()):
        part.set_params(verbose=False)
    return built


def _hop_skip_jump(p: dict[str, Any]) -> int:
    evaluations = (p["init_eval"] * sqrt(i + 1) for i in range(p["max_iter"]))
    tries: int = p["init_size"]
    return tries + sum(25 + int(min(n, p["max_eval"])) for n in evaluations)  # about 25 to find the border again


def _carlini_linf(p: dict[str, Any]) -> int:
    constants = log(max(p["largest_const"], 1e-12) / max(p["initial_const"], 1e-12)) / log(max(p["const_factor"], 1.01))
    thresholds, each = 10, 5  # thresholds until one fails, looks a step
    return int(thresholds * max(1, constants) * each * p["max_iter"])


COSTS: dict[str, Callable[[dict[str, Any]], int]] = {  # passes forward, where they are not all loops multiplied
    "AutoAttack": lambda p: 5 * 100 * 2 * 2 + 100 * 10 + 5 * 5000 * 3,
    "AutoConjugateGradient": lambda p: 2 * rounds(p),
    "AutoProjectedGradientDescent": lambda p: 2 * rounds(p),
    "BoundaryAttack": lambda p: p["init_size"] + 2 * p["max_iter"] * p["sample_size"],
    "CarliniL2Method": lambda p: rounds(p) * (2 + p["max_halving"] + p["max_doubling"]),
    "CarliniLInfMethod": _carlini_linf,
    "DeepFool": lambda p: p["max_iter"] * (1 + p["nb_grads"]),
    "ElasticNet": lambda p: 3 * rounds(p),
    "HopSkipJump": _hop_skip_jump,
    "NewtonFool": lambda p: 2 * rounds(p),
    "RescalingAutoConjugateGradient": lambda p: 2 * rounds(p),
    "SignOPTAttack": lambda p: p["query_limit"],
    "SimBA": lambda p: 2 * rounds(p),
    "SquareAttack": lambda p: 3 * rounds(p),
    "ThresholdAttack": lambda p: 7 * 400 * p["max_iter"],  # seven halvings of the threshold
    "VirtualAdversarialMethod": lambda p: 3072 * rounds(p),  # a difference for each pixel
    "ZooAttack": lambda p: 2 * p["nb_parallel"] * rounds(p),
}


def _passes(name: str, gradient: bool, p: dict[str, Any]) -> tuple[int, int]:
    """Estimate of the (forwards, backwards) of one image."""
    walk = COSTS.get(name, rounds)(p)
    return walk + 3, walk if gradient else 0
