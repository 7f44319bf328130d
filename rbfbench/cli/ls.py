"""`rbfbench ls`: what there is to choose from."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from rbfbench.attacks import ATTACKS, SUITES, VIEWS, AttackInfo, load_suite
from rbfbench.defenses import SHIPPED, shipped_for
from rbfbench.interop.preprocessings import PREPROCESSINGS
from rbfbench.plugins import GROUPS, package, plugins

if TYPE_CHECKING:
    from rich.padding import Padding

ROOMY = 110  # characters of a line that the table of attacks wants
KINDS = ("attacks", "suites", "views", "models", "defenses", "plugins")


@click.command()
@click.argument("kind", type=click.Choice(KINDS), required=False)
def ls(kind: str | None) -> None:
    """List attacks, suites, views, shipped models, defenses that can stand before a model, and plugins."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    for name in [kind] if kind else KINDS:
        if name == "attacks" and console.width < ROOMY:
            console.print("attacks")
            for part in _blocks():
                console.print(part)
            continue
        table = Table(title=name, title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
        header, *lines = _lines(name)
        for column in header:
            table.add_column(column, overflow="fold")
        for line in lines:
            table.add_row(*line)
        console.print(table)


def _blocks() -> Iterator[Padding]:
    """The attacks one under another, for screens on which a table would break the names to be typed."""
    from rich.padding import Padding
    from rich.text import Text

    for name, *about, text in _lines("attacks")[1:]:
        yield Padding(Text(name, style="bold"), (1, 0, 0, 0))
        yield Padding(Text(", ".join(about)), (0, 0, 0, 2))
        yield Padding(Text(text), (0, 0, 0, 2))


def _lines(kind: str) -> list[tuple[str, ...]]:
    """Header and rows of one list."""
    if kind == "attacks":
        lines = [
            (
                name,
                info.kind,
                " ".join(info.norms),
                "{:,}+{:,}".format(*info.passes({key: p.default for key, p in info.parameters.items()})),
                info.reference,
                f"{info.about}\n{_parameters(info)}".rstrip(),
            )
            for name, info in ATTACKS.items()
        ]
        return [("attack", "kind", "norms", "passes", "reference", "about, and what --set can change"), *lines]
    if kind == "suites":
        return [
            ("suite", "norms", "rows, with their images where they are capped", "about"),
            *[(name, " ".join(_norms(name)), " ".join(_rows(name)), about) for name, about in SUITES.items()],
        ]
    if kind == "models":
        return [
            ("model", "shipped for", "about"),
            *[(name, " ".join(shipped_for(name)) or "-", about) for name, about in SHIPPED.items()],
        ]
    if kind == "defenses":
        return [
            ("defense", "number", "about"),
            *[(name, f"{p.parameter}={p.default}", p.about) for name, p in PREPROCESSINGS.items()],
        ]
    if kind == "plugins":
        found = [(group, name, package(point)) for group in GROUPS for name, point in plugins(group).items()]
        return [("kind", "name", "package"), *found]
    return [("view", "about"), *VIEWS.items()]


def _parameters(info: AttackInfo) -> str:
    """Parameters with their defaults; nothing for those that follow from the run."""
    return " ".join(f"{key}={'' if p.default is None else p.default}" for key, p in info.parameters.items())


def _norms(suite: str) -> list[str]:
    """Norms under which every row of a suite can run."""
    return [
        norm
        for norm in ("linf", "l2", "l1")
        if all(norm in ATTACKS[row.attack].norms for row in load_suite(suite, norm))
    ]


def _rows(suite: str) -> list[str]:
    """Ids of a suite's rows; the same id once, if norms differ in its parameters."""
    return list(dict.fromkeys(row.id + (f" ({row.limit})" if row.limit else "") for row in load_suite(suite)))
