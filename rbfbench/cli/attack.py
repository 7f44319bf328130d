"""`rbfbench attack`: attack one model under one norm and budget, verify, print."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from rbfbench.cli.models import load, off_stdout, options_of
from rbfbench.cli.options import check_writable, images_of, knobs_of, parse_eps, parse_limit, pick_device
from rbfbench.cli.plan import eps_text_of, rows_of, run_options, spec_of, surrogates_of
from rbfbench.errors import IncompleteError, UsageError

if TYPE_CHECKING:
    from rbfbench.data.images import Images
    from rbfbench.evaluation.engine import Outcome
    from rbfbench.evaluation.spec import RunSpec
    from rbfbench.evaluation.target import Target


@click.command()
@run_options
@click.option(
    "--out", type=click.Path(file_okay=False, path_type=Path), default=None, help="Run folder to keep and resume."
)
@click.option("--save-examples", is_flag=True, help="Keep all adversarial examples in --out, not the first 16.")
@click.option("--dry-run", is_flag=True, help="Print what the run would cost, and run nothing.")
@click.option("--json", "json_path", default=None, metavar="FILE", help="Write run.json there; - for stdout alone.")
def attack(**given: Any) -> None:  # noqa: ANN401  (click passes the options declared above)
    """Attack a classifier and print how robust it is.

    Every adversarial example is verified outside the attack that made it; accuracies carry 95% intervals.

    \b
    rbfbench attack --norm linf --eps 0.031
    rbfbench attack --dataset mnist --norm l2 --limit 1000
    rbfbench attack --model mynets:build --dataset npz:images.npz --eps 8/255
    """  # noqa: D301
    if given["save_examples"] and given["out"] is None:
        raise UsageError("--save-examples has nowhere to write", "there is no --out", "add --out DIR")
    check_writable("--json", given["json_path"])
    outcome = run_attack(given)
    if outcome is None:
        return
    _print(outcome, given["json_path"])
    if outcome.interrupted:
        from rbfbench.cli import INTERRUPTED

        click.echo("interrupted: finished attacks are shown" + (" and kept" if given["out"] else ""), err=True)
        raise click.exceptions.Exit(INTERRUPTED)
    if outcome.lost:
        raise outcome.lost
    if crashed := [row.id for row in outcome.run.attacks if row.unknown]:
        raise IncompleteError(
            "the run is partial", f"{', '.join(crashed)} crashed on some images", "see the checks above"
        )


def run_attack(
    given: dict[str, Any], agree: Callable[[Target, RunSpec, Images], None] = lambda target, spec, images: None
) -> Outcome | None:
    """The run that the options name; None where only its cost was asked for. `agree` may refuse it before it begins."""
    rows = rows_of(given)
    eps_text = eps_text_of(given)
    eps = parse_eps(eps_text)
    parse_limit(given["limit"])

    from rbfbench.cli.cost import print_cost
    from rbfbench.cli.progress import ProgressLine
    from rbfbench.evaluation.engine import evaluate
    from rbfbench.results.store import RunFolder

    options = options_of(given)
    device = pick_device(given["device"])
    images, available = images_of(given)
    knobs = knobs_of(given)
    target = load(given["model"], images, device, options, knobs)
    spec = spec_of(given, target, images, available, rows, eps=eps, eps_text=eps_text, knobs=knobs)
    agree(target, spec, images)
    surrogates = surrogates_of(given, spec.rows, images, device)
    print_cost(target, images, spec, surrogates, whole=given["dry_run"])
    if given["dry_run"]:
        return None
    folder = RunFolder(given["out"]) if given["out"] else None
    keep = None if given["save_examples"] else 16
    with ProgressLine() as line, off_stdout():
        return evaluate(
            target,
            images,
            spec,
            surrogates=surrogates,
            folder=folder,
            save_examples=keep,
            progress=line.update,
        )


def _print(outcome: Outcome, json_path: str | None) -> None:
    from rbfbench.results.records import encode_run

    if json_path == "-":
        sys.stdout.buffer.write(encode_run(outcome.run))
        sys.stdout.flush()
        return
    from rich.console import Console

    from rbfbench.reporting.table import attack_table

    Console(highlight=False).print(attack_table(outcome.run))
    if json_path:
        from rbfbench.results.atomic import write_atomic

        write_atomic(Path(json_path), encode_run(outcome.run))
