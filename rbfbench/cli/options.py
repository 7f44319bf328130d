"""Options that several commands share, and the parsing of their values."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from rbfbench.data import DATASETS, DEFAULT_ROOT
from rbfbench.errors import LoadError, UsageError, unknown_name
from rbfbench.plugins import plugins

if TYPE_CHECKING:
    from rbfbench.data import Images

F = TypeVar("F", bound=Callable[..., Any])


class FiniteRange(click.FloatRange):
    """A range that NaN is not in; by comparisons alone it is in all of them."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:  # noqa: ANN401
        """The number, or a usage error."""
        number: float = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value} is no finite number.", param, ctx)
        return number


def parse_eps(text: str, option: str = "--eps") -> float:
    """A radius written as a number or a fraction such as 8/255.

    Raises:
        UsageError: It is no number, negative, or not finite.
    """
    numerator, slash, denominator = text.partition("/")
    try:
        eps = float(numerator) / float(denominator) if slash else float(numerator)
    except (ValueError, ZeroDivisionError):
        raise UsageError(
            f"{option} {text!r} is not a number", "it cannot be read as one", "write 0.031 or 8/255"
        ) from None
    if not (math.isfinite(eps) and eps >= 0):
        raise UsageError(f"{option} {text} is no radius", "it must be finite and at least 0", "write 0.031 or 8/255")
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


NORMS = ("linf", "l2", "l1")

KNOBS = ("beta1", "beta2", "m", "var_floor", "noise_scale", "noise_scope", "clip")


def knob_options(command: F) -> F:
    """The constants of RBF-CNN that can be changed on a trained model."""
    options = [
        click.option("--beta1", type=float, default=None, help="RBF-CNN: sharpness of the weights."),
        click.option("--beta2", type=float, default=None, help="RBF-CNN: noise level."),
        click.option("--m", type=click.IntRange(1), default=None, help="Passes averaged in one decision."),
        click.option("--var-floor", type=float, default=None, help="RBF-CNN: least variance of a filter."),
        click.option("--noise-scale", default=None, help="RBF-CNN: noise grows with variance, sigma or sqrt."),
        click.option("--noise-scope", default=None, help="RBF-CNN: noise is drawn once a model, image or patch."),
        click.option("--clip/--no-clip", default=None, help="RBF-CNN: clamp reconstructions to [0,1]."),
    ]
    for option in reversed(options):
        command = option(command)
    return command


def knobs_of(given: dict[str, Any]) -> dict[str, Any]:
    """The constants that were given, by their names in `RBFConfig`."""
    return {name: given[name] for name in KNOBS if given[name] is not None}


def check_norm(norm: str) -> str:
    """The norm.

    Raises:
        UsageError: There is none of this name.
    """
    if norm not in NORMS:
        raise unknown_name("norm", norm, NORMS)
    return norm


def default_radius(dataset: str, norm: str, option: str = "--eps") -> float:
    """The paper's radius for a data set and norm; `option` is where the user can give another.

    Raises:
        UsageError: There is no such data set, or it has none.
    """
    info = DATASETS.get(dataset)
    if info is None and ":" not in dataset and dataset not in plugins("datasets"):
        raise unknown_name("data set", dataset, [*DATASETS, *plugins("datasets")])
    if info is None or norm not in info.eps:
        raise UsageError(
            f"{option} is missing",
            f"{dataset} has no default radius for {norm}",
            f"give one, as --norm {norm} {option} 0.1",
        )
    return info.eps[norm]


def images_of(given: dict[str, Any]) -> tuple[Images, int]:
    """The images that --dataset and --limit name, and how many there would have been."""
    from rbfbench.data import load_data

    limit = parse_limit(given["limit"])
    everything = load_data(given["dataset"], data_root=given["data_root"], download=given["download"])
    if limit is not None and limit > len(everything):
        click.echo(f"note: there are {len(everything)} images, so --limit {limit} takes all", err=True)
    return everything if limit is None else everything.head(limit), len(everything)


def check_writable(option: str, path: str | None) -> None:
    """Refuse before the work what could not be written after it; - is the standard output.

    Raises:
        LoadError: It is no file in an existing folder.
    """
    if path is None or path == "-":
        return
    target = Path(os.path.realpath(path))  # what a symlink points to is written, and the link stays
    if not path or target.is_dir() or not target.parent.is_dir():
        raise LoadError(f"cannot write {option} {path!r}", "it is no file in an existing folder", "give another path")


def refuse_idle_options(heeded: set[str], why: str) -> None:
    """Refuse what was typed of the command at hand beyond the parameters it heeds now.

    Raises:
        UsageError: There is such an option.
    """
    context = click.get_current_context()
    for parameter in context.command.params:
        name = str(parameter.name)
        if name not in heeded and context.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE:
            raise UsageError(f"{parameter.opts[0]} changes nothing", why, "leave it out")


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
