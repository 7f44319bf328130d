"""What a run will cost, said before it starts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from rbfbench.data import Images
    from rbfbench.evaluation.spec import RunSpec
    from rbfbench.evaluation.target import Target

SAMPLE = 8  # images of the timed looks


def print_cost(target: Target, images: Images, spec: RunSpec, surrogates: Sequence[Target], *, whole: bool) -> None:
    """The most passes and minutes of a run: one line on stderr, or with `whole` a table on stdout, row by row.

    Args:
        target: The model.
        images: The images asked for.
        spec: The run.
        surrogates: What transfer rows look at.
        whole: Nothing else will be printed.
    """
    from rbfbench.attacks.suites import Row
    from rbfbench.evaluation.memory import choose_batch_size
    from rbfbench.evaluation.work import Clock, images_of_row, null_work, row_passes, work_ahead
    from rbfbench.interop import attack_info
    from rbfbench.reporting.words import duration, plural

    target.max_rows = spec.batch_size or choose_batch_size(target, images.batch(0, 1)[0].to(target.device))
    n, passes = len(images), spec.passes if target.stochastic else 1
    on_gpu = target.device.type != "cpu"  # there a look at few images takes as long as one at many
    clock = Clock(
        target, images.batch(0, target.max_rows if on_gpu else SAMPLE)[0].to(target.device), passes, surrogates
    )

    def runs(row: Row) -> bool:
        return row.view in target.views and bool(surrogates or not attack_info(row.attack).surrogate)

    rows = [row for row in spec.rows if runs(row)]
    seconds = {row.id: images_of_row(row, n) * clock.row(row) for row in rows}
    everything = sum(seconds.values()) + n * clock.decision
    if target.stochastic:
        everything += n * clock.decision * null_work(target, rows, passes) / (target.draws * passes)
    total = f"at most {sum(work_ahead(target, rows, n, passes).values()):,.0f} passes and {duration(everything)}"
    if not whole:
        click.echo(f"{plural(len(rows), 'attack')} on {plural(n, 'image')}: {total}", err=True)
        return

    from rich.box import HORIZONTALS
    from rich.console import Console
    from rich.table import Table

    table = Table(box=HORIZONTALS, show_edge=False, pad_edge=False)
    table.add_column("attack")
    for name in ("images", "forward", "backward", "most time"):
        table.add_column(name, justify="right")
    for row in rows:
        forwards, backwards = row_passes(target, row)
        cells = (f"{number:,}" for number in (images_of_row(row, n), forwards, backwards))
        table.add_row(row.id, *cells, duration(seconds[row.id]))
    console = Console(highlight=False)
    console.print(table)
    console.print(
        f"Passes are for each image; all draws of noise count. The run costs {total}, verdicts included, by single "
        "looks at the model measured on this machine; images that are broken early cost less.",
        soft_wrap=True,
    )
