"""The options that say how a model is loaded, and the sentence that says what was found."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from rbfbench.cli.options import FiniteRange
from rbfbench.defenses import DEFAULT_MODEL
from rbfbench.errors import UsageError
from rbfbench.evaluation.load_options import TIMEOUT, LoadOptions
from rbfbench.interop.preprocessings import PREPROCESSINGS, parse_preprocessing

if TYPE_CHECKING:
    from rbfbench.data import Images
    from rbfbench.evaluation.target import Target

F = TypeVar("F", bound=Callable[..., Any])

FORMS = "Shipped name, .safetensors of `train`, module:factory, file.py:factory, .onnx, timm:NAME or cmd:COMMAND."


def one_model(command: F) -> F:
    """--model, and what can be said of one model alone."""
    options = [
        click.option("--model", default=DEFAULT_MODEL, show_default=True, help=FORMS),
        click.option(
            "--weights",
            type=click.Path(dir_okay=False, path_type=Path),
            default=None,
            help="Weights for the module that a factory builds: safetensors, or a state dict.",
        ),
        click.option("--mean", default=None, help="What the model wants subtracted from pixels: 0.49,0.48,0.45."),
        click.option("--std", default=None, help="What it wants them divided by then."),
        click.option("--input-range", default=None, help="What it expects in place of 0,1; such as 0,255."),
        click.option(
            "--defense",
            "defenses",
            multiple=True,
            help=f"Put it in front of the model: {', '.join(PREPROCESSINGS)}; as art:jpeg:quality=75.",
        ),
    ]
    for option in reversed(options):
        command = option(command)
    return command


def any_model(command: F) -> F:
    """What can be said of any number of models."""
    command = click.option(
        "--timeout",
        type=FiniteRange(0, 1e6, min_open=True),  # 11 days; a thread can wait for some centuries
        default=TIMEOUT,
        show_default=True,
        help="Seconds that a cmd: model may take for one answer.",
    )(command)
    return click.option("--trust", is_flag=True, help="Unpickle model files, which can run any code in them.")(command)


def options_of(given: dict[str, Any]) -> LoadOptions:
    """How the user wants the model loaded.

    Raises:
        UsageError: A number that is none, or a defence that there is not.
    """
    spread = _numbers("--std", given.get("std"))
    if spread and min(spread) <= 0:
        raise UsageError(f"--std {given['std']} cannot divide", "it must be above 0", "give such numbers")
    ends = _numbers("--input-range", given.get("input_range"))
    if ends and (len(ends) != 2 or ends[0] >= ends[1]):
        raise UsageError(
            f"--input-range {given['input_range']} is no range", "it must be two growing numbers", "write 0,255"
        )
    return LoadOptions(
        weights=given.get("weights"),
        trust=given["trust"],
        download=given["download"],
        timeout=given["timeout"],
        mean=_numbers("--mean", given.get("mean")),
        std=spread,
        input_range=(ends[0], ends[1]) if ends else None,
        defenses=tuple(parse_preprocessing(text) for text in given.get("defenses", ())),
    )


def _numbers(flag: str, text: str | None) -> tuple[float, ...] | None:
    if text is None:
        return None
    try:
        numbers = tuple(float(part) for part in text.split(","))
    except ValueError:
        numbers = (math.nan,)
    if not all(map(math.isfinite, numbers)):
        raise UsageError(f"{flag} {text} cannot be read", "it is no list of numbers", "write 0.5,0.5,0.5")
    return numbers


def off_stdout() -> AbstractContextManager[object]:
    """Sends what the user's code prints to stderr: stdout is for results."""
    return redirect_stdout(sys.stderr)


def load(
    name: str,
    images: Images,
    device: Any,  # noqa: ANN401  (a torch.device; this module must not import torch)
    options: LoadOptions,
    knobs: dict[str, Any],
) -> Target:
    """The model, after saying on stderr what it offers."""
    from rbfbench.evaluation.loading import load_target

    with off_stdout():
        target = load_target(name, images, device, knobs=knobs, options=options)
    click.echo(described(target.card), err=True)
    return target


def described(card: dict[str, Any]) -> str:
    """What inspection found, in a line: it decides which attacks make sense."""
    shape = "x".join(map(str, card["input_shape"]))
    gives = "probabilities" if card["probabilities"] else "logits"
    passes = "1 pass" if card["m"] == 1 else f"{card['m']} passes"
    random = f"random, {passes} a decision" if card["stochastic"] else "deterministic"
    gradient = "differentiable" if card["differentiable"] else "no gradient reaches its input"
    if card["approximated"] and card["differentiable"]:
        gradient += " through a stand-in"
    return (
        f"{card['name']}: {shape} images in {card['input']}, {card['n_classes']} classes, {gives}, {random}, {gradient}"
    )
