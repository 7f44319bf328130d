"""Attacks of foolbox as rows and functions of ours: `foolbox:LinfPGD` is `foolbox.attacks.LinfPGD`.

The run sets the budget, the norm where an attack leaves it open, and the true classes; everything else of a simple type
is a parameter with foolbox's default. An attack that walks along the border from a misclassified point gets one from
the attack that foolbox itself would take for it, whose parameters are `start_...`; images for which none is found stay
as they are, where foolbox would give up on the whole batch.
"""

from __future__ import annotations

import inspect
import os
import warnings
from collections.abc import Callable, Mapping
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec
from math import inf, sqrt
from typing import Any

from torch import Tensor

from rbfbench.attacks.norms import SHRINK
from rbfbench.attacks.oracle import Oracle
from rbfbench.attacks.rng import Keys
from rbfbench.attacks.table import Parameter, Value
from rbfbench.errors import UsageError, unknown_name
from rbfbench.interop.info import ForeignAttackInfo, headline, parameters_of, reference, refused, rounds
from rbfbench.interop.shown import Shown, undisturbed

NORMS = {1: "l1", 2: "l2", inf: "linf"}
FIXED: dict[str, Any] = {"init_attack": None, "tensorboard": False}
CHOICES = {
    "decision_rule": ("EN", "L1"),
    "loss": ("logits", "crossentropy"),
    "stepsize_search": ("geometric_progression", "grid_search"),
}
WITHOUT_MEASURE = {"PointwiseAttack": ("l2",)}  # its last step is a search in l2
WITHOUT_DEFAULT = {"VirtualAdversarialAttack": {"steps": Parameter(10, "int", 1)}}

LEFT_OUT = {
    "BinarizationRefinementAttack": "it refines the examples of another attack",
    "DatasetAttack": "it needs a data set to choose from",
    "GenAttack": "it wants a target",
    "SpatialAttack": "it bounds no norm",
}

BLIND = (
    "Noise",
    "ContrastReduction",
    "BoundaryAttack",
    "GaussianBlur",
    "HopSkipJump",
    "Inversion",
    "Pointwise",
)  # parts of the names of attacks that follow no gradient

BLENDED = "LinearSearchBlendedUniformNoiseAttack"
STARTS: dict[str, tuple[str, dict[str, Value]]] = {  # the attack that finds a start, and what foolbox changes for it
    "BoundaryAttack": (BLENDED, {"steps": 50}),
    "HopSkipJumpAttack": (BLENDED, {"steps": 50}),
    "L1BrendelBethgeAttack": (BLENDED, {}),
    "L2BrendelBethgeAttack": (BLENDED, {}),
    "LinfinityBrendelBethgeAttack": (BLENDED, {}),
    "PointwiseAttack": ("SaltAndPepperNoiseAttack", {}),
}


def foreign_attack(name: str) -> ForeignAttackInfo:
    """The row of a foolbox attack, from its constructor.

    Args:
        name: A class of `foolbox.attacks`, or one of its short names such as LinfPGD.

    Raises:
        UsageError: There is none of this name, or none that can be run here.
    """
    attacks = _attacks()
    if name not in attacks:
        raise unknown_name("foolbox attack", name, attacks)
    attack = attacks[name]
    full = attack.__name__
    if full in LEFT_OUT:
        raise UsageError(f"foolbox:{name} cannot be run here", LEFT_OUT[full], "choose another attack")
    if "BrendelBethge" in full and find_spec("numba") is None:
        raise UsageError(f"foolbox:{name} needs numba", "it is not installed", "install it beside rbfbench")
    parameters = parameters_of(attack, {*FIXED, "distance", "constraint"}, CHOICES) | WITHOUT_DEFAULT.get(full, {})
    if full in STARTS:
        start, changed = STARTS[full]
        for key, parameter in parameters_of(attacks[start], {"distance"}, CHOICES).items():
            default = changed.get(key, parameter.default)
            parameters[f"start_{key}"] = Parameter(default, parameter.kind, parameter.least, parameter.choices)
    gradient = not any(part in full for part in BLIND)
    return ForeignAttackInfo(
        name=name,
        release=f"foolbox {version('foolbox')}",
        function="rbfbench.interop.foolbox:run_attack",
        norms=_norms(attack, name),
        gradient=gradient,
        kind="budget" if _is_budget(attack) else "minimum-norm",
        batch_invariant=False,
        parameters=parameters,
        passes=partial(_passes, full, gradient),
        reference=reference(attack, "foolbox"),
        about=headline(attack),
    )


def run_attack(
    name: str, oracle: Oracle, x: Tensor, y: Tensor, *, norm: str, eps: float, rng: Keys, **parameters: Value
) -> Tensor:
    """Run a foolbox attack.

    Args:
        name: A class of `foolbox.attacks`, or one of its short names.
        oracle: View of the model for these images.
        x: Clean images (N, C, H, W) in [0,1].
        y: (N,) true classes.
        norm: "linf", "l2" or "l1"; one that the attack serves.
        eps: Radius of the ball; unheeded by attacks that look for the nearest example.
        rng: Keys of these images, for the global generators that foolbox draws from.
        parameters: All of the row's parameters.

    Returns:
        What foolbox gives for the budget or, if it looks for the nearest example, for none; in the box (N, C, H, W).

    Raises:
        UsageError: The attack does not accept its parameters.
    """
    attack = _attacks()[name]
    budget = eps * SHRINK if _is_budget(attack) else None
    if len(x) == 0 or budget == 0:
        return x.clone()
    own = {key: value for key, value in parameters.items() if not key.startswith("start_")}
    started = {key.removeprefix("start_"): value for key, value in parameters.items() if key.startswith("start_")}
    run = _built(name, attack, norm, own)
    with undisturbed(rng, x.device):
        if started:
            first = STARTS[attack.__name__][0]
            x_adv = _from_starts(run, _built(name, _attacks()[first], norm, started), oracle, x, y)
        else:
            x_adv, _ = _call(run, oracle, x, y, epsilons=budget)
    return x_adv.clamp(0, 1)


def _attacks() -> dict[str, Any]:
    """The attacks of the library by name, short names included."""
    os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")  # its model zoo looks for a git binary, and complains
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import foolbox
    bases = foolbox.attacks.base
    found = {name: value for name, value in vars(foolbox.attacks).items() if inspect.isclass(value)}
    return {name: value for name, value in found.items() if value is not bases.Attack}


def _is_budget(attack: Any) -> bool:  # noqa: ANN401
    import foolbox

    return issubclass(attack, foolbox.attacks.base.FixedEpsilonAttack)


def _norms(attack: Any, name: str) -> tuple[str, ...]:  # noqa: ANN401
    taken = inspect.signature(attack).parameters
    if attack.__name__ in WITHOUT_MEASURE:
        return WITHOUT_MEASURE[attack.__name__]
    if "distance" in taken:
        return ("linf", "l2", "l1")
    if "constraint" in taken:
        return ("linf", "l2")
    distance = attack().distance if isinstance(attack.distance, property) else attack.distance
    if distance.p not in NORMS:
        raise UsageError(f"foolbox:{name} cannot be run here", f"it measures l{distance.p}", "choose another attack")
    return (NORMS[distance.p],)


def _built(name: str, attack: Any, norm: str, parameters: Mapping[str, Value]) -> Any:  # noqa: ANN401
    """The attack with every argument passed."""
    from foolbox import distances

    ours = FIXED | {"distance": getattr(distances, norm), "constraint": norm}
    taken = inspect.signature(attack).parameters
    try:
        return attack(**parameters, **{key: value for key, value in ours.items() if key in taken})
    except (ValueError, TypeError, AssertionError) as error:
        raise refused(f"foolbox:{name}", error) from error


def _call(attack: Any, oracle: Oracle, x: Tensor, y: Tensor, **how: Any) -> tuple[Tensor, Tensor]:  # noqa: ANN401
    """The points that the attack gives, cut to the budget by foolbox, and which of them foolbox thinks are wrong."""
    from foolbox.criteria import Misclassification
    from foolbox.models.pytorch import PyTorchModel

    model = PyTorchModel(Shown(oracle, x), bounds=(0, 1), device=x.device)
    _, x_adv, success = attack(model, x.clone(), Misclassification(y), **how)
    return x_adv.detach().to(x), success


def _from_starts(attack: Any, first: Any, oracle: Oracle, x: Tensor, y: Tensor) -> Tensor:  # noqa: ANN401
    """Attack the images for which `first` finds a misclassified point; one that is wrong by itself is its own."""
    starts, found = _call(first, oracle, x, y, epsilons=None)
    where = (found & (starts != x).flatten(1).any(dim=1)).nonzero()[:, 0]
    x_adv = x.clone()
    if len(where):
        x_adv[where], _ = _call(
            attack, oracle[where], x[where], y[where], epsilons=None, starting_points=starts[where].clone()
        )
    return x_adv


def _hop_skip_jump(p: dict[str, Any]) -> int:
    evaluations = (p["initial_gradient_eval_steps"] * sqrt(i + 1) for i in range(p["steps"]))
    return sum(30 + int(min(n, p["max_gradient_eval_steps"])) for n in evaluations)  # about 30 to find the border again


COSTS: dict[str, Callable[[dict[str, Any]], int]] = {  # passes forward, where they are not all loops multiplied
    "BoundaryAttack": lambda p: p["steps"] + p["steps"] // p["update_stats_every_k"],
    "HopSkipJumpAttack": _hop_skip_jump,
    BLENDED: lambda p: p["directions"] + p["steps"],
    "L2DeepFoolAttack": lambda p: p["steps"] * max(1, (p["candidates"] or 10) - 1),
    "LinfDeepFoolAttack": lambda p: p["steps"] * max(1, (p["candidates"] or 10) - 1),
    "L1FMNAttack": lambda p: p["steps"],
    "L2FMNAttack": lambda p: p["steps"],
    "LInfFMNAttack": lambda p: p["steps"],
    "PointwiseAttack": lambda p: 10_000,  # each pixel, several times
}


def _passes(full: str, gradient: bool, p: dict[str, Any]) -> tuple[int, int]:
    """Estimate of the (forwards, backwards) of one image."""
    walk = COSTS.get(full, rounds)(p)
    start = p.get("start_steps", 0) + p.get("start_directions", 0)
    return walk + start + 3, walk if gradient else 0
