"""`rbfbench ls`: what there is to choose from."""

from __future__ import annotations

import click

from rbfbench.attacks import ATTACKS, SUITES, VIEWS, load_suite
from rbfbench.defenses import SHIPPED

KINDS = ("attacks", "suites", "views", "models")


@click.command()
@click.argument("kind", type=click.Choice(KINDS), required=False)
def ls(kind: str | None) -> None:
    """List attacks, suites, views and shipped models."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    for name in [kind] if kind else KINDS:
        table = Table(title=name, title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
        header, *lines = _lines(name)
        for column in header:
            table.add_column(column, overflow="fold")
        for line in lines:
            table.add_row(*line)
        console.print(table)


def _lines(kind: str) -> list[tuple[str, ...]]:
    """Header and rows of one list."""
    if kind == "attacks":
        lines = [
            (
                name,
                " ".join(info.norms),
                "{}+{}".format(*info.passes({key: p.default for key, p in info.parameters.items()})),
                " ".join(f"{key}={p.default}" for key, p in info.parameters.items()) or "-",
                info.reference,
                info.about,
            )
            for name, info in ATTACKS.items()
        ]
        return [("attack", "norms", "passes", "parameters", "reference", "about"), *lines]
    if kind == "suites":
        return [
            ("suite", "rows", "about"),
            *[(name, " ".join(row.id for row in load_suite(name)), about) for name, about in SUITES.items()],
        ]
    table = VIEWS if kind == "views" else SHIPPED
    return [(kind[:-1], "about"), *table.items()]
