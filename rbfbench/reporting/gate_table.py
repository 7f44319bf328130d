"""The gate on one screen, and as JUnit XML, GitHub annotations and a job summary."""

from __future__ import annotations

from collections.abc import Iterator
from xml.etree import ElementTree as ET

from rich import box
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text

from rbfbench.reporting.grid import Grid
from rbfbench.reporting.words import plural
from rbfbench.results.gate import WORST, Floor, Gate, Judged

NAMED = 8  # broken images that are named
USUAL, LESS = (
    76,
    ("change", "fell", "rose", "visible"),
)  # columns of a screen, and what is left out where there are fewer
HEADER = ("cell", "before", "now", "change", "fell", "rose", "p (Holm)", "visible", "verdict")


def gate_table(gate: Gate) -> RenderableType:
    """Verdict, cells, newly broken images, and the command that makes the run again; fits 80 columns, and fewer."""
    return _GateTable(gate)


class _GateTable:
    """Lays out when printed, since only then the width is known."""

    def __init__(self, gate: Gate) -> None:
        self.gate = gate

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield from _parts(self.gate, options.max_width)


def _parts(gate: Gate, width: int) -> Iterator[RenderableType]:
    style = "bold green" if gate.passed else "bold red"
    yield Text(f"{gate.answer}: {gate.model}, {plural(gate.n, 'image')}", style=style)
    yield Text()
    if gate.cells:
        table = Table(box=box.HORIZONTALS, show_edge=False, padding=(0, 0, 0, 0), pad_edge=False, header_style="bold")
        shown = [place for place, title in enumerate(HEADER) if width >= USUAL or title not in LESS]
        for title in (HEADER[place] for place in shown):
            words = title in ("cell", "verdict")
            table.add_column(title, justify="left" if words else "right", overflow="fold", no_wrap=title != "cell")
        for cell in gate.cells:
            style = "red" if cell.failed else "bold" if cell.name == WORST else ""
            values = _cells(cell)
            table.add_row(*(values[place] for place in shown), style=style)
        yield table
        yield Text()
    for line in lines(gate):
        yield Text(line)
    if gate.command:  # in one piece, to be pasted
        yield Text(f"again: {gate.command}", no_wrap=True, overflow="ignore")


def _cells(cell: Judged) -> tuple[str, ...]:
    change = 100 * (cell.after - cell.before)
    return (
        cell.name,
        f"{cell.before:.1%}",
        f"{cell.after:.1%}",
        f"{change:+.1f}",
        str(cell.fell),
        str(cell.rose),
        f"{cell.p_holm:.2g}",
        "" if cell.visible is None else f"{100 * cell.visible:.1f}",
        "FAILED" if cell.failed else "unclear" if cell.unclear else "ok",
    )


def lines(gate: Gate) -> Iterator[str]:
    """The reasons in words."""
    if gate.cells:
        yield (
            f"A cell fails if it fell by more than {100 * gate.max_drop:g} points and an unchanged model would fall "
            f"so far in less than {gate.alpha:g} of all cases (exact paired sign-flip test, Holm over "
            f"{plural(len(gate.cells), 'cell')})."
        )
        yield _visible(gate)
    if any(cell.unclear for cell in gate.cells):
        yield "unclear: it fell by more than is allowed, and so few images do not tell that from chance: raise --limit."
    for floor in gate.floors:
        yield floor_text(floor)
    for cell in gate.cells:
        if cell.failed or (cell.name == WORST and cell.broken):
            yield f"{cell.name}: newly broken: {broken(gate, cell)}"
    for code, detail in gate.checks.items():
        yield f"! check {code}: {detail}"
    if gate.proofless:
        yield proofless_text(gate)
    if gate.unjudged:
        added = ", ".join(name for name in gate.unjudged if name != WORST)
        over = f"; nor {WORST}, which is over them too: save a new baseline" if WORST in gate.unjudged else ""
        yield f"not in the baseline, so not judged: {added}{over}"


def _visible(gate: Gate) -> str:
    seen = [cell.visible for cell in gate.cells if cell.visible is not None]
    if not seen:
        return "visible: empty, since an image of several decisions can fall by a part."
    unseen = f"; up to {100 * max(seen):.1f} points pass unseen: raise --limit to see smaller ones"
    return (
        f"visible: the smallest fall, in points, that {plural(gate.n, 'image')} can tell from chance"
        f"{unseen if max(seen) > gate.max_drop else ''}."
    )


def floor_text(floor: Floor) -> str:
    """An absolute gate in words."""
    verdict = "FAILED" if floor.failed else "ok"
    low, high = floor.ci95
    return (
        f"{verdict}: worst case under {floor.norm} is {floor.accuracy:.1%} (95% interval {low:.1%} to {high:.1%}), "
        f"at least {floor.least:.1%} is asked for"
    )


def proofless_text(gate: Gate) -> str:
    """Why a gate that nothing fails does not pass either."""
    codes = ", ".join(gate.proofless)
    known = " If the run of the baseline had it too, save the baseline again." if gate.cells else ""
    return f"UNPROVEN: {codes} leaves these accuracies without meaning; its line above says what to do.{known}"


def broken(gate: Gate, cell: Judged) -> str:
    """The first images that a cell has lost, by id."""
    more = f" and {len(cell.broken) - NAMED} more" if len(cell.broken) > NAMED else ""
    return (", ".join(gate.images[i] for i in cell.broken[:NAMED]) or "none") + more


def cell_text(gate: Gate, cell: Judged) -> str:
    """A cell against the baseline in words."""
    return (
        f"{cell.name} fell from {cell.before:.1%} to {cell.after:.1%} ({cell.fell} images fell, {cell.rose} rose, "
        f"p {cell.p_holm:.2g}); newly broken: {broken(gate, cell)}"
    )


def junit(gate: Gate) -> str:
    """JUnit XML: a test case for each cell and floor."""
    failures = sum(cell.failed for cell in gate.cells) + sum(floor.failed for floor in gate.floors)
    suite = ET.Element(
        "testsuite",
        name=f"rbfbench {gate.model}",
        tests=str(len(gate.cells) + len(gate.floors) + len(gate.checks)),
        failures=str(failures),
        errors=str(len(gate.proofless)),
    )
    for cell in gate.cells:
        case = ET.SubElement(suite, "testcase", classname=f"rbfbench.{gate.model}", name=cell.name)
        if cell.failed:
            failure = ET.SubElement(case, "failure", message=cell_text(gate, cell), type="RobustnessFell")
            failure.text = f"again: {gate.command}"
        elif cell.unclear:
            ET.SubElement(case, "system-out").text = f"unclear, since chance explains it: {cell_text(gate, cell)}"
    for floor in gate.floors:
        name = f"worst case {floor.norm} at least {floor.least:g}"
        case = ET.SubElement(suite, "testcase", classname=f"rbfbench.{gate.model}", name=name)
        if floor.failed:
            ET.SubElement(
                case, "failure", message=floor_text(floor), type="BelowMinimum"
            ).text = f"again: {gate.command}"
    for code, detail in gate.checks.items():
        case = ET.SubElement(suite, "testcase", classname=f"rbfbench.{gate.model}", name=f"check {code}")
        if code in gate.proofless:
            ET.SubElement(case, "error", message=detail, type="Unproven").text = f"again: {gate.command}"
        else:
            ET.SubElement(case, "system-out").text = detail
    root = ET.Element("testsuites")
    root.append(suite)
    ET.indent(root)
    return ET.tostring(root, encoding="unicode", xml_declaration=True) + "\n"


def github_lines(gate: Gate) -> Iterator[str]:
    """GitHub workflow commands: an error for each gate that failed, a warning for what is unclear or distrusted."""
    for code, detail in gate.checks.items():
        kind = "error" if code in gate.proofless else "warning"
        yield _annotation(kind, f"check {code}", detail)
    for cell in gate.cells:
        if cell.failed:
            yield _annotation("error", cell.name, cell_text(gate, cell))
        elif cell.unclear:
            yield _annotation("warning", cell.name, f"unclear, {cell_text(gate, cell)}")
    for floor in gate.floors:
        if floor.failed:
            yield _annotation("error", "minimum", floor_text(floor))


def _annotation(kind: str, title: str, text: str) -> str:
    """A workflow command: in a property, and not in the message, colons and commas are told apart from its own."""

    def escaped(words: str) -> str:
        return words.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")

    head = escaped(f"rbfbench {title}").replace(":", "%3A").replace(",", "%2C")
    return f"::{kind} title={head}::{escaped(text)}"


def summary(gate: Gate) -> str:
    """The same screen as Markdown, for a job summary."""
    verdict = "passed" if gate.passed else gate.answer
    table = Grid(HEADER, [_cells(cell) for cell in gate.cells]).markdown() if gate.cells else ""
    return (
        "\n\n".join(
            [f"### rbfbench: {gate.model} {verdict}", *([table] if table else []), *lines(gate), f"`{gate.command}`"]
        )
        + "\n"
    )
