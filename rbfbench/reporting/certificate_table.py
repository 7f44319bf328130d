"""The table of certificates: accuracy that no l2 perturbation of a size can lower, with the ceiling beside it."""

from __future__ import annotations

from collections.abc import Iterator

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from rbfbench.reporting.notes import GOES_ON, constants
from rbfbench.reporting.words import count, duration, interval, percent, plural
from rbfbench.results.certificates import Certification


def certificate_table(done: Certification) -> RenderableType:
    """Caption, table and notes, readable at 80 columns."""
    return Group(*_parts(done))


def unfinished(done: Certification) -> str:
    """How far certificates are that were stopped."""
    return (
        f"UNFINISHED: {len(done.certificates):,} of {plural(done.spec['limit'], 'image')} certified, the first ones; "
        f"{GOES_ON}."
    )


def _parts(done: Certification) -> Iterator[RenderableType]:
    spec, made, n = done.spec, done.environment, len(done.certificates)
    yield Text(
        f"{done.model['name']} on {spec['dataset']}, smoothed with sigma {spec['sigma']:g}, {plural(n, 'image')}, "
        f"seed {spec['seed']}",
        style="bold",
    )
    defence = f"{fixed}, " if (fixed := constants(done)) else ""
    yield Text(
        f"{spec['source']}, {defence}{spec['n0']:,} draws to choose, {spec['n']:,} to count, alpha {spec['alpha']:g}, "
        f"rbfbench {made.rbfbench}, torch {made.torch}, {made.device}, {duration(done.wall_s)}",
        style="dim",
    )
    if done.status == "started":
        yield Text(unfinished(done), style="bold yellow")
    yield Text()
    yield _table(done)
    yield Text()
    yield Text(
        f"No radius above {done.ceiling:.4g} can be certified with so many draws, however robust the model is: "
        f"a fall to 0 there is the ceiling, not the model. Abstained on {plural(done.abstained, 'image')}, which count "
        f"as wrong.",
    )
    yield Text(
        f"Certified is the share of images whose smoothed answer is right and stays so within the l2 radius; each "
        f"certificate holds with probability {1 - spec['alpha']:.15g} over its draws. Intervals cover the choice of "
        f"images.",
        style="dim",
    )


def _table(done: Certification) -> Table:
    table = Table(box=box.HORIZONTALS, show_edge=False, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold")
    for title in ("l2 radius", "certified", "95% interval", "k/n"):
        table.add_column(title, justify="right")
    table.add_column("")
    for row in done.certified:
        beyond = "above the ceiling" if row.radius > done.ceiling else ""
        cells = (f"{row.radius:g}", f"{percent(row.accuracy)}%", interval(row), f"{count(row.k)}/{row.n}", beyond)
        table.add_row(*cells, style="dim" if beyond else "")
    return table
