"""Rows and the worst case: what they count, and what no order or luck may change."""

from __future__ import annotations

import random
from math import fsum
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rbfbench.evaluation.samples import better
from rbfbench.results.records import AttackRow, Cell, Sample
from rbfbench.results.summary import accuracy_at, choose, summarise, worst_case


def sample(image: int, attack: str = "pgd/eot", **changes: Any) -> Sample:
    fields: dict[str, Any] = {
        "attack": attack,
        "image": f"{image}:abc",
        "label": 1,
        "clean_prediction": 1,
        "adversarial_prediction": 1,
        "clean_correct": 1.0,
        "correct": 1.0,
        "correct_8bit": 1.0,
        "wrong_any": False,
        "selection": 0.5,
        "status": "ok",
        "linf": 0.03,
        "l2": 1.0,
        "l1": 9.0,
        "forwards": 10,
        "backwards": 8,
    }
    return Sample(**{**fields, **changes})


def clean_error(image: int, attack: str = "pgd/eot") -> Sample:
    return sample(image, attack, status="clean-error", clean_correct=0.0, correct=0.0, correct_8bit=0.0, forwards=0)


def row_of(samples: list[Sample], id: str = "pgd/eot", decisions: int = 1, **changes: Any) -> AttackRow:
    fields: dict[str, Any] = {"name": id.partition("/")[0], "view": "eot", "category": "white-box"}
    fields |= {"norm": "linf", "eps": 0.031, "wall_s": 1.0, "params": {}}
    return summarise(samples, len(samples), id=id, decisions=decisions, **{**fields, **changes})


def cell_of(samples: list[Sample], id: str, decisions: int = 1, **changes: Any) -> Cell:
    return Cell(row=row_of(samples, id, decisions, **changes), samples=samples)


def test_a_row_counts_what_it_says() -> None:
    third = 1 / 3
    samples = [
        clean_error(0),
        sample(1, correct=third, correct_8bit=2 * third, wrong_any=True, forwards=20, backwards=12),
        sample(2, forwards=10, backwards=8),
        sample(3, status="invalid", wrong_any=True, forwards=30, backwards=4),
        sample(4, status="unknown", forwards=0, backwards=0),
    ]
    row = row_of(samples, decisions=3)
    assert row.k == pytest.approx(3 + third)
    assert row.accuracy == pytest.approx((3 + third) / 5)
    assert row.accuracy_8bit == pytest.approx((3 + 2 * third) / 5)
    assert (row.n, row.invalid, row.unknown) == (5, 1, 1)
    assert (row.forwards, row.backwards) == (15, 6), "means over attacked images, not over clean errors"
    assert row.wrong_any == 2, "the clean error and the verified candidate, not the invalid one"
    assert row_of(samples, decisions=1).wrong_any is None


def test_a_row_of_clean_errors_only() -> None:
    row = row_of([clean_error(0), clean_error(1)])
    assert (row.k, row.forwards) == (0, 0)


@pytest.mark.parametrize("samples", [[], [sample(0)], [sample(0), sample(0)], [sample(0), sample(1), sample(2)]])
def test_every_image_needs_exactly_one_sample(samples: list[Sample]) -> None:
    row = {"name": "pgd", "view": "eot", "category": "static", "norm": "l2", "eps": 1, "wall_s": 0, "params": {}}
    with pytest.raises(ValueError, match="2 images"):
        summarise(samples, 2, id="pgd/eot", decisions=1, **row)  # type: ignore[arg-type]


STATUS = st.sampled_from(["ok", "ok", "ok", "spared", "invalid", "unknown"])
SELECTION = st.sampled_from([-1.0, 0.0, 0.0, 1.0])  # ties on purpose


@st.composite
def runs(draw: st.DrawFn, decisions: int) -> list[Cell]:
    """Attacks on the same images; unverified candidates keep the clean correctness, as the engine records them."""
    n = draw(st.integers(1, 8))
    levels = st.integers(0, decisions).map(lambda wins: wins / decisions)
    clean = [draw(levels) for _ in range(n)]
    cells = []
    for attack in range(draw(st.integers(1, 4))):
        samples = []
        for image in range(n):
            if clean[image] == 0:
                samples.append(clean_error(image, f"a{attack}"))
                continue
            status = draw(STATUS)
            correct = draw(levels) if status in ("ok", "spared") else clean[image]
            verdict = {"status": status, "clean_correct": clean[image], "correct": correct}
            samples.append(sample(image, f"a{attack}", selection=draw(SELECTION), **verdict))
        cells.append(cell_of(samples, f"a{attack}", decisions))
    return cells


@given(runs(decisions=1))
def test_deterministic_worst_case_is_robust_iff_no_attack_broke_it(cells: list[Cell]) -> None:
    n = cells[0].row.n
    worst = worst_case(cells, stochastic=False)
    assert worst is not None
    unbroken = sum(all(c.samples[i].correct == 1 for c in cells) for i in range(n))
    assert worst.k == unbroken
    assert all(worst.k <= cell.row.k for cell in cells)
    assert worst.strongest in {c.row.id for c in cells if c.row.k == min(other.row.k for other in cells)}


@given(runs(decisions=3), st.booleans(), st.randoms(use_true_random=False))
def test_order_of_attacks_and_images_changes_nothing(
    cells: list[Cell], stochastic: bool, shuffler: random.Random
) -> None:
    n = cells[0].row.n
    shuffled = [msgspec.structs.replace(c, samples=shuffler.sample(c.samples, n)) for c in cells]
    shuffler.shuffle(shuffled)
    assert worst_case(cells, stochastic=stochastic) == worst_case(shuffled, stochastic=stochastic)
    for cell, other in zip(cells, sorted(shuffled, key=lambda c: c.row.id), strict=True):
        assert row_of(cell.samples, cell.row.id, 3) == row_of(other.samples, cell.row.id, 3)


@given(runs(decisions=3))
def test_stochastic_choice_prefers_verified_then_the_lowest_selection(cells: list[Cell]) -> None:
    chosen = choose([c.samples for c in cells], stochastic=True)
    for i, first in enumerate(cells[0].samples):
        rivals = [c.samples[i] for c in cells]
        verified = [s for s in rivals if s.status not in ("invalid", "unknown")]
        pick = chosen[first.image]
        assert pick in (verified or rivals)
        assert pick.selection == min(s.selection for s in verified or rivals)


@given(runs(decisions=3), st.randoms(use_true_random=False))
def test_stochastic_choice_never_looks_at_the_scoring_draws(cells: list[Cell], shuffler: random.Random) -> None:
    def rescore(s: Sample) -> Sample:
        return msgspec.structs.replace(s, correct=shuffler.random(), correct_8bit=shuffler.random(), wrong_any=True)

    before = choose([c.samples for c in cells], stochastic=True)
    after = choose([[rescore(s) for s in c.samples] for c in cells], stochastic=True)
    assert {i: s.attack for i, s in before.items()} == {i: s.attack for i, s in after.items()}


def test_luck_alone_does_not_lower_a_stochastic_worst_case() -> None:
    """The minimum over many noisy scores of an unattacked image is far below its accuracy; the chosen score is not."""
    rng = random.Random(0)
    n, decisions = 300, 3

    def copy(name: str) -> list[Sample]:
        correct = [sum(rng.random() < 0.8 for _ in range(decisions)) / decisions for _ in range(n)]
        return [sample(i, name, correct=c, selection=rng.random()) for i, c in enumerate(correct)]

    names = [f"copy{i}/eot" for i in range(10)]
    copies = [copy(name) for name in names]
    minimum = fsum(min(c[i].correct for c in copies) for i in range(n)) / n
    control = worst_case([cell_of(c, name) for c, name in zip(copies, names, strict=True)], stochastic=True)
    assert control is not None
    assert minimum < 0.5
    assert control.accuracy == pytest.approx(0.8, abs=0.04)


def test_controls_and_transfer_stay_out() -> None:
    broken, whole = [sample(0, correct=0.0)], [sample(0)]
    cells = [
        cell_of(whole, "pgd/eot"),
        cell_of(broken, "null", view="none", category="black-box"),
        cell_of(broken, "noise", view="none", category="black-box"),
        cell_of(broken, "transfer/pgd", category="transfer"),
    ]
    worst = worst_case(cells, stochastic=False)
    assert worst is not None
    assert (worst.k, worst.strongest) == (1, "pgd/eot")
    assert worst_case(cells[1:], stochastic=False) is None


def test_the_worst_case_needs_every_image_under_one_attack() -> None:
    few, many = (cell_of([sample(i, correct=c) for i, c in part], name) for name, part in ROWS_OF_TWO_SIZES.items())
    worst = worst_case([few, many], stochastic=False)
    assert worst is not None
    assert (worst.k, worst.n) == (1, 3)  # a row capped to the first images speaks for those
    assert (few.row.accuracy, many.row.accuracy) == (0.5, pytest.approx(2 / 3))
    assert worst.strongest == "fgsm/static"  # of those on the images of the worst case
    strangers = cell_of([sample(i) for i in (7, 8)], "pgd/eot")
    with pytest.raises(ValueError, match="3 images"):
        worst_case([strangers, many], stochastic=False)


ROWS_OF_TWO_SIZES = {"square": [(0, 0.0), (1, 1.0)], "fgsm/static": [(0, 1.0), (1, 1.0), (2, 0.0)]}


def test_one_search_for_the_nearest_example_gives_the_accuracy_at_every_radius() -> None:
    """Distances 0 (clean error), 0.1, 0.3, 0.3, and one image that withstood."""
    samples = [clean_error(0), *[sample(i, distance=d) for i, d in ((1, 0.1), (2, 0.3), (3, 0.3), (4, None))]]
    for eps, expected in ((0.0, 0.8), (0.0999, 0.8), (0.1, 0.6), (0.29, 0.6), (0.3, 0.2), (1e9, 0.2)):
        assert accuracy_at(samples, eps) == pytest.approx(expected)
    assert row_of(samples).median_distance == 0.3
    assert row_of(samples[:2]).median_distance == 0.0
    assert row_of([samples[4], sample(9), samples[1]]).median_distance is None
    assert row_of([clean_error(0), sample(1)]).median_distance is None  # an attack that looks for no distance


def test_a_row_that_was_not_at_all_images_tells_no_distances():
    """An image that an earlier row broke may have an example at any distance."""
    samples = [clean_error(0), sample(1, distance=0.1), sample(2, distance=0.3)]
    elsewhere = sample(3, status="spared", correct=0.0)
    before = sample(3, status="spared", correct=0.0, distance=0.02)  # by the same row, within a smaller ball
    row = row_of([*samples, elsewhere])
    assert (row.curve, row.median_distance) == (None, None)
    row = row_of([*samples, before], eps=0.4)
    assert row.curve[:3] == [(0.1, 0.25), (0.2, 0.25), (pytest.approx(0.3), 0.0)]
    assert row.median_distance == 0.02


def test_of_two_balls_the_candidate_that_selection_prefers_is_taken_and_nothing_that_went_wrong_is_hidden() -> None:
    small = sample(0, selection=-1.0, correct=0.1, linf=0.01, forwards=3)
    assert better(sample(0, selection=-1.5, correct=0.9), small).correct == 0.9, "its score plays no part"
    taken = better(sample(0, selection=-0.5, correct=0.0, forwards=10), small)
    assert (taken.correct, taken.linf, taken.forwards) == (0.1, 0.01, 10)
    elsewhere = msgspec.structs.replace(small, status="spared")
    assert better(sample(0), elsewhere).status == "ok", "in this ball the row was at the image"
    for status in ("invalid", "unknown", "spared"):
        found = sample(0, status=status, selection=0.0)
        assert better(found, small) == found
    alone = sample(0)
    assert better(alone, None) == alone
