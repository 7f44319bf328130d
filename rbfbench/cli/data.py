"""`rbfbench data`: the data sets there are, and where their images come from."""

from __future__ import annotations

from pathlib import Path

import click

from rbfbench.data import DATASETS, DEFAULT_ROOT, DatasetInfo, find

_NOTES = """\
Without a full test set on this machine, the embedded images are evaluated.
npz:FILE    x_test and y_test, or x and y; uint8, or float in [0,1]
folder:DIR  DIR/class/image.png, all images of one size
"""


@click.command(name="data")
@click.option(
    "--data-root",
    type=click.Path(file_okay=False, path_type=Path),
    default=DEFAULT_ROOT,
    envvar="RBFBENCH_DATA_ROOT",
    show_default=True,
    show_envvar=True,
    help="Folder to look for full data sets in.",
)
def data(data_root: Path) -> None:
    """List the data sets: embedded, present on this machine, downloadable."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    table = Table(title="Data sets", title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    for column in ("--dataset", "shape", "embedded", "present", "--download"):
        table.add_column(column)
    for info in DATASETS.values():
        table.add_row(*_row(info, data_root))

    console = Console(highlight=False)
    console.print(table)
    console.print(f"Full data sets are looked for in {data_root}.", markup=False, soft_wrap=True)
    console.print(_NOTES, markup=False, soft_wrap=True)
    for info in DATASETS.values():
        console.print(f"{info.name}: {info.credits}", style="dim", soft_wrap=True)


def _row(info: DatasetInfo, root: Path) -> tuple[str, ...]:
    """The cells of one named data set."""
    embedded = f"{info.embedded:,}: {info.embedded_source.partition(': ')[2]}"
    place = find(info, root)
    present = "-" if place is None else place.name if place.suffix == ".npz" else "torchvision"
    return info.name, "x".join(map(str, info.shape)), embedded, present, info.download or "-"
