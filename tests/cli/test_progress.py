"""Progress lines where there is no terminal: now and then, and with a time left that is right."""

from __future__ import annotations

import pytest

from rbfbench.cli import progress
from rbfbench.cli.progress import ProgressLine


def test_the_time_left_is_that_of_the_present_stage(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    clock = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock[0])
    with ProgressLine() as line:
        for done in range(1, 101):  # a quick stage: 100 s
            clock[0] += 1
            line.update("filters", done, 100)
        for done in range(1, 51):  # then a slow one: 10 s each
            clock[0] += 10
            line.update("epochs", done, 100)
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 600 // 30  # one each half minute
    assert lines[-1].startswith("epochs: ")
    left = float(lines[-1].split("about ")[1].split(" s")[0])
    percent = float(lines[-1].split("epochs: ")[1].split("%")[0])
    assert left == pytest.approx((100 - percent) * 10, rel=0.05)
