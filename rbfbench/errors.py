"""The errors a user can meet: each says what failed, why, and what to do, and carries the exit code."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

MOST_NAMES = 40  # in a message


class RbfbenchError(Exception):
    """Base of all errors that end a command with one clear line.

    Args:
        what: What could not be done.
        why: The cause, with the offending value.
        todo: What the user can do about it.
    """

    exit_code = 3

    def __init__(self, what: str, why: str, todo: str) -> None:
        super().__init__(what, why, todo)
        self.what = what
        self.why = why
        self.todo = todo

    def __str__(self) -> str:
        end = "" if self.todo.endswith("?") else "."
        return f"{self.what}: {self.why}; {self.todo}{end}"


class UsageError(RbfbenchError):
    """Wrong from the command line or the configuration file alone."""

    exit_code = 2


class DataError(RbfbenchError):
    """Images or labels that cannot be read or used."""


class LoadError(RbfbenchError):
    """A model, weights file or run folder that cannot be opened."""


class ModelError(RbfbenchError):
    """A model that was opened but does not answer as a classifier must."""


class IncompleteError(RbfbenchError):
    """A question that could not be answered because cells are missing or unknown."""


class IncomparableError(RbfbenchError):
    """Runs that do not answer the same question."""


def unknown_name(kind: str, name: str, known: Iterable[str]) -> UsageError:
    """Error for a name that no table holds, with the nearest one suggested.

    Args:
        kind: What the name should have been, such as "attack".
        name: What the user typed.
        known: The names that exist.
    """
    names = sorted(known)
    lowered = {known_name.lower(): known_name for known_name in names}
    near = [lowered[found] for found in difflib.get_close_matches(name.lower(), lowered, n=1, cutoff=0.5)]
    more = f" and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else ""
    todo = f"did you mean {near[0]!r}?" if near else f"choose one of {', '.join(names[:MOST_NAMES])}{more}"
    return UsageError(f"unknown {kind} {name!r}", f"no {kind} has this name", todo)


def raised(error: BaseException) -> str:
    """What foreign code raised, on one line that is not too long: "ValueError: no such layer"."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:160]}".removesuffix(": ")
