"""`rbfbench compare`: several models under the same attacks, tested image by image."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from rbfbench.cli.models import load, off_stdout, options_of
from rbfbench.cli.options import check_writable, images_of, knobs_of, parse_eps, pick_device, refuse_idle_options
from rbfbench.cli.plan import eps_text_of, question_options, rows_of, spec_of, surrogates_of
from rbfbench.errors import IncomparableError, UsageError, unknown_name

if TYPE_CHECKING:
    from rbfbench.data import Images
    from rbfbench.evaluation.target import Target
    from rbfbench.results.comparison import Comparison, Result
    from rbfbench.results.records import Score

FORMATS = ("table", "md", "csv", "latex", "json")
ENDINGS = {".md": "md", ".csv": "csv", ".tex": "latex", ".json": "json"}


@click.command()
@click.argument("runs", nargs=-1, type=click.Path(path_type=Path))
@click.option("--model", "models", multiple=True, help="Model to run and compare; give two or more.")
@question_options
@click.option("--transfer-matrix", is_flag=True, help="With --model: accuracy of each on examples made on each other.")
@click.option("--format", "form", type=click.Choice(FORMATS), default="table", show_default=True)
@click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    default=None,
    help=f"File to write it to; its ending says what: {', '.join(ENDINGS)}.",
)
def compare(**given: Any) -> None:  # noqa: ANN401  (click passes the options declared above)
    """Compare models image by image: finished run folders, or models that are run here.

    The first is what the others are compared with: exact sign-flip tests, with Holm's correction over all cells.

    \b
    rbfbench compare run-rcnn run-cnn
    rbfbench compare --model rcnn+ --model mynets:build --eps 8/255 --limit 200
    rbfbench compare --model cnn --model rcnn --attack transfer --transfer-matrix
    """  # noqa: D301  (click's sign for lines that stay as they are)
    runs, models = given["runs"], given["models"]
    if runs and models:
        raise UsageError("run folders and --model exclude each other", "folders hold results", "give one of the two")
    if not runs and not models:
        raise UsageError("there is nothing to compare", "no run is named", "give two run folders, or --model twice")
    if len(runs or models) < 2:
        raise UsageError("one alone cannot be compared", f"only {(runs or models)[0]} is given", "give a second one")
    if given["transfer_matrix"] and not models:
        raise UsageError("--transfer-matrix needs --model", "run folders hold no models", "give the models")
    if len(set(models)) < len(models):
        raise UsageError("a model is named twice", f"--model {' --model '.join(models)}", "name each once")
    if runs:
        refuse_idle_options({"runs", "transfer_matrix", "form", "out"}, "run folders hold finished runs")
    form = _form(given["form"], given["out"])
    comparison = _of_folders(runs) if runs else _of_models(given)
    _print(comparison, form, given["out"])


def _form(form: str, out: Path | None) -> str:
    """The format to write; that of the file's ending, where there is a file."""
    if out is None:
        return form
    ending = out.suffix.lower()
    if ending not in ENDINGS:
        raise unknown_name("comparison format", out.suffix, ENDINGS)
    if form not in ("table", ENDINGS[ending]):
        raise UsageError(
            f"--format {form} does not fit --out {out}", f"{ending} says {ENDINGS[ending]}", "leave --format out"
        )
    check_writable("--out", str(out))
    return ENDINGS[ending]


def _of_folders(paths: Sequence[Path]) -> Comparison:
    from rbfbench.results.comparison import Result, compare_runs
    from rbfbench.results.store import read_results

    read = [(path, *read_results(path)) for path in paths]
    names = [(str(run.model.get("name")), run.spec.get("norm")) for _, run, _ in read]
    apart = len(set(names)) == len(names)
    return compare_runs(
        [Result(run, samples, str(path), name if apart else path.name)
         for (path, run, samples), (name, _) in zip(read, names, strict=True)]
    )  # fmt: skip


def _of_models(given: dict[str, Any]) -> Comparison:
    rows = rows_of(given)
    eps_text = eps_text_of(given)
    eps = parse_eps(eps_text)

    import msgspec

    from rbfbench.cli.progress import ProgressLine
    from rbfbench.evaluation.engine import evaluate
    from rbfbench.results.comparison import Result, compare_runs

    options = options_of(given)
    device = pick_device(given["device"])
    images, available = images_of(given)
    knobs = knobs_of(given)
    targets = [load(name, images, device, options, knobs) for name in given["models"]]
    if not (given["suite"] or given["attacks"] or all(target.differentiable for target in targets)):
        click.echo("note: no gradient reaches the input of one of them: the suite is black-box for all", err=True)
        given, rows = given | {"suite": "black-box"}, rows_of(given | {"suite": "black-box"})
    specs = [
        spec_of(
            given | {"model": target.name}, target, images, available, rows, eps=eps, eps_text=eps_text, knobs=knobs
        )
        for target in targets
    ]
    surrogates = surrogates_of(given, [row for spec in specs for row in spec.rows], images, device)
    results: list[Result] = []
    with ProgressLine() as line, off_stdout():
        for target, spec in zip(targets, specs, strict=True):

            def show(what: str, done: float, total: float, name: str = target.name) -> None:
                line.update(f"{name}: {what}", done, total)

            outcome = evaluate(target, images, spec, surrogates=surrogates, progress=show).whole()
            results.append(Result(outcome.run, outcome.samples, target.name, target.name))
        comparison = compare_runs(results)
        if not given["transfer_matrix"]:
            return comparison
        matrix = _matrix(given, targets, images, available, eps=eps, eps_text=eps_text)
        return msgspec.structs.replace(comparison, transfer=matrix)


def _matrix(
    given: dict[str, Any],
    targets: Sequence[Target],
    images: Images,
    available: int,
    **budget: Any,  # noqa: ANN401
) -> dict[str, dict[str, Score]]:
    """Source -> target -> accuracy on examples made on the source."""
    from rbfbench.attacks import single_rows
    from rbfbench.evaluation.engine import evaluate
    from rbfbench.interop import attack_info
    from rbfbench.results.records import Score

    rows = single_rows({"transfer": attack_info("transfer")}, "static", 1)
    matrix: dict[str, dict[str, Score]] = {}
    for source in targets:
        for target in targets:
            asked = given | {"model": target.name, "surrogates": (source.name,), "attacks": ("transfer",)}
            spec = spec_of(asked, target, images, available, rows, knobs=knobs_of(given), **budget)
            row = evaluate(target, images, spec, surrogates=[source]).whole().run.attacks[0]
            if row.unknown:
                raise IncomparableError(
                    f"{target.name} cannot be scored on the examples of {source.name}",
                    f"the attack crashed on {row.unknown} of {row.n} images",
                    "run it alone, with attack --attack transfer, to see why",
                )
            cell = Score(accuracy=row.accuracy, k=row.k, n=row.n, ci95=row.ci95)
            matrix.setdefault(source.name, {})[target.name] = cell
    return matrix


def _print(comparison: Comparison, form: str, out: Path | None) -> None:
    from rbfbench.reporting.compare_table import rendered
    from rbfbench.results.atomic import write_atomic

    if form == "table":
        from rich.console import Console

        from rbfbench.reporting.compare_table import compare_table

        Console(highlight=False).print(compare_table(comparison))
        return
    text = rendered(comparison, form)
    if out:
        write_atomic(out, text.encode())
    else:
        sys.stdout.write(text)
