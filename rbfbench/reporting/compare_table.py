"""What `rbfbench compare` prints: rows attacks, columns models, and the paired differences."""

from __future__ import annotations

from collections.abc import Iterator

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from rbfbench.reporting.grid import Grid
from rbfbench.reporting.words import FEWER, interval, percent, plural
from rbfbench.results.comparison import Compared, Comparison, Difference
from rbfbench.results.records import Score, encode

ALPHA = 0.05
WIDTH, GAP = 80, 3  # characters of a line, and between two columns


def compare_table(comparison: Comparison) -> RenderableType:
    """Caption, table and how to read it."""
    parts: list[RenderableType] = [Text(caption(comparison), style="bold"), Text(), *_rich(cells(comparison))]
    if matrix := transfer_cells(comparison):
        parts += [Text("accuracy of the column's model on examples made on the row's"), *_rich(matrix)]
    return Group(*parts, *(Text(line) for line in reading(comparison)))


def rendered(comparison: Comparison, form: str) -> str:
    """The comparison as text: "md", "csv", "latex" (booktabs) or "json"."""
    if form == "json":
        return encode(comparison).decode() + "\n"
    grids = [grid for grid in (cells(comparison), transfer_cells(comparison)) if grid]
    if form == "csv":
        return "\n".join(grid.csv() for grid in grids)
    if form == "latex":
        said = [f"% {line}" for line in (caption(comparison), *reading(comparison))]
        return "\n".join([*said, *(grid.latex() for grid in grids)])
    return "\n".join([f"{caption(comparison)}\n", *(grid.markdown() for grid in grids), *reading(comparison), ""])


def caption(comparison: Comparison) -> str:
    """Which models, images, budgets and attacks."""
    budgets = ", ".join(f"{norm} eps {eps}" for norm, eps in comparison.budgets.items())
    suite = f", suite {comparison.suite}" if comparison.suite else ""
    images = plural(comparison.n, "image") + (", fewer where n is given" if _capped(comparison) else "")
    return f"{' and '.join(comparison.models)}, {budgets}, {images} ({comparison.images}){suite}"


def _capped(comparison: Comparison) -> bool:
    return any(score and score.n < comparison.n for line in comparison.lines for score in line.scores)


def cells(comparison: Comparison) -> Grid:
    """A line an attack: accuracy and interval of each model, and what each differs from the first by."""
    first, *others = comparison.models
    several = len(comparison.budgets) > 1
    rules = frozenset(i for i, line in enumerate(comparison.lines) if i and line.norm != comparison.lines[i - 1].norm)
    return Grid(
        ["", *comparison.models, *(f"{other} minus {first}" for other in others)],
        [
            [
                f"{line.norm} {line.name}" if several and line.norm else line.name,
                *(_score(score, comparison.n) for score in line.scores),
                *(_difference(difference) for difference in line.differences[1:]),
            ]
            for line in comparison.lines
        ],
        rules,
    )


def transfer_cells(comparison: Comparison) -> Grid | None:
    """Source by target, if it was asked for."""
    if comparison.transfer is None:
        return None
    names = comparison.models
    rows = [
        [source, *(_score(comparison.transfer[source][target], comparison.n) for target in names)] for source in names
    ]
    return Grid(["made on", *names], rows)


def reading(comparison: Comparison) -> list[str]:
    """How to read the table, and the overlap of the worst cases."""
    lines = [
        "Accuracy with its 95% interval over the choice of images. Differences in points, with the p-value of the "
        "exact paired test, adjusted by Holm's method for all cells; * marks p below 0.05.",
    ]
    if _capped(comparison):
        lines.append(FEWER)
    for line in comparison.lines:
        if line.name in ("WORST CASE", "UNION OVER NORMS"):
            lines += _overlap(comparison, line)
    return lines + [f"! check {check}" for check in comparison.checks]


def _overlap(comparison: Comparison, line: Compared) -> list[str]:
    first = comparison.models[0]
    where = f"{line.norm} {line.name.lower()}".strip()
    return [
        f"{where}: {plural(d.both, 'image')} withstand on both {first} and {other}, {d.neither} on neither, "
        f"{d.better} more often on {other}, {d.worse} more often on {first}."
        for other, d in zip(comparison.models, line.differences, strict=True)
        if d
    ]


def _score(score: Score | None, n: int) -> str:
    """Accuracy and interval, with the number of images where there are fewer than n."""
    if score is None:
        return ""
    fewer = f", n {score.n}" if score.n < n else ""
    return f"{percent(score.accuracy)} ({interval(score)}{fewer})"


def _difference(difference: Difference | None) -> str:
    if difference is None:
        return ""
    star = "*" if difference.p_holm < ALPHA else ""
    return f"{100 * difference.difference:+.1f} (p {_p(difference.p_holm)}){star}"


def _p(p: float) -> str:
    return "<.001" if p < 0.001 else f"{p:.3f}".removeprefix("0")


def _rich(grid: Grid) -> Iterator[RenderableType]:
    """The grid in as many tables as it takes for none to be wider than `WIDTH`, an empty line after each."""
    for columns in _blocks(grid):
        table = Table(box=box.HORIZONTALS, show_edge=False, pad_edge=False)
        table.add_column(grid.head[0])
        for column in columns:
            table.add_column(grid.head[column], justify="right")
        for position, row in enumerate(grid.rows):
            if position in grid.rules:
                table.add_section()
            table.add_row(Text(row[0]), *(Text(row[column]) for column in columns))
        yield table
        yield Text()


def _blocks(grid: Grid) -> list[list[int]]:
    """Positions of the columns behind the names, cut where a table would become too wide."""
    names, *widths = (max(map(len, column)) for column in zip(grid.head, *grid.rows, strict=True))
    blocks: list[list[int]] = [[]]
    used = names
    for column, width in enumerate(widths, start=1):
        if used + GAP + width > WIDTH and blocks[-1]:
            blocks.append([])
            used = names
        blocks[-1].append(column)
        used += GAP + width
    return blocks
