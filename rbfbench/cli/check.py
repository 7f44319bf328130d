"""`rbfbench check`: the gate for CI. Exit code 1 when robustness fell, 3 when that cannot be said."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import click

from rbfbench.cli.again import command_of
from rbfbench.cli.configuration import asked_by_the_gate, choose_gate
from rbfbench.cli.options import NORMS, FiniteRange, check_writable, parse_eps, refuse_idle_options
from rbfbench.cli.plan import run_options
from rbfbench.errors import IncomparableError, UsageError

if TYPE_CHECKING:
    from rbfbench.data.images import Images
    from rbfbench.evaluation.engine import Outcome
    from rbfbench.evaluation.spec import RunSpec
    from rbfbench.evaluation.target import Target
    from rbfbench.results.gate import Baseline, Gate
    from rbfbench.results.records import Run

SUMMARY_LIMIT = 900_000  # bytes; GitHub drops a job summary above 1 MiB


@click.command()
@click.argument("run", required=False, type=click.Path(path_type=Path))
@click.option(
    "--gate",
    default=None,
    is_eager=True,
    expose_value=False,
    callback=choose_gate,
    help="Take the options of [gate.NAME] in rbfbench.toml.",
)
@click.option("--baseline", type=click.Path(path_type=Path), default=None, help="Baseline file, or another run folder.")
@click.option("--max-drop", type=FiniteRange(0, 100), default=1.0, show_default=True, help="Allowed fall, in points.")
@click.option(
    "--alpha",
    type=FiniteRange(0, 1, min_open=True, max_open=True),
    default=0.05,
    show_default=True,
    help="Chance of failing an unchanged model.",
)
@click.option(
    "--min-accuracy",
    "floors",
    multiple=True,
    metavar="[NORM=]ACCURACY",
    help="Least worst case, as linf=0.4; may be repeated.",
)
@click.option("--junit", default=None, metavar="FILE", help="Write JUnit XML there.")
@click.option("--github", is_flag=True, help="Annotate the workflow, and write its job summary.")
@click.option(
    "--json", "json_path", default=None, metavar="FILE", help="Write the judgement there; - for stdout alone."
)
@click.option(
    "--out", type=click.Path(file_okay=False, path_type=Path), default=None, help="Without RUN: folder to run in."
)
@run_options
def check(**given: Any) -> None:  # noqa: ANN401  (click passes the options declared above)
    """Fail when robustness fell against a baseline.

    RUN is the folder of a finished run. Without it, the attack options name a run, which is made first.

    \b
    rbfbench baseline save run robust.json
    rbfbench check run --baseline robust.json --junit gate.xml
    rbfbench check --model mynets:build --dataset npz:images.npz --eps 8/255 --baseline robust.json
    rbfbench check run --min-accuracy linf=0.4
    """  # noqa: D301  (click's sign for lines that stay as they are)
    floors = _floors(given["floors"])
    if given["baseline"] is None and not floors:
        raise UsageError("there is nothing to judge by", "no --baseline and no --min-accuracy", "give one of them")
    for option, name in (("--junit", "junit"), ("--json", "json_path")):
        check_writable(option, given[name])
    if given["run"]:
        heeded = {"run", "gate", "baseline", "max_drop", "alpha", "floors", "junit", "github", "json_path"}
        refuse_idle_options(heeded, f"{given['run']} is a finished run")

    from rbfbench.results.gate import baseline_of, images_of, judge, read_baseline
    from rbfbench.results.store import read_results

    before = read_baseline(given["baseline"]) if given["baseline"] else None
    if given["run"]:
        run, samples = read_results(given["run"])
        _answers_the_gate(run)
    else:
        run, samples = _made(given, before)
    after = baseline_of(run, samples, command_of(run.spec))
    gate = judge(
        before,
        after,
        images=images_of(samples),
        max_drop=given["max_drop"] / 100,
        alpha=given["alpha"],
        floors=floors,
    )
    # The verdict stands where the reader of our output went away, as click and rich say it.
    with suppress(BrokenPipeError, SystemExit):
        _print(given, gate)
    _keep(given, gate)
    if not gate.passed:
        raise click.exceptions.Exit(1 if gate.answer == "FAILED" else 3)


def _answers_the_gate(run: Run) -> None:
    """Refuse a finished run that is about another question than the gate of rbfbench.toml asks."""
    gate = asked_by_the_gate()
    asked: dict[str, Any] = {name: gate[name] for name in ("model", "dataset", "norm") if name in gate}
    if "eps_text" in gate:
        asked["eps"] = parse_eps(str(gate["eps_text"]))
    for field, wanted in asked.items():
        if run.spec.get(field) != wanted:
            raise IncomparableError(
                "the run does not answer the gate",
                f"{field} is {run.spec.get(field)} in the run and {wanted} in the gate",
                "leave the run out: the gate makes its own",
            )


def _floors(texts: tuple[str, ...]) -> dict[str, float]:
    floors: dict[str, float] = {}
    for text in texts:
        norm, equals, number = text.rpartition("=")
        try:
            least = float(number)
        except ValueError:
            least = -1.0
        if not 0 <= least <= 1 or (equals and norm not in NORMS) or norm in floors:
            raise UsageError(f"--min-accuracy {text} cannot be used", "it is not NORM=ACCURACY", "write linf=0.4")
        floors[norm] = least
    return floors


def _made(given: dict[str, Any], before: Baseline | None) -> tuple[Any, Any]:
    """Run the attack that the options name, unless the baseline was asked something else."""
    from rbfbench.cli.attack import run_attack
    from rbfbench.evaluation.work import planned
    from rbfbench.results.gate import same_attacks, same_terms

    def agree(target: Target, spec: RunSpec, images: Images) -> None:
        if before:
            same_terms(before, spec.document(), data_digest=images.digest, n=len(images))
            same_attacks(before, planned(target, spec.rows, len(images)))

    asked = given | {"save_examples": False, "dry_run": False, "json_path": None}
    whole = cast("Outcome", run_attack(asked, agree)).whole()  # only a dry run has none
    return whole.run, whole.samples


def _keep(given: dict[str, Any], gate: Gate) -> None:
    """Write the files that are asked for."""
    from rbfbench.reporting.gate_table import junit, summary
    from rbfbench.results.atomic import write_atomic

    if given["json_path"] not in (None, "-"):
        write_atomic(Path(given["json_path"]), _document(gate))
    if given["junit"]:
        write_atomic(Path(given["junit"]), junit(gate).encode())
    if given["github"] and (place := os.environ.get("GITHUB_STEP_SUMMARY")):
        text = summary(gate)[:SUMMARY_LIMIT]
        with Path(place).open("a", encoding="utf-8") as file:
            file.write(text)


def _print(given: dict[str, Any], gate: Gate) -> None:
    from rbfbench.reporting.gate_table import gate_table, github_lines

    if given["json_path"] == "-":
        click.echo(_document(gate).decode(), nl=False)
    else:
        from rich.console import Console

        # Whole lines: the command to paste may be wider than the screen, all else fits.
        Console(highlight=False).print(gate_table(gate), crop=False)
    if given["github"]:
        for line in github_lines(gate):
            click.echo(line, err=given["json_path"] == "-")


def _document(gate: Gate) -> bytes:
    from rbfbench.results.records import encode

    return encode(gate) + b"\n"


@click.group()
def baseline() -> None:
    """Keep what a run measured, small enough to commit, for `rbfbench check`."""


@baseline.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
def save(run: Path, file: Path) -> None:
    """Write the baseline of a finished run to a new file."""
    if file.exists():
        raise UsageError(f"{file} exists", "it may be what others are judged by", "use `rbfbench baseline update`")
    _write(file, _baseline_of(run))


@baseline.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
def update(run: Path, file: Path) -> None:
    """Replace a baseline by that of a finished run, and print what changes."""
    from rbfbench.results.gate import read_baseline

    old, new = read_baseline(file), _baseline_of(run)
    _write(file, new)
    for name in dict.fromkeys([*old.cells, *new.cells]):
        accuracies = [f"{b.cells[name].accuracy:.1%}" if name in b.cells else "none" for b in (old, new)]
        click.echo(f"{name}: {' -> '.join(accuracies)}")


@baseline.command()
@click.argument("file", type=click.Path(path_type=Path))
def show(file: Path) -> None:
    """Print what a baseline holds."""
    from rbfbench.results.gate import read_baseline

    found = read_baseline(file)
    click.echo(f"{found.model}, {found.images}, {found.asked['norm']} eps {found.asked['eps']:g}, {found.n} images")
    for name, cell in found.cells.items():
        click.echo(f"{name}: {cell.accuracy:.1%}")
    if found.command:  # a run folder has none of its own
        click.echo(f"again: {found.command}")


def _baseline_of(run: Path) -> Baseline:
    from rbfbench.results.gate import baseline_of
    from rbfbench.results.store import read_results

    made, samples = read_results(run)
    return baseline_of(made, samples, command_of(made.spec))


def _write(file: Path, made: Baseline) -> None:
    import msgspec

    from rbfbench.results.atomic import write_atomic
    from rbfbench.results.records import encode

    write_atomic(file, msgspec.json.format(encode(made), indent=1) + b"\n")
    click.echo(f"wrote {file} ({file.stat().st_size:,} bytes)", err=True)
