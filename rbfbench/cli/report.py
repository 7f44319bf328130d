"""`rbfbench report`: finished runs as a page to read, or as tables for other programs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from rbfbench.cli.again import certify_command_of, command_of
from rbfbench.cli.options import check_writable
from rbfbench.errors import IncomparableError, unknown_name

if TYPE_CHECKING:
    from rbfbench.reporting.report import Entry, Report
    from rbfbench.results.comparison import Comparison

ENDINGS = (".html", ".md", ".csv", ".tex")


@click.command()
@click.argument("runs", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("report.html"),
    show_default=True,
    help=f"File to write; its ending says what: {', '.join(ENDINGS)}.",
)
@click.option("--title", default=None, help="Heading of the page.  [default: model and images]")
def report(runs: tuple[Path, ...], out: Path, title: str | None) -> None:
    """Write finished runs as one HTML file, or as Markdown, CSV or LaTeX.

    RUNS are folders of `attack`, `sweep` or `certify`, or the file in them. The HTML file needs neither network nor
    script; it holds tables, curves, examples, checks and the whole run.json, sweep.json or certify.json.

    \b
    rbfbench report run --out report.html
    rbfbench report run-cnn run-rcnn --out comparison.md
    rbfbench report sweep-eps --out curve.tex
    """  # noqa: D301  (click's sign for lines that stay as they are)
    if out.suffix.lower() not in ENDINGS:
        raise unknown_name("report format", out.suffix, ENDINGS)
    check_writable("--out", str(out))
    found = read(runs)

    from rbfbench.reporting.report import latex, markdown, spreadsheet
    from rbfbench.results.atomic import write_atomic

    def page(made: Report) -> str:
        from rbfbench.reporting.page import html

        return html(made, title or _title(made))

    forms: dict[str, Callable[[Report], str]] = dict(zip(ENDINGS, (page, markdown, spreadsheet, latex), strict=True))
    text = forms[out.suffix.lower()](found).encode()
    write_atomic(out, text)
    click.echo(f"wrote {out} ({len(text):,} bytes)", err=True)


def read(paths: Sequence[Path]) -> Report:
    """What the folders hold.

    Raises:
        LoadError: One of them holds nothing that can be shown, or is damaged.
        IncompleteError: One of them has no results yet.
    """
    from rbfbench.reporting.report import Certificates, Entry, Report, sweeps_of
    from rbfbench.results.certificates import Certification
    from rbfbench.results.store import CERTIFY_FILE, SWEEP_FILE, read_document, read_run
    from rbfbench.results.sweep import Sweep

    entries, sweeps, certifications = list[Entry](), list[Sweep](), list[Certificates]()
    for path in paths:
        sweep, certify = (path if path.name == name else path / name for name in (SWEEP_FILE, CERTIFY_FILE))
        if sweep.is_file():
            sweeps.append(read_document(sweep, Sweep))
        elif certify.is_file():
            done = read_document(certify, Certification)
            certifications.append(Certificates(done, certify_command_of(done.spec)))
        else:
            run = read_run(path)
            entries.append(Entry(run, command_of(run.spec), path if path.is_dir() else None))
    together = sweeps_of([entry.run for entry in entries])
    return Report(entries, [*sweeps, *together], certifications, _compared(entries))


def _compared(entries: Sequence[Entry]) -> Comparison | None:
    """The runs side by side, if there are several models under the same attacks on the same images."""
    from rbfbench.results.comparison import Result, compare_runs
    from rbfbench.results.store import read_results

    named = {(entry.run.model_digest, entry.run.spec["norm"]) for entry in entries}
    if len(entries) < 2 or len(named) < len(entries) or not all(entry.folder for entry in entries):
        return None
    names = [str(entry.run.model.get("name")) for entry in entries]
    results = [
        Result(*read_results(e.folder), str(e.folder), name if names.count(name) == 1 else e.folder.name)
        for e, name in zip(entries, names, strict=True)
        if e.folder
    ]
    try:
        return compare_runs(results)
    except IncomparableError as error:
        click.echo(f"note: not shown side by side: {error}", err=True)
        return None


def _title(made: Report) -> str:
    names = [f"{entry.run.model.get('name')} on {entry.run.spec['dataset']}" for entry in made.entries]
    names += [f"{sweep.points[0].run.model.get('name')} over {sweep.over}" for sweep in made.sweeps]
    names += [f"{each.done.model['name']}, certified" for each in made.certifications]
    return f"Robustness of {', '.join(dict.fromkeys(names))}"
