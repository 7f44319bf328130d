"""Frozen lists of attacks: a suite file is never edited once released, a change gets a new name."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from importlib.resources import files

from rbfbench.attacks.table import ATTACKS, AVERAGING, VIEWS, Value
from rbfbench.errors import UsageError, unknown_name

SUITES: dict[str, str] = {
    "quick": "a first look in minutes: FGSM, PGD on two losses, MI-FGSM, and PGD through the noise",
}


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


def load_suite(name: str) -> list[Row]:
    """The rows of a suite.

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
    ]


def single_rows(names: tuple[str, ...], view: str, draws: int) -> list[Row]:
    """Rows with default parameters for attacks given by name, each under `view` (attacks that need none: "none").

    Raises:
        UsageError: Unknown attack or view, or the same attack twice.
    """
    rows = []
    for name in names:
        if name not in ATTACKS:
            raise unknown_name("attack", name, ATTACKS)
        if view not in VIEWS:
            raise unknown_name("view", view, VIEWS)
        used = view if ATTACKS[name].gradient else "none"
        rows.append(Row(name, used, _complete(name, {}), draws if used in AVERAGING else 1))
    if len({row.id for row in rows}) < len(rows):
        raise UsageError("the same attack is named twice", f"--attack {' --attack '.join(names)}", "name each once")
    return rows


def _complete(attack: str, given: dict[str, Value]) -> dict[str, Value]:
    return {name: given.get(name, parameter.default) for name, parameter in ATTACKS[attack].parameters.items()}
