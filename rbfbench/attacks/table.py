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
    """

    default: Value
    kind: str
    least: float = -math.inf
    choices: tuple[str, ...] = ()

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
        if isinstance(value, int | float) and not self.least <= value < math.inf:
            raise UsageError(
                f"{name}={value} makes no sense", f"it must be at least {self.least:g}", "give such a value"
            )
        return value


POSITIVE = 1e-12
LOSS = Parameter("ce", "choice", choices=("ce", "margin"))


@dataclass(frozen=True, kw_only=True)
class AttackInfo:
    """One row of the table.

    Attributes:
        function: "module:name" of `f(oracle, x, y, *, norm, eps, rng, **parameters) -> x_adv`.
        norms: Norms it serves.
        gradient: Whether it needs gradients; an attack that needs none sees only the model's decisions.
        kind: "budget" keeps to ball and box; "minimum-norm" looks for the nearest adversarial example, whatever eps is,
            and returns the image itself where it finds none; "control" knows nothing, and never enters the worst case.
        surrogate: It walks on other models in the target's place, and its candidates are scored on the target.
        coupled: The images of a batch act on each other; the engine hands it whole groups of `particles` images, fixed
            by image id, whatever the batch size.
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
    parameters: dict[str, Parameter] = field(default_factory=dict)
    passes: Callable[[dict[str, Any]], tuple[int, int]]
    reference: str
    about: str

    def resolve(self) -> Callable[..., Any]:
        """The attack function; this imports torch."""
        module, _, name = self.function.partition(":")
        function: Callable[..., Any] = getattr(import_module(module), name)
        return function


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
        passes=lambda p: (p["restarts"] * (p["steps"] + 1), p["restarts"] * p["steps"]),
        reference="arXiv 1706.06083",
        about="projected gradient ascent with restarts; best point kept",
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
            "loss": replace(LOSS, default="margin"),
        },
        passes=lambda p: (p["restarts"] * (p["steps"] + 1), p["restarts"] * p["steps"]),
        reference="arXiv 1710.06081",
        about="momentum PGD on surrogates, scored on the target",
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
