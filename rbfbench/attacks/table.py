"""The table of attacks: what each serves, takes and costs. Torch-free; functions are named, and imported on use."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from importlib import import_module
from typing import Any, Literal

from rbfbench.errors import UsageError, unknown_name

Value = int | float | bool | str | None

VIEWS = {
    "static": "gradients with the model's noise switched off (every draw at its mean)",
    "eot": "exact gradients through drawn noise, over --eot-samples draws a step",
    "bpda": "forward through one draw of noise, backward as if there were none (arXiv 1802.00420)",
    "bpda-eot": "the same over --eot-samples draws a step: the paper's adaptive attack",
    "none": "no view of the model",
}

NOISY_VIEWS = ("eot", "bpda", "bpda-eot")  # views that draw noise
AVERAGING = ("eot", "bpda-eot")  # views that take several draws a step

OBJECTIVES = {
    "loss-of-mean": "the loss of the mean probability: the rule by which a random model decides",
    "mean-of-losses": "the mean of the losses of single draws, as expectation over transformation usually is",
}


@dataclass(frozen=True)
class Parameter:
    """One parameter of an attack.

    Attributes:
        default: Value if the user gives none.
        kind: "int", "float", "bool" or "choice".
        least: Smallest number that makes sense.
        choices: For "choice".
        most: Largest number that makes sense.
    """

    default: Value
    kind: str
    least: float = -math.inf
    choices: tuple[str, ...] = ()
    most: float = math.inf

    def parse(self, name: str, text: str) -> Value:
        """The value that `text` spells.

        Raises:
            UsageError: It spells none, or one that makes no sense.
        """
        if self.kind == "choice":
            if text not in self.choices:
                raise unknown_name(name, text, self.choices)
            return text
        if self.kind == "bool":
            if text not in ("true", "false"):
                raise UsageError(
                    f"{name}={text} is not a switch", "it is neither true nor false", "give one of the two"
                )
            return text == "true"
        try:
            value = int(text) if self.kind == "int" else float(text)
        except ValueError:
            number = "a whole number" if self.kind == "int" else "a number"
            raise UsageError(f"{name}={text} is not {number}", "it cannot be read as one", f"give {number}") from None
        return self.check(name, value)

    def check(self, name: str, value: Value) -> Value:
        """The value, if it makes sense.

        Raises:
            UsageError: It is out of range.
        """
        if isinstance(value, int | float) and not (self.least <= value <= self.most and value < math.inf):
            bounds = f"at least {self.least:g}" + (f" and at most {self.most:g}" if self.most < math.inf else "")
            raise UsageError(f"{name}={value} makes no sense", f"it must be {bounds}", "give such a value")
        return value


POSITIVE = 1e-12
LOSS = Parameter("ce", "choice", choices=("ce", "margin"))
APGD = {"steps": Parameter(100, "int", 1), "restarts": Parameter(1, "int", 1)}
TRADE_OFF = {
    "steps": Parameter(1000, "int", 1),
    "search_steps": Parameter(9, "int", 1),
    "lr": Parameter(0.01, "float", POSITIVE),
    "initial_c": Parameter(1e-3, "float", POSITIVE),
    "kappa": Parameter(0.0, "float", 0.0),
}
TARGETS = Parameter(9, "int", 1)


@dataclass(frozen=True, kw_only=True)
class AttackInfo:
    """One row of the table.

    Attributes:
        function: "module:name" of `f(oracle, x, y, *, norm, eps, rng, **parameters) -> x_adv`.
        norms: Norms it serves.
        gradient: Whether it needs gradients; an attack that needs none sees only the model's scores.
        kind: "budget" keeps to ball and box; "minimum-norm" looks for the nearest adversarial example, whatever eps is,
            and returns the image itself where it finds none; "control" knows nothing, and never enters the worst case.
        surrogate: It walks on other models in the target's place, and its candidates are scored on the target.
        coupled: The images of a batch act on each other; the engine hands it whole groups of `particles` images, fixed
            by image id, whatever the batch size.
        release: Package and version of an attack that is not ours.
        batch_invariant: What happens to an image does not depend on the cut into batches.
        parameters: Everything that can be set.
        passes: (parameters) -> most (forwards, backwards) for each image and draw; where the draws of one image do not
            fit into one pass, gradients take each forward twice.
        reference: Where it is defined.
        about: One line for people.
    """

    function: str
    norms: tuple[str, ...] = ("linf", "l2", "l1")
    gradient: bool = True
    kind: Literal["budget", "minimum-norm", "control"] = "budget"
    surrogate: bool = False
    coupled: bool = False
    batch_invariant: bool = True
    release: str = ""
    parameters: dict[str, Parameter] = field(default_factory=dict)
    passes: Callable[[dict[str, Any]], tuple[int, int]]
    reference: str
    about: str

    def parse(self, attack: str, name: str, text: str) -> Value:
        """The value of the parameter `name` that `text` spells; `attack` is what the user calls this one.

        Raises:
            UsageError: There is no such parameter, or no such value of it.
        """
        if name in self.parameters:
            return self.parameters[name].parse(f"{attack}.{name}", text)
        if self.parameters:
            raise unknown_name(f"parameter of {attack}", name, self.parameters)
        raise UsageError(f"{attack} has no parameter {name!r}", "it has none at all", "leave it out")

    def resolve(self) -> Callable[..., Any]:
        """The attack function; this imports torch."""
        module, _, name = self.function.partition(":")
        function: Callable[..., Any] = getattr(import_module(module), name)
        return function


PARTICLES = {
    "steps": Parameter(200, "int", 1),
    "step_size": Parameter(None, "float", POSITIVE),
    "restarts": Parameter(1, "int", 1),
    "particles": Parameter(200, "int", 1),
    "loss": LOSS,
    "weight": Parameter(None, "float"),
}


def _walk_passes(p: dict[str, Any]) -> tuple[int, int]:
    """A look for each step, and one at the end, in each restart."""
    return p["restarts"] * (p["steps"] + 1), p["restarts"] * p["steps"]


def _trade_off_passes(p: dict[str, Any]) -> tuple[int, int]:
    """A look a step, two more where noise must confirm a success, and one before the first."""
    steps = p["search_steps"] * p["steps"]
    return 1 + 3 * steps, steps


ATTACKS: dict[str, AttackInfo] = {
    "fgsm": AttackInfo(
        function="rbfbench.attacks.gradient:fgsm",
        parameters={"loss": LOSS},
        passes=lambda p: (1, 1),
        reference="arXiv 1412.6572",
        about="one step along the gradient",
    ),
    "pgd": AttackInfo(
        function="rbfbench.attacks.gradient:pgd",
        parameters={
            "steps": Parameter(40, "int", 1),
            "step_size": Parameter(None, "float", POSITIVE),
            "restarts": Parameter(1, "int", 1),
            "random_start": Parameter(True, "bool"),
            "loss": LOSS,
        },
        passes=_walk_passes,
        reference="arXiv 1706.06083",
        about="projected gradient ascent with restarts; best point kept, the end through noise",
    ),
    "mi-fgsm": AttackInfo(
        function="rbfbench.attacks.gradient:mi_fgsm",
        parameters={"steps": Parameter(10, "int", 1), "decay": Parameter(1.0, "float", 0.0), "loss": LOSS},
        passes=lambda p: (p["steps"] + 1, p["steps"]),
        reference="arXiv 1710.06081",
        about="iterated FGSM with momentum",
    ),
    "transfer": AttackInfo(
        function="rbfbench.attacks.transfer:transfer",
        gradient=False,
        surrogate=True,
        parameters={
            "steps": Parameter(50, "int", 1),
            "step_size": Parameter(None, "float", POSITIVE),
            "decay": Parameter(1.0, "float", 0.0),
            "restarts": Parameter(1, "int", 1),
            "random_start": Parameter(True, "bool"),
            "loss": replace(LOSS, default="margin"),
        },
        passes=_walk_passes,
        reference="arXiv 1710.06081",
        about="momentum PGD on surrogates, scored on the target",
    ),
    "cw": AttackInfo(
        function="rbfbench.attacks.gradient:cw",
        norms=("linf",),
        parameters={
            "steps": Parameter(100, "int", 1),
            "step_size": Parameter(None, "float", POSITIVE),
            "restarts": Parameter(1, "int", 1),
        },
        passes=_walk_passes,
        reference="arXiv 1608.04644",
        about="projected gradient ascent on the margin loss",
    ),
    "slide": AttackInfo(
        function="rbfbench.attacks.slide:slide",
        norms=("l1",),
        parameters={
            "steps": Parameter(100, "int", 1),
            "step_size": Parameter(None, "float", POSITIVE),
            "quantile": Parameter(0.99, "float", 0.0, most=1.0),
            "restarts": Parameter(1, "int", 1),
        },
        passes=_walk_passes,
        reference="arXiv 1904.13000",
        about="sparse l1 descent: equal steps in the steepest coordinates that have room",
    ),
    "daa-blob": AttackInfo(
        function="rbfbench.attacks.daa:daa_blob",
        norms=("linf",),
        coupled=True,
        parameters=PARTICLES,
        passes=_walk_passes,
        reference="arXiv 1808.05537",
        about="images as particles: PGD whose steps also follow the neighbours (blob flow)",
    ),
    "daa-dgf": AttackInfo(
        function="rbfbench.attacks.daa:daa_dgf",
        norms=("linf",),
        coupled=True,
        parameters=PARTICLES,
        passes=_walk_passes,
        reference="arXiv 1808.05537",
        about="images as particles: PGD whose steps also pull them together (discrete gradient flow)",
    ),
    "spsa": AttackInfo(
        function="rbfbench.attacks.spsa:spsa",
        norms=("linf", "l2"),
        gradient=False,
        parameters={
            "steps": Parameter(100, "int", 1),
            "pairs": Parameter(64, "int", 1),
            "delta": Parameter(0.01, "float", 1e-4),  # nearer, the points of a pair would be equal in float32
            "lr": Parameter(None, "float", POSITIVE),
            "queries": Parameter(None, "int", 4),  # a start, a pair and a point
        },
        passes=lambda p: (min(filter(None, (p["queries"], p["steps"] * (2 * p["pairs"] + 1) + 1))), 0),
        reference="arXiv 1802.05666",
        about="Adam along slopes measured between pairs of points; best point kept, the end through noise",
    ),
    "square": AttackInfo(
        function="rbfbench.attacks.square:square",
        gradient=False,
        parameters={
            "queries": Parameter(5000, "int", 1),
            "p_init": Parameter(0.8, "float", POSITIVE),
            "restarts": Parameter(1, "int", 1),
        },
        passes=lambda p: (p["restarts"] * p["queries"], 0),
        reference="arXiv 1912.00049",
        about="random search in square windows; best point kept",
    ),
    "apgd-ce": AttackInfo(
        function="rbfbench.attacks.apgd:apgd_ce",
        parameters=APGD,
        passes=lambda p: (p["restarts"] * (p["steps"] + 3), p["restarts"] * p["steps"]),
        reference="arXiv 2003.01690, 2103.01208",
        about="PGD that sets its own step size, on the cross-entropy",
    ),
    "apgd-dlr": AttackInfo(
        function="rbfbench.attacks.apgd:apgd_dlr",
        parameters=APGD,
        passes=lambda p: (p["restarts"] * (p["steps"] + 3), p["restarts"] * p["steps"]),
        reference="arXiv 2003.01690, 2103.01208",
        about="the same on the difference of logits ratio, which no factor of the logits changes",
    ),
    "apgd-t": AttackInfo(
        function="rbfbench.attacks.apgd:apgd_t",
        parameters=APGD | {"targets": TARGETS},
        passes=lambda p: (
            1 + p["targets"] * p["restarts"] * (p["steps"] + 3),
            p["targets"] * p["restarts"] * p["steps"],
        ),
        reference="arXiv 2003.01690, 2103.01208",
        about="the same towards each of the likeliest wrong classes",
    ),
    "fab-t": AttackInfo(
        function="rbfbench.attacks.fab:fab_t",
        kind="minimum-norm",
        parameters=APGD
        | {
            "targets": TARGETS,
            "alpha_max": Parameter(0.1, "float", 0.0, most=1.0),
            "eta": Parameter(1.05, "float", 1.0),
            "beta": Parameter(0.9, "float", 0.0, most=1.0),
        },
        passes=lambda p: (
            37 + 6 * p["targets"] * p["restarts"] * p["steps"],  # two more a look, where noise must confirm a success
            p["targets"] * p["restarts"] * p["steps"],
        ),
        reference="arXiv 1907.02044",
        about="nearest adversarial example by moves onto linearised borders, towards each likely wrong class",
    ),
    "cw-l2": AttackInfo(
        function="rbfbench.attacks.cw:cw_l2",
        norms=("l2",),
        kind="minimum-norm",
        parameters=TRADE_OFF,
        passes=_trade_off_passes,
        reference="arXiv 1608.04644",
        about="nearest adversarial example by Adam, the constant searched for each image",
    ),
    "cw-linf": AttackInfo(
        function="rbfbench.attacks.cw_linf:cw_linf",
        norms=("linf",),
        kind="minimum-norm",
        parameters={
            "steps": Parameter(1000, "int", 1),
            "search_steps": Parameter(9, "int", 1),
            "lr": Parameter(0.005, "float", POSITIVE),
            "initial_c": Parameter(0.1, "float", POSITIVE),
        },
        passes=_trade_off_passes,
        reference="arXiv 1608.04644",
        about="nearest adversarial example under a bound on all changes, lowered again and again",
    ),
    "ead": AttackInfo(
        function="rbfbench.attacks.ead:ead",
        norms=("l1",),
        kind="minimum-norm",
        parameters=TRADE_OFF
        | {"beta": Parameter(0.01, "float", 0.0), "rule": Parameter("l1", "choice", choices=("l1", "en"))},
        passes=_trade_off_passes,
        reference="arXiv 1709.04114",
        about="nearest adversarial example under l1 and l2 together, by FISTA",
    ),
    "deepfool": AttackInfo(
        function="rbfbench.attacks.deepfool:deepfool",
        norms=("linf", "l2"),
        kind="minimum-norm",
        parameters={
            "steps": Parameter(50, "int", 1),
            "targets": TARGETS,
            "overshoot": Parameter(0.02, "float", 0.0),
        },
        passes=lambda p: (1 + p["steps"] * (p["targets"] + 3), p["steps"] * p["targets"]),
        reference="arXiv 1511.04599",
        about="nearest adversarial example by steps onto the nearest linearised border",
    ),
    "null": AttackInfo(
        function="rbfbench.attacks.controls:null",
        gradient=False,
        kind="control",
        passes=lambda p: (0, 0),
        reference="control",
        about="the images themselves: what noise alone breaks",
    ),
    "noise": AttackInfo(
        function="rbfbench.attacks.controls:noise",
        gradient=False,
        kind="control",
        parameters={"tries": Parameter(10, "int", 1)},
        passes=lambda p: (p["tries"], 0),
        reference="control",
        about="the best of some random points of the ball",
    ),
}
