"""What a run will cost, said before it starts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from rbfbench.cli.models import off_stdout
from rbfbench.errors import ModelError, RbfbenchError, raised

if TYPE_CHECKING:
    from rbfbench.attacks import Row
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

    Raises:
        ModelError: A look at the model fails, and nothing but the cost was asked for.
    """
    from rbfbench.evaluation.work import images_of_row, row_passes, work_ahead
    from rbfbench.interop import attack_info
    from rbfbench.reporting.words import duration, plural

    n, passes = len(images), spec.passes if target.stochastic else 1

    def runs(row: Row) -> bool:
        return row.view in target.views and bool(surrogates or not attack_info(row.attack).surrogate)

    rows = [row for row in spec.rows if runs(row)]
    try:
        with off_stdout():
            seconds, everything = _timed(target, images, rows, passes, surrogates, batch_size=spec.batch_size)
    except RbfbenchError:
        raise
    except Exception as error:  # the run that follows halves its batches, or records what the model raises
        if whole:
            todo = "check the model, or lower --batch-size if memory ran out"
            raise ModelError(f"cannot say what a run on {target.name} costs", raised(error), todo) from error
        click.echo(f"no estimate of the cost: {raised(error)}", err=True)
        return
    total = f"at most {sum(work_ahead(target, rows, images, passes).values()):,.0f} passes and {duration(everything)}"
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


def _timed(
    target: Target,
    images: Images,
    rows: list[Row],
    passes: int,
    surrogates: Sequence[Target],
    *,
    batch_size: int | None,
) -> tuple[dict[str, float], float]:
    """Seconds of each row, by its id, and of the whole run."""
    from rbfbench.evaluation.memory import choose_batch_size
    from rbfbench.evaluation.work import Clock, images_of_row, null_work, ranges_work, repeated_work

    n = len(images)
    target.max_rows = batch_size or choose_batch_size(target, images.batch(0, 1)[0].to(target.device))
    on_gpu = target.device.type != "cpu"  # there a look at few images takes as long as one at many
    x = images.batch(0, target.max_rows if on_gpu else SAMPLE)[0].to(target.device)
    clock = Clock(target, x, passes, surrogates)
    seconds = {row.id: images_of_row(row, n) * clock.row(row) for row in rows}
    everything = sum(seconds.values()) + n * clock.decision
    if target.stochastic:
        everything += n * clock.decision * null_work(target, rows, passes) / (target.draws * passes)
    else:
        everything += clock.single * repeated_work(target, n) / target.draws
    everything += clock.single * ranges_work(target, images) / target.draws
    return seconds, everything
