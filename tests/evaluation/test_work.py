"""The meter: never more than promised, and nearer to the truth with every batch."""

from __future__ import annotations

import pytest

from rbfbench.evaluation.work import Meter


def meter(stages: dict[str, float]) -> tuple[Meter, list[tuple[str, float, float]]]:
    told: list[tuple[str, float, float]] = []
    return Meter(lambda what, done, total: told.append((what, done, total)), dict(stages)), told


def test_a_run_that_keeps_its_promises_ends_at_its_total():
    watch, told = meter({"a": 30.0, "b": 10.0})
    watch.begin("a", 30.0)
    for _ in range(3):
        for _ in range(5):
            watch.tick(2.0)
        watch.settle(10.0)
    watch.begin("b", 10.0)
    watch.tick(10.0)
    watch.settle(10.0)
    assert all(total == pytest.approx(40.0) for _, _, total in told)
    assert told[-1] == ("b", 40.0, 40.0)


def test_what_is_ahead_shrinks_as_batches_undercut_their_bound():
    watch, told = meter({"a": 100.0, "b": 100.0})
    watch.begin("a", 100.0)
    watch.tick(5.0)
    watch.settle(50.0)
    # A tenth was needed: five more of this row, and ten of the next.
    assert told[-1] == ("a", 5.0, pytest.approx(20.0))
    watch.skip("b")
    watch.tick(1.0)
    assert told[-1] == ("a", 6.0, pytest.approx(10.0))


def test_a_batch_that_takes_longer_than_the_last_ones_does_not_go_backwards():
    watch, told = meter({"a": 20.0})
    watch.begin("a", 20.0)
    watch.tick(1.0)
    watch.settle(10.0)
    for _ in range(9):
        watch.tick(1.0)
    assert all(done <= total for _, done, total in told)
    assert [done for _, done, _ in told] == sorted(done for _, done, _ in told)


def test_fewer_images_than_planned_are_begun_with_less():
    watch, told = meter({"a": 20.0, "b": 80.0})
    watch.begin("b", 40.0)
    assert told[-1] == ("b", 0.0, 60.0)
