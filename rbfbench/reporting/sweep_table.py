"""The table of a sweep: a row an attack, a column a value."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from rbfbench.reporting.notes import GOES_ON, caption
from rbfbench.reporting.words import FEWER, interval, percent, plural, titled
from rbfbench.results.records import Score
from rbfbench.results.sweep import Sweep, SweepPoint

COLUMNS = 5  # values side by side within 80 characters


def sweep_table(sweep: Sweep) -> RenderableType:
    """Caption, tables and warnings of a sweep, readable at 80 columns."""
    return Group(*_parts(sweep))


def lines_of(points: Sequence[SweepPoint]) -> dict[str, list[Score | None]]:
    """What the runs measured: the name of a row of the table to its scores, None where a run has no such row."""
    attacks = dict.fromkeys(row.id for point in points for row in point.run.attacks)
    lines: dict[str, list[Score | None]] = {"clean": [point.run.clean for point in points]}
    for name in attacks:
        lines[name] = [next((row for row in point.run.attacks if row.id == name), None) for point in points]
    lines["WORST CASE"] = [point.run.worst_case for point in points]
    lines["null control"] = [point.run.null_attack for point in points]
    return {name: scores for name, scores in lines.items() if any(scores)}


def capped(points: Sequence[SweepPoint]) -> bool:
    """Whether some attack met fewer images than there are."""
    return any(row.n < point.run.clean.n for point in points for row in point.run.attacks)


def unfinished(sweep: Sweep) -> str:
    """What is missing in a sweep that was stopped."""
    done, asked = len(sweep.points), len(sweep.points) + len(sweep.missing)
    return (
        f"UNFINISHED SWEEP: {done} of {plural(asked, 'value')} done, without {sweep.over} "
        f"{', '.join(sweep.missing)}; {GOES_ON}."
    )


def distrust(sweep: Sweep) -> list[str]:
    """Checks that fired, of the sweep and of its runs: reasons to distrust its numbers."""
    reasons = [f"check {check.code}: {check.detail}" for check in sweep.checks if check.fired]
    fired = {(point.text, check.code) for point in sweep.points for check in point.run.checks if check.fired}
    for code in sorted({code for _, code in fired}):
        values = ", ".join(point.text for point in sweep.points if (point.text, code) in fired)
        reasons.append(f"check {code} fired at {sweep.over} {values}")
    return reasons


def _parts(sweep: Sweep) -> Iterator[RenderableType]:
    first = sweep.points[0].run
    yield from caption(first, swept=sweep.over)
    if sweep.status == "started":
        yield Text(unfinished(sweep), style="bold yellow")
    yield Text()
    for start in range(0, len(sweep.points), COLUMNS):
        yield _table(sweep.over, sweep.points[start : start + COLUMNS])
        yield Text()
    yield from (Text(f"! {reason}", style="yellow") for reason in distrust(sweep))
    if sweep.over == "eps":
        broken = "What a smaller ball broke stays broken in a larger one, and is not attacked again."
        better = (
            "An image meets the better candidate of each attack in this ball and those within, by draws not scored."
        )
        yield Text(broken if first.null_attack is None else better, style="dim")
    yield Text(
        "Accuracies in percent on the same images and seed, with 95% intervals of clean and worst case: over the "
        "choice of images, not the strength of the attacks.",
        style="dim",
    )
    if capped(sweep.points):
        yield Text(FEWER, style="dim")


def _table(over: str, points: Sequence[SweepPoint]) -> Table:
    table = Table(box=box.HORIZONTALS, show_edge=False, padding=(0, 1, 0, 0), pad_edge=False, header_style="bold")
    table.add_column(over)
    for point in points:
        table.add_column(point.text, justify="right", no_wrap=True)
    for name, scores in lines_of(points).items():
        style = {"clean": "green", "WORST CASE": "bold red", "null control": "dim"}.get(name, "")
        if name in ("WORST CASE", "null control"):
            table.add_section()
        table.add_row(titled(name, scores, points[0].run.clean.n), *(_cell(score) for score in scores), style=style)
        if name in ("clean", "WORST CASE"):
            table.add_row("", *(_interval(score) for score in scores), style=style)
        if name == "clean":
            table.add_section()
    return table


def _cell(score: Score | None) -> str:
    return percent(score.accuracy) if score else "-"


def _interval(score: Score | None) -> str:
    return interval(score) if score else "-"
