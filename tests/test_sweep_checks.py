"""What must hold along a sweep of budgets, and what the check of it says."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from test_store import make_run

from rbfbench.results.intervals import score
from rbfbench.results.records import Run, WorstCase
from rbfbench.results.sweep import SweepPoint, budgets_nest


def point(eps: float, k: float, *, random: bool) -> SweepPoint:
    total = score(k, 100)
    worst = WorstCase(accuracy=total.accuracy, k=total.k, n=100, ci95=total.ci95, strongest="pgd/static")
    changes: dict[str, Any] = {"worst_case": worst, "null_attack": score(90, 100) if random else None}
    run: Run = msgspec.structs.replace(make_run(), **changes)
    return SweepPoint(value=eps, text=f"{eps:g}", run=run)


@pytest.mark.parametrize(
    ("broken_at", "told"),
    [
        ([{"a"}, {"a", "b"}, {"a", "b", "c"}], None),
        ([{"a", "b"}, {"a"}, {"a", "b"}], "1 broken at 0.1 withstood 0.2: there"),
        ([{"a", "b"}, {"c", "d", "e"}, {"c"}], "2 broken at 0.1 withstood 0.2; 2 broken at 0.2 withstood 0.3: there"),
    ],
)
def test_on_a_deterministic_model_every_image_counts(broken_at: list[set[str]], told: str | None) -> None:
    points = [point(eps, 50, random=False) for eps in (0.1, 0.2, 0.3)]
    check = budgets_nest(points, broken_at)
    assert check.fired is (told is not None)
    if told:
        assert check.detail.startswith(told)


@pytest.mark.parametrize(("accuracies", "fired"), [((60, 62, 20), False), ((30, 60, 10), True), ((60, 30, 10), False)])
def test_on_a_random_model_only_intervals_that_lie_apart(accuracies: tuple[float, ...], fired: bool) -> None:
    """Of 100 images, 60 and 62 share most of their intervals, 30 (to 39.6) and 60 (from 50.2) none."""
    points = [point(eps, k, random=True) for eps, k in zip((0.1, 0.2, 0.3), accuracies, strict=True)]
    check = budgets_nest(points, [{"a", "b"}, set(), {"c"}])  # luck moves single images
    assert check.fired is fired
    if fired:
        assert check.detail.startswith("accuracy rises from 0.1 to 0.2: ")
