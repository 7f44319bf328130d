"""A finished document: into its folder, to --json, or as a table."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import RenderableType

    from rbfbench.results.records import Record


def hand_over(record: Record, given: dict[str, Any], name: str, table: Callable[[], RenderableType]) -> None:
    """Write a record under `name` into --out, and to --json; unless that is the standard output, print its table."""
    import msgspec

    from rbfbench.results.atomic import write_atomic
    from rbfbench.results.records import encode

    text = msgspec.json.format(encode(record), indent=2) + b"\n"
    if given["out"]:
        write_atomic(given["out"] / name, text)
    if given["json_path"] == "-":
        sys.stdout.buffer.write(text)
        sys.stdout.flush()
        return
    from rich.console import Console

    Console(highlight=False).print(table())
    if given["json_path"]:
        write_atomic(Path(given["json_path"]), text)
