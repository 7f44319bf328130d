"""Frozen lists of attacks: a suite file is never edited once released, a change gets a new name."""

from __future__ import annotations

import tomllib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.resources import files

from rbfbench.attacks.table import ATTACKS, AVERAGING, VIEWS, AttackInfo, Value
from rbfbench.errors import unknown_name

SUITES: dict[str, str] = {
    "quick": "a first look in minutes: FGSM, PGD on two losses, MI-FGSM, and PGD through the noise",
    "paper-linf": "Table I of the RBF-CNN paper: static, adaptive and black-box attacks",
    "paper-l1": "the l1 half of its Table V",
    "paper-l2": "the l2 half of its Table V",
    "adaptive": "what the paper did not try on a random model: margin losses through the noise",
    "autoattack": "AutoAttack standard; add --worst-case to attack survivors only, as its authors do",
    "autoattack-plus": "AutoAttack plus",
    "autoattack-rand": "AutoAttack rand, for random models, scored on fresh draws",
    "black-box": "random search, estimated gradients, transfer: no gradient of the model",
}
DRAWS = 20  # averaged by attacks given by name that look through noise, if nothing else is said


@dataclass(frozen=True)
class Row:
    """One attack of a run.

    Attributes:
        attack: Name in `ATTACKS`.
        view: Name in `VIEWS`.
        parameters: All parameters of the attack, none left to a default elsewhere.
        draws: Draws of noise averaged in each look (views `eot` and `bpda-eot`).
        objective: Name in `OBJECTIVES`: what those draws are averaged for.
        label: What tells rows of the same attack and view apart, or "".
        limit: Images that the row takes, the first ones; None takes all that are asked for.
    """

    attack: str
    view: str
    parameters: dict[str, Value]
    draws: int = 1
    objective: str = "loss-of-mean"
    label: str = ""
    limit: int | None = None

    @property
    def id(self) -> str:
        """Name of the row in tables and files, such as "pgd/static", "pgd-margin/eot" or "square"."""
        view = "" if self.view == "none" else f"/{self.view}"
        return f"{self.attack}{'-' + self.label if self.label else ''}{view}"


def load_suite(name: str, norm: str | None = None) -> list[Row]:
    """The rows of a suite, without those that are for other norms; all of them if no norm is given.

    Raises:
        UsageError: There is no such suite.
    """
    if name not in SUITES:
        raise unknown_name("suite", name, SUITES)
    table = tomllib.loads(files(__name__).joinpath(f"{name}.toml").read_text(encoding="utf-8"))
    return [
        Row(
            attack=row["attack"],
            view=row["view"],
            parameters=_complete(row["attack"], row.get("parameters", {})),
            draws=row.get("draws", 1),
            objective=row.get("objective", "loss-of-mean"),
            label=row.get("label", ""),
            limit=row.get("limit"),
        )
        for row in table["row"]
        if norm is None or norm in row.get("norms", (norm,))
    ]


def single_rows(attacks: Mapping[str, AttackInfo], view: str, draws: int) -> list[Row]:
    """Rows with default parameters for attacks by name, each under `view` (attacks that need no gradient: "none").

    Raises:
        UsageError: Unknown view.
    """
    if view not in VIEWS or view == "none":
        raise unknown_name("view", view, VIEWS.keys() - {"none"})
    rows = []
    for name, info in attacks.items():
        used = view if info.gradient else "none"
        defaults = {key: parameter.default for key, parameter in info.parameters.items()}
        rows.append(Row(name, used, defaults, draws if used in AVERAGING else 1))
    return rows


def through_noise(rows: Sequence[Row], views: Collection[str], named: Collection[str]) -> list[Row]:
    """Rows as a model allows them whose noise cannot be switched off.

    Args:
        rows: Those of a run, of which nobody chose the view.
        views: What the model has.
        named: Attacks given by name: they average over the noise where there is no view without it. The rows of a suite
            are left out of the run then, since it has others that average.
    """
    if "static" in views:
        return list(rows)
    if "bpda" in views:
        return [replace(row, view="bpda") if row.view == "static" else row for row in rows]
    return [
        replace(row, view="eot", draws=DRAWS)
        if "eot" in views and row.attack in named and row.view == "static"
        else row
        for row in rows
    ]


def _complete(attack: str, given: dict[str, Value]) -> dict[str, Value]:
    parameters = ATTACKS[attack].parameters
    if stray := given.keys() - parameters.keys():
        raise ValueError(f"{attack} has no parameter {', '.join(sorted(stray))}")
    return {name: given.get(name, parameter.default) for name, parameter in parameters.items()}
