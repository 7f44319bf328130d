"""The meter: never more than promised, and nearer to the truth with every batch."""

from __future__ import annotations

import dataclasses
import time

import pytest
import torch
from test_engine import CPU, Brightness, NoisyBrightness, images, noisy_rbfcnn, row, spec
from torch import Tensor

from rbfbench.evaluation.engine import evaluate
from rbfbench.evaluation.target import inspect
from rbfbench.evaluation.work import Clock, Meter, draws_of, row_passes, verdict_work, work_ahead


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


class Slow(Brightness):
    """Two milliseconds an image."""

    def forward(self, x: Tensor) -> Tensor:
        time.sleep(0.002 * len(x))
        return super().forward(x)


def test_a_row_is_estimated_from_its_own_looks() -> None:
    data = images(8)
    target = inspect(Slow(), "toy", data, CPU)
    clock = Clock(target, data.batch(0, 8)[0], 1)
    # 21 looks and a verdict of two, of two milliseconds each; backward passes cost next to nothing here.
    assert 0.046 <= clock.row(row("pgd", steps=20)) < 0.046 * 2


@pytest.mark.parametrize(("attack", "given"), [("fgsm", {}), ("deepfool", {"steps": 1})])
def test_a_verdict_costs_what_is_said_of_it(attack: str, given: dict[str, int]) -> None:
    """Decisions that score, as many that choose, and one on the 8-bit grid; the nearest example asks for more."""
    data, asked = images(60), []

    class Counting(NoisyBrightness):
        def forward(self, x: Tensor) -> Tensor:
            asked.append(len(x))
            return super().forward(x)

    target, each = inspect(Counting(), "toy", data, CPU, m=2), row(attack, "eot", **given)
    asked.clear()
    outcome = evaluate(target, data, spec([each], data, passes=5))
    around = 60 * 5 * 2 + 60 * 5 * 2 * 2 + 8 * 2 + 8 + 4 * 60  # clean, null control, fingerprint, other ranges
    attacking = 60 * outcome.run.attacks[0].forwards
    assert sum(asked) - around - attacking == 60 * verdict_work(target, each, 5)


def test_questions_asked_again_are_planned_and_told() -> None:
    data, told = images(60), []
    target, each = inspect(Brightness(), "toy", data, CPU), row("fgsm")
    planned = work_ahead(target, [each], data, 1)
    assert planned["asked again"] == 2 * 60
    assert planned["other ranges"] == 4 * 60  # grey images: bytes, signed, MNIST's mean, and none
    evaluate(target, data, spec([each], data), progress=lambda *now: told.append(now))
    assert told[0][2] == sum(planned.values())
    again = [done for what, done, _ in told if what == "asked again"]
    assert again[-1] - again[0] == 2 * 60
    assert len(again) > 60 / 8  # told as it goes, pass by pass
    assert told[-1][1] == told[-1][2]
    assert "other ranges" not in {what for what, _, _ in told}, "it is right on all images"


def test_other_ranges_are_told_as_they_are_tried() -> None:
    class Wrong(Brightness):
        def forward(self, x: Tensor) -> Tensor:
            return -super().forward(x)

    data, told = images(60), []
    evaluate(
        inspect(Wrong(), "toy", data, CPU), data, spec([row("fgsm")], data), progress=lambda *now: told.append(now)
    )
    tried = [done for what, done, _ in told if what == "other ranges"]
    assert tried[-1] - tried[0] == 4 * 60
    assert told[-1][1] == told[-1][2]


def test_what_attacks_undercut_says_nothing_of_stages_that_cost_what_they_cost():
    watch, told = meter({"a": 100.0, "b": 100.0, "null control": 30.0})
    watch.begin("a", 100.0)
    watch.tick(10.0)
    watch.settle(100.0)
    assert told[-1][2] == pytest.approx(10 + 10 + 30)


def test_a_cold_start_is_not_taken_for_the_pace() -> None:
    """The first timed look waits a tenth of a second, as when a library is loaded on use."""
    data, cold = images(8), [False]

    class Cold(Slow):
        def forward(self, x: Tensor) -> Tensor:
            if cold[0]:
                cold[0] = False
                time.sleep(0.1)
            return super().forward(x)

    target = inspect(Cold(), "toy", data, CPU)
    cold[0] = True
    assert Clock(target, data.batch(0, 8)[0], 1).decision < 0.1 / 8
    assert not cold[0]


def test_surrogates_are_asked_without_the_noise_of_the_target() -> None:
    data = images(4)
    target = inspect(noisy_rbfcnn(), "toy", data, CPU)
    assert draws_of(target, row("square", "none")) == 3
    transfer = row("transfer", "none", steps=5)
    assert draws_of(target, transfer) == 1
    assert row_passes(target, transfer) == (6, 5)
    assert draws_of(target, dataclasses.replace(row("pgd", "eot"), draws=7)) == 7
    assert torch.isfinite(torch.tensor(Clock(target, data.batch(0, 4)[0], 2, [target]).row(transfer)))
