"""What a run will cost, said before it starts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from rbfbench.data import Images
    from rbfbench.evaluation.spec import RunSpec
    from rbfbench.evaluation.target import Target

SAMPLE = 32  # images of the timed pass


def print_cost(target: Target, images: Images, spec: RunSpec, *, whole: bool) -> None:
    """The most passes and minutes of a run: one line on stderr, or with `whole` a table on stdout, row by row.

    Args:
        target: The model.
        images: The images asked for.
        spec: The run.
        whole: Nothing else will be printed.
    """
    from rbfbench.evaluation.memory import choose_batch_size
    from rbfbench.evaluation.work import images_of_row, row_passes, row_work, seconds_per_pass, work_ahead
    from rbfbench.reporting.words import duration, plural

    target.max_rows = spec.batch_size or choose_batch_size(target, images.batch(0, 1)[0].to(target.device))
    seconds = seconds_per_pass(target, images.batch(0, min(SAMPLE, target.max_rows))[0].to(target.device))
    n, passes = len(images), spec.passes if target.stochastic else 1
    rows = [row for row in spec.rows if row.view in target.views]
    stages = work_ahead(target, rows, n, passes)
    total = f"at most {sum(stages.values()):,.0f} passes and {duration(seconds * sum(stages.values()))}"
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
        time = images_of_row(row, n) * row_work(target, row, passes) * seconds
        table.add_row(row.id, str(images_of_row(row, n)), f"{forwards:,}", f"{backwards:,}", duration(time))
    console = Console(highlight=False)
    console.print(table)
    console.print(
        f"Passes are for each image; all draws of noise count. The run costs {total}, verdicts included, by a pass "
        f"measured on this machine; images that are broken early cost less.",
        soft_wrap=True,
    )
