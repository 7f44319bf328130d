"""The table that `rbfbench attack` prints: readable at 80 columns, without colour, in a pipe and by a newcomer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

from rich import box
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text

from rbfbench.reporting.notes import caption, notes, warnings
from rbfbench.reporting.words import count, duration, interval, percent
from rbfbench.results.records import AttackRow, Run, Score
from rbfbench.results.summary import enters_worst_case

PLOT_WIDTH = 21  # a character for every five points of accuracy, and one for zero
ROOMY = 116  # columns from which the wide layout fits
USUAL, SMALL = 76, 56  # likewise the usual layout, and one of fewer columns; below it names and accuracies are left


def attack_table(run: Run) -> RenderableType:
    """Caption, warnings, table and footnotes of one run, laid out for the width it is printed at."""
    return _AttackTable(run)


class _AttackTable:
    """Lays out when printed, since only then the width and the character set are known."""

    def __init__(self, run: Run) -> None:
        self.run = run

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield from caption(self.run)
        yield Text()
        yield _table(self.run, options)
        yield Text()
        yield from warnings(self.run)
        yield notes(self.run)


@dataclass(frozen=True)
class Line:
    """A row of the table: a score, the attack behind it if there is one, and the style of its text."""

    label: str
    score: Score
    attack: AttackRow | None = None
    style: str = ""


@dataclass(frozen=True)
class _Column:
    title: str
    cell: Callable[[Line], str]
    justify: Literal["left", "right"] = "right"


def _table(run: Run, options: ConsoleOptions) -> Table:
    gap = 1 if options.max_width >= ROOMY else 0  # beside the blank that the box puts between columns
    table = Table(box=box.HORIZONTALS, show_edge=False, padding=(0, gap, 0, 0), pad_edge=False, header_style="bold")
    columns = _columns(run, options)
    for position, column in enumerate(columns):
        # Only a long name may break, numbers stay whole.
        table.add_column(column.title, justify=column.justify, vertical="bottom", no_wrap=position > 0, overflow="fold")
    for section in sections(run):
        for line in section:
            table.add_row(*(Text(column.cell(line)) for column in columns), style=line.style)
        table.add_section()
    return table


def _columns(run: Run, options: ConsoleOptions) -> list[_Column]:
    """The columns that fit: names, accuracies and intervals always, the drawn interval where there is room."""
    plot = _plotter(options.ascii_only)
    decisions = max((row.decisions for row in run.attacks), default=1)
    roomy, usual, small = (options.max_width >= width for width in (ROOMY, USUAL, SMALL))
    passes = partial(_passes, roomy=roomy)
    columns = [
        _Column("attack", lambda line: line.label, "left"),
        _Column("kind", _of_attack(lambda row: row.category), "left") if usual else None,
        _Column("accuracy", lambda line: percent(line.score.accuracy) + "%"),
        _Column("95%\ninterval", lambda line: interval(line.score)),
        _Column("0         50      100", lambda line: plot(line.score), "left") if roomy else None,
        _Column("k/n", lambda line: f"{count(line.score.k)}/{line.score.n}") if small else None,
        _Column("8-bit", _of_attack(lambda row: percent(row.accuracy_8bit) + "%")) if usual else None,
        _Column(f"wrong in\nany of {decisions}", _of_attack(_wrong_any)) if roomy and decisions > 1 else None,
        _Column("passes\nfwd+bwd" if roomy else "passes", _of_attack(passes)) if usual else None,
        _Column("time", _of_attack(lambda row: duration(row.wall_s))) if small else None,
    ]
    return [column for column in columns if column is not None]


def sections(run: Run) -> list[list[Line]]:
    """Clean, the attacks, what they leave together, and what stands beside them as a control."""
    transfer = bool(run.spec.get("include_transfer"))
    attacks = [row for row in run.attacks if enters_worst_case(row, include_transfer=transfer)]
    others = [row for row in run.attacks if row not in attacks]
    controls = [Line(row.id, row, row, "dim") for row in others]
    if run.null_attack:
        controls.insert(0, Line("null control", run.null_attack, style="dim"))
    return [
        [Line("clean", run.clean, style="green")],
        [Line(row.id, row, row) for row in attacks],
        [Line("WORST CASE", run.worst_case, style="bold red")] if run.worst_case else [],
        controls,
    ]


def _of_attack(text: Callable[[AttackRow], str]) -> Callable[[Line], str]:
    return lambda line: text(line.attack) if line.attack else ""


def _wrong_any(row: AttackRow) -> str:
    return "" if row.wrong_any is None else str(row.wrong_any)


def _passes(row: AttackRow, *, roomy: bool) -> str:
    return f"{row.forwards:.0f}+{row.backwards:.0f}" if roomy else f"{row.forwards + row.backwards:.0f}"


def _plotter(ascii_only: bool) -> Callable[[Score], str]:
    """Draws the interval on a line from 0 to 100%."""
    bar, dot = ("-", "o") if ascii_only else ("━", "●")

    def plot(score: Score) -> str:
        low, at, high = (round(share * (PLOT_WIDTH - 1)) for share in (score.ci95[0], score.accuracy, score.ci95[1]))
        cells = [dot if i == at else bar if low <= i <= high else " " for i in range(PLOT_WIDTH)]
        return "".join(cells)

    return plot
