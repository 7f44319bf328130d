"""Options that several commands share, and the parsing of their values."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from rbfbench.data import DEFAULT_ROOT
from rbfbench.errors import UsageError

F = TypeVar("F", bound=Callable[..., Any])


def parse_eps(text: str) -> float:
    """A radius written as a number or a fraction such as 8/255.

    Raises:
        UsageError: It is no number, negative, or not finite.
    """
    numerator, slash, denominator = text.partition("/")
    try:
        eps = float(numerator) / float(denominator) if slash else float(numerator)
    except (ValueError, ZeroDivisionError):
        raise UsageError(f"--eps {text} is not a number", "it cannot be read as one", "write 0.031 or 8/255") from None
    if not (math.isfinite(eps) and eps >= 0):
        raise UsageError(f"--eps {text} is no radius", "it must be finite and at least 0", "write 0.031 or 8/255")
    return eps


def parse_limit(text: str) -> int | None:
    """A number of images, or None for all.

    Raises:
        UsageError: It is neither "all" nor a whole number above 0.
    """
    if text == "all":
        return None
    if not (text.isascii() and text.isdigit() and int(text) > 0):
        raise UsageError(f"--limit {text} is no number of images", "it must be above 0", "write 1000 or all")
    return int(text)


def data_options(command: F) -> F:
    """--data-root and --download."""
    command = click.option("--download", is_flag=True, help="Fetch a full data set that is not there.")(command)
    return click.option(
        "--data-root",
        type=click.Path(file_okay=False, path_type=Path),
        default=DEFAULT_ROOT,
        show_default=True,
        envvar="RBFBENCH_DATA_ROOT",
        help="Folder to look for full data sets in.",
    )(command)


def device_option(command: F) -> F:
    """--device."""
    return click.option(
        "--device",
        type=click.Choice(["auto", "cpu", "cuda", "mps"]),
        default="auto",
        show_default=True,
        help="Where to compute; auto takes a GPU if there is one.",
    )(command)


def pick_device(name: str) -> Any:  # noqa: ANN401  (a torch.device; this module must not import torch)
    """The torch device called `name`.

    Raises:
        UsageError: It is not there.
    """
    import torch

    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not there[name]:
        raise UsageError(f"--device {name} is not there", "torch finds no such device", "use --device cpu")
    return torch.device(name)
