"""A report as one HTML file: no network, no script; light and dark, wide and narrow."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rbfbench.reporting.compare_table import caption as compared_caption
from rbfbench.reporting.compare_table import cells as compared_cells
from rbfbench.reporting.compare_table import reading
from rbfbench.reporting.gallery import Shown, gallery
from rbfbench.reporting.grid import Grid
from rbfbench.reporting.notes import QUESTIONS, caption, explain, warnings
from rbfbench.reporting.report import (
    Entry,
    Report,
    certificate_caption,
    certificate_grid,
    headline,
    sweep_caption,
    sweep_grid,
)
from rbfbench.reporting.sweep_table import distrust, lines_of
from rbfbench.reporting.table import sections
from rbfbench.reporting.words import count, duration, interval, percent
from rbfbench.results.intervals import score
from rbfbench.results.records import AttackRow, Run, Score, encode, encode_run
from rbfbench.results.sweep import Sweep


@dataclass(frozen=True)
class Section:
    """What the template shows of one run."""

    title: str
    origin: list[str]
    headline: str
    distrust: list[str]
    lines: list[list[Any]]
    terms: list[tuple[str, str]]
    costs: list[tuple[AttackRow, float]]
    curve: str
    gallery: dict[str, list[Shown]]
    checks: list[tuple[str, str, bool, str]]
    command: str
    raw: str


def html(report: Report, title: str) -> str:
    """The page.

    Args:
        report: What to show.
        title: Of the page.

    Raises:
        LoadError: Adversarial examples of a run cannot be read.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("rbfbench.reporting", "page"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"percent": percent, "interval": interval, "count": count, "duration": duration}
    comparison, runs = report.comparison, [entry.run for entry in report.entries]
    return environment.get_template("report.html").render(
        title=title,
        sections=[_section(entry) for entry in report.entries],
        compared=_table(compared_cells(comparison)) if comparison else None,
        compared_caption=compared_caption(comparison) if comparison else "",
        reading=reading(comparison) if comparison else [],
        sweeps=[
            (
                sweep_caption(sweep),
                _table(sweep_grid(sweep)),
                _sweep_curve(sweep),
                "" if sweep.points[0].run in runs else encode(sweep).decode(),
                distrust(sweep),
            )
            for sweep in report.sweeps
        ],
        certifications=[
            (
                certificate_caption(made.done),
                _table(certificate_grid(made.done)),
                made.command,
                encode(made.done).decode(),
            )
            for made in report.certifications
        ],
    )


def _table(grid: Grid) -> Mapping[str, Any]:
    return {"head": grid.head, "rows": grid.rows, "rules": grid.rules}


def _section(entry: Entry) -> Section:
    run = entry.run
    title, *origin = [text.plain for text in caption(run)]
    slowest = max((row.wall_s for row in run.attacks), default=0.0)
    return Section(
        title=title,
        origin=origin,
        headline=headline(run),
        distrust=[text.plain.removeprefix("! ") for text in warnings(run) if text.plain],
        lines=[list(section) for section in sections(run) if section],
        terms=list(explain(run)),
        costs=[(row, row.wall_s / slowest if slowest else 0.0) for row in run.attacks],
        curve=_distance_curve(run),
        gallery=gallery(entry.folder, [row.id for row in run.attacks]) if entry.folder else {},
        checks=list(_checks(run)),
        command=entry.command,
        raw=encode_run(run).decode(),
    )


def _checks(run: Run) -> Iterator[tuple[str, str, bool, str]]:
    """(code, question in plain words, whether it fired, what it found), those that fired first."""
    for check in sorted(run.checks, key=lambda check: not check.fired):
        yield check.code, QUESTIONS.get(check.code, ""), check.fired, check.detail if check.fired else ""


def _sweep_curve(sweep: Sweep) -> str:
    lines = {name: scores for name, scores in lines_of(sweep.points).items() if name != "null control"}
    return _curve(sweep.over, [point.value for point in sweep.points], lines)


def _distance_curve(run: Run) -> str:
    """Accuracy over the radius by attacks that look for the nearest adversarial example; "" where there is none."""
    rows = [row for row in run.attacks if row.curve]
    if not rows:
        return ""
    radii = [radius for radius, _ in rows[0].curve or ()]
    lines: dict[str, Sequence[Score | None]] = {
        row.id: [score(accuracy * row.n, row.n) for _, accuracy in row.curve or ()] for row in rows
    }
    return _curve(f"{rows[0].norm} radius", radii, lines)


def _curve(over: str, values: Sequence[float], lines: Mapping[str, Sequence[Score | None]]) -> str:
    """A curve as the data URI of an SVG: a picture of its own, whose names cannot meet those of another."""
    from rbfbench.reporting.figures import curves, drawn

    figure = curves(over, values, lines, "Bands are 95% intervals over the choice of images.")
    return "data:image/svg+xml;base64," + base64.b64encode(drawn(figure, "svg")).decode()
