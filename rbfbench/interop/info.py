"""Rows of foreign attacks: what their constructors say about themselves."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import partial
from math import prod
from textwrap import shorten
from typing import Any

from rbfbench.attacks.table import POSITIVE, AttackInfo, Parameter, Value
from rbfbench.errors import UsageError

# Names of parameters that say how often something is done inside something else.
LOOPS = ("steps", "max_iter", "binary_search_steps", "repeats", "num_random_init", "nb_random_init", "nb_restarts")


@dataclass(frozen=True, kw_only=True)
class ForeignAttackInfo(AttackInfo):
    """The row of an attack of another library; its function takes the library's name of it first.

    `passes` is an estimate here, and no bound: it multiplies the parameters that look like numbers of steps.

    Attributes:
        name: What the library calls it.
        release: Library and version.
    """

    name: str
    release: str

    def resolve(self) -> Callable[..., Any]:
        """The attack function; this imports torch and the library."""
        return partial(super().resolve(), self.name)


def parameters_of(
    constructor: Callable[..., Any], ours: Collection[str], choices: Mapping[str, tuple[str, ...]]
) -> dict[str, Parameter]:
    """Everything that a user may set of a foreign attack: its parameters of simple type, with the library's defaults.

    Args:
        constructor: The class.
        ours: Names of parameters that follow from the run, or must stay as they are.
        choices: For parameters that are words, what they may be.
    """
    given = inspect.signature(constructor).parameters.values()
    return {
        parameter.name: _parameter(parameter, choices)
        for parameter in given
        if parameter.name not in ours
        and parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
        and isinstance(parameter.default, int | float | str | None)
    }


def _parameter(parameter: inspect.Parameter, choices: Mapping[str, tuple[str, ...]]) -> Parameter:
    default: Value = parameter.default
    if isinstance(default, bool):
        return Parameter(default, "bool")
    if isinstance(default, str) or parameter.name in choices:
        return Parameter(default, "choice", choices=choices.get(parameter.name, (str(default),)))
    if "float" in str(parameter.annotation):  # annotations are text in one library, types in the other
        least = POSITIVE if "step" in parameter.name else 0.0
        return Parameter(default if default is None else float(default), "float", least)
    return Parameter(default, "int", 0 if default == 0 else 1)


def rounds(parameters: Mapping[str, Value]) -> int:
    """The product of all parameters that are numbers of steps."""
    return prod(max(1, int(parameters[name] or 1)) for name in LOOPS if name in parameters)


def refused(name: str, error: Exception) -> UsageError:
    """What a constructor that does not like its arguments has to say to the user."""
    why = " ".join(str(error).split()).rstrip(".")
    return UsageError(f"{name} cannot be set up", why, "change its parameters with --set, or choose another attack")


def reference(constructor: Callable[..., Any], library: str) -> str:
    """The first paper or page that a foreign docstring names."""
    found = re.search(r"https?://[^\s>\])]+", inspect.getdoc(constructor) or "")
    if not found:
        return library
    paper = re.search(r"arxiv\.org/(?:abs|pdf)/(\d+\.\d+)", found[0])
    return f"arXiv {paper[1]}" if paper else found[0].rstrip(".")


def headline(constructor: Callable[..., Any]) -> str:
    """The first sentence of a foreign docstring, on one line."""
    paragraph = (inspect.getdoc(constructor) or constructor.__name__).split("\n\n")[0]
    plain = " ".join(re.sub(r"\[#?\w+\]_|`", "", paragraph).split())
    return shorten(re.split(r"(?<! al)\. ", plain)[0].rstrip(". "), 90, placeholder=" ...")
