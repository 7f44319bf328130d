"""The README's Python runs as it stands."""

from __future__ import annotations

import re
from pathlib import Path

README = Path(__file__).parents[1] / "README.md"


def test_the_five_lines_run(capsys):
    (block,) = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    # Ten images instead of a hundred: the same code, sooner.
    assert "batch(0, 100)" in block
    exec(compile(block.replace("batch(0, 100)", "batch(0, 10)"), "README.md", "exec"), {})
    accuracy, interval = re.fullmatch(r"([\d.]+) \((.*)\)\s*", capsys.readouterr().out).groups()
    low, high = map(float, interval.split(", "))
    assert 0 <= low <= float(accuracy) <= high <= 1
