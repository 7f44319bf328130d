"""`rbfbench sweep`: the trade-off over one number, as a table and a curve."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from rbfbench.attacks import Row
from rbfbench.cli.documents import hand_over
from rbfbench.cli.models import load, off_stdout, options_of
from rbfbench.cli.options import (
    check_writable,
    default_radius,
    images_of,
    knobs_of,
    parse_eps,
    parse_limit,
    pick_device,
)
from rbfbench.cli.plan import eps_text_of, rows_of, run_options, spec_of, surrogates_of
from rbfbench.errors import LoadError, ModelError, UsageError, unknown_name

if TYPE_CHECKING:
    from rbfbench.cli.progress import ProgressLine
    from rbfbench.evaluation.spec import RunSpec
    from rbfbench.results.records import Sample
    from rbfbench.results.sweep import Sweep

OVER = ("eps", "beta1", "beta2", "m", "var_floor")
BETA2 = "0,1,1.5,1.75"  # those of the paper, Table VII, and one below
SHARES = (0.25, 0.5, 1.0, 2.0)  # of the paper's radius


@click.command()
@click.option("--over", default="beta2", show_default=True, help=f"What changes: {', '.join(OVER)}.")
@click.option(
    "--values",
    default=None,
    help=f"Comma-separated numbers.  [default: {BETA2} for beta2; 1/4, 1/2, 1 and 2 times the radius for eps]",
)
@run_options
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    default=None,
    help="Folder for sweep.json and a run folder a value; the same command goes on.",
)
@click.option("--figure", type=click.Path(path_type=Path), default=None, help="Curve to draw, .png or .svg.")
@click.option("--json", "json_path", default=None, metavar="FILE", help="Write sweep.json there; - for stdout alone.")
def sweep(**given: Any) -> None:  # noqa: ANN401  (click passes the options declared above)
    """Attack one model at several values of one number, on the same images.

    \b
    rbfbench sweep --over beta2 --figure beta2.png
    rbfbench sweep --over eps --values 2/255,4/255,8/255 --model cnn
    """  # noqa: D301  (click's sign for lines that stay as they are)
    rows = rows_of(given)
    values = _values(given)
    radii = {text: parse_eps(text if given["over"] == "eps" else eps_text_of(given)) for text in values}
    parse_limit(given["limit"])
    check_writable("--json", given["json_path"])
    if given["figure"]:
        from rbfbench.reporting.figures import check_file

        check_file(given["figure"], "--figure")
    done, interrupted, lost = _run(given, rows, values, radii)
    if done.points:
        _print(given, done)
    if lost:
        raise lost
    if interrupted:
        from rbfbench.cli import INTERRUPTED

        kept = "shown and kept" if given["out"] else "shown"
        click.echo(f"interrupted: {len(done.points)} of {len(values)} values are done and {kept}", err=True)
        raise click.exceptions.Exit(INTERRUPTED)


def _values(given: dict[str, Any]) -> dict[str, float]:
    """The values as written, in growing order. Raises UsageError."""
    over, text = given["over"], given["values"]
    if over not in OVER:
        raise unknown_name("quantity to sweep", over, OVER)
    if given["eps_text" if over == "eps" else over] is not None:
        option = "--" + over.replace("_", "-")
        raise UsageError(f"{option} and --over {over} exclude each other", "the sweep sets it", "leave one out")
    if text is None:
        if over == "beta2":
            text = BETA2
        elif over == "eps":
            radius = default_radius(given["dataset"], given["norm"], "--values")
            text = ",".join(f"{share * radius:g}" for share in SHARES)
        else:
            raise UsageError("--values is missing", f"{over} has no default values", "give some, as --values 10,25,125")
    values: dict[str, float] = {}
    for part in text.split(","):
        values[part.strip()] = _number(over, part.strip())
    if len(set(values.values())) < len(text.split(",")):
        raise UsageError(f"--values {text} holds a value twice", "each is one run", "give each once")
    return dict(sorted(values.items(), key=lambda item: item[1]))


def _number(over: str, text: str) -> float:
    if over == "eps":
        return parse_eps(text, "--values")
    try:
        return int(text) if over == "m" else float(text)
    except ValueError:
        number = "a whole number" if over == "m" else "a number"
        raise UsageError(f"--values {text!r} is not {number}", "it cannot be read as one", f"give {number}") from None


def _run(
    given: dict[str, Any], rows: list[Row], values: dict[str, float], radii: dict[str, float]
) -> tuple[Sweep, bool, ModelError | None]:
    from rbfbench.cli.progress import ProgressLine
    from rbfbench.evaluation.engine import evaluate
    from rbfbench.evaluation.target import Target
    from rbfbench.results.store import RunFolder
    from rbfbench.results.sweep import Sweep, SweepPoint, broken, budgets_nest

    options = options_of(given)
    device = pick_device(given["device"])
    images, available = images_of(given)
    over, points, broken_at = given["over"], list[SweepPoint](), list[set[str]]()
    interrupted, lost = False, None
    smaller: Sequence[Sample] = ()
    targets: dict[str, tuple[Target, RunSpec]] = {}
    for text, value in values.items():  # all before the first run: a value that cannot be used ends the sweep at once
        knobs = knobs_of(given) | ({} if over == "eps" else {over: value})
        if over != "eps" or not targets:  # one model serves all radii
            target = load(given["model"], images, device, options, knobs)
        eps_text = text if over == "eps" else eps_text_of(given)
        spec = spec_of(given, target, images, available, rows, eps=radii[text], eps_text=eps_text, knobs=knobs)
        targets[text] = target, spec
    surrogates = surrogates_of(given, [row for _, spec in targets.values() for row in spec.rows], images, device)
    if given["out"]:
        _claim(given["out"], over, values, next(spec for _, spec in targets.values()))
    with ProgressLine() as line, off_stdout():
        for text, (target, spec) in targets.items():
            folder = RunFolder(given["out"] / f"{over}={text.replace('/', '_')}") if given["out"] else None
            show = partial(_show, line, f"{over} {text}: ")
            try:
                outcome = evaluate(
                    target,
                    images,
                    spec,
                    surrogates=surrogates,
                    smaller=smaller,
                    folder=folder,
                    save_examples=16,
                    progress=show,
                )
            except ModelError as error:  # such as noise of 0, where attacks through the noise have nothing to look at
                raise ModelError(f"{over} {text}: {error.what}", error.why, error.todo) from error
            if (lost := outcome.lost) or (interrupted := outcome.interrupted):
                break
            smaller = outcome.samples if over == "eps" else ()
            points.append(SweepPoint(value=values[text], text=text, run=outcome.run))
            broken_at.append(broken(outcome.samples, outcome.run))
    checks = [budgets_nest(points, broken_at)] if over == "eps" and len(points) > 1 else []
    missing = tuple(values)[len(points) :]
    done = Sweep(status="started" if missing else "complete", missing=missing, over=over, points=points, checks=checks)
    return done, interrupted, lost


def _claim(out: Path, over: str, values: dict[str, float], spec: RunSpec) -> None:
    """Refuse a folder of another sweep, whose sweep.json would make way for this one (`LoadError`)."""
    from rbfbench.results.store import SWEEP_FILE, claim, read_document
    from rbfbench.results.sweep import Sweep

    question = spec.question()
    knobs = {name: value for name, value in question.pop("knobs").items() if name != over}
    varied = {"eps": None} if over == "eps" else {}
    claim(out, question | varied | {"knobs": knobs, "sweep": over})
    if (out / SWEEP_FILE).is_file():
        try:
            done = read_document(out / SWEEP_FILE, Sweep)
        except LoadError:  # damaged: written anew, from the runs beside it
            return
        if lost := [point.text for point in done.points if point.value not in values.values()]:
            why = f"its {SWEEP_FILE} holds {over} {', '.join(lost)}, which would be lost"
            raise LoadError(f"cannot use {out} for this sweep", why, "add these --values, or choose another --out")


def _show(line: ProgressLine, where: str, what: str, done: float, total: float) -> None:
    line.update(where + what, done, total)


def _print(given: dict[str, Any], done: Sweep) -> None:
    from rbfbench.reporting.sweep_table import sweep_table
    from rbfbench.results.store import SWEEP_FILE

    hand_over(done, given, SWEEP_FILE, lambda: sweep_table(done))
    if given["figure"]:
        _draw(given, done)


def _draw(given: dict[str, Any], done: Sweep) -> None:
    from rbfbench.reporting.figures import curves, write_figure
    from rbfbench.reporting.notes import constants
    from rbfbench.reporting.sweep_table import capped, lines_of, unfinished
    from rbfbench.reporting.words import FEWER

    lines = {name: scores for name, scores in lines_of(done.points).items() if name != "null control"}
    run = done.points[0].run
    spec = run.spec
    model = spec["model"] + (f" ({fixed})" if (fixed := constants(run, swept=done.over)) else "")
    budget = given["norm"] if done.over == "eps" else f"{given['norm']} eps {spec['eps_text']}"
    worst = [f"{point.text}: {point.run.worst_case.accuracy:.1%}" for point in done.points if point.run.worst_case]
    caption = (
        f"Accuracy of {model} on {run.clean.n} images of {spec['dataset']} ({spec['source']}), {budget}, seed "
        f"{spec['seed']}. Worst case by {done.over}: {', '.join(worst)}. Bands: 95% intervals over the choice of "
        f"images; the strength of the attacks is not in them.{f' {FEWER}' if capped(done.points) else ''}"
        + (f" {unfinished(done)}" if done.status == "started" else "")
    )
    width, height = write_figure(
        curves(done.over, [point.value for point in done.points], lines, caption), given["figure"]
    )
    click.echo(f"wrote {given['figure']} ({width} x {height} pixels)", err=True)
