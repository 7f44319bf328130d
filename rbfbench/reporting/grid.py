"""A table as plain cells, and its spellings for other programs."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass

_TEX = {"\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "#": r"\#", "_": r"\_", "$": r"\$", "{": r"\{", "}": r"\}"}


@dataclass(frozen=True)
class Grid:
    """Cells of text.

    Attributes:
        head: Titles of the columns; the first column holds names.
        rows: As many cells as titles each.
        rules: Positions of rows with a line above them.
    """

    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    rules: frozenset[int] = frozenset()

    def markdown(self) -> str:
        """A Markdown table."""
        lines = [self.head, ["---", *["---:"] * (len(self.head) - 1)], *self.rows]
        return "".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |\n" for line in lines)

    def csv(self) -> str:
        """Comma-separated values with a header."""
        buffer = io.StringIO()
        writer = csv.writer(buffer, lineterminator="\n")
        writer.writerow(self.head)
        writer.writerows(self.rows)
        return buffer.getvalue()

    def latex(self) -> str:
        """A tabular with the rules of the booktabs package."""
        lines = [r"\begin{tabular}{l" + "r" * (len(self.head) - 1) + "}", r"\toprule", _tex(self.head), r"\midrule"]
        for position, row in enumerate(self.rows):
            if position in self.rules:
                lines.append(r"\midrule")
            lines.append(_tex(row))
        return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", ""])


def _tex(cells: Sequence[str]) -> str:
    escaped = ("".join(_TEX.get(letter, letter) for letter in cell) for cell in cells)
    return " & ".join(escaped) + r" \\"
