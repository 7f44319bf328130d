"""Checks of a run: what its rows must look like for one to fire."""

from __future__ import annotations

from types import SimpleNamespace

import msgspec
import pytest
from test_summary import cell_of, sample

from rbfbench.attacks import Row
from rbfbench.evaluation.checks import _single_step, _static, _why_left_out
from rbfbench.results.records import Cell

SPARED = -1.0  # stands for an image that was not attacked, and counts as broken


def row(id_: str, *correct: float, survivors: bool = False, category: str = "white-box") -> Cell:
    """A row on the first images, as it left them."""
    samples = [
        sample(i, id_, status="spared", correct=0.0) if c == SPARED else sample(i, id_, correct=c)
        for i, c in enumerate(correct)
    ]
    cell = cell_of(samples, id_, category=category)
    if not survivors:
        return cell
    return msgspec.structs.replace(cell, row=msgspec.structs.replace(cell.row, cumulative_accuracy=cell.row.accuracy))


@pytest.mark.parametrize(
    ("fgsm", "pgd", "fired"),
    [
        ((0, 1, 1, 1), (1, 1, 1, 1), True),
        ((0, 1, 1, 1), (1, 0, 1, 1), False),
        ((1, 1, 1, 1, 0, 0, 0, 0), (0, 1, 1, 1), False),  # 50% beside 75%, and weaker on the images of both
        ((0, 0, 1, 1), (1, 1, 1, 1, 0, 0, 0, 0), True),
        ((0,) + 100 * (1,), 101 * (1,), False),  # 0.99 points
        ((0,) + 98 * (1,), 99 * (1,), True),
    ],
)
def test_one_step_is_compared_with_many_on_the_images_of_both(fgsm, pgd, fired):
    cells = [row("fgsm/static", *fgsm), row("pgd/static", *pgd)]
    assert _single_step(cells).fired is fired
    assert _single_step(cells[::-1]).fired is fired
    assert not _single_step(cells[:1]).fired
    assert not _single_step([*cells, row("mi-fgsm/static", *[0] * 101)]).fired
    assert _single_step([*cells, row("mi-fgsm/static", *[1] * 101)]).fired is fired


def test_what_a_row_between_them_broke_counts_for_neither_step():
    square = row("square", 0, 0, 1, 1, survivors=True, category="black-box")
    pgd, fgsm = (row("pgd/static", 1, 1, 1, 1, survivors=True), row("fgsm/static", -1, -1, 1, 1, survivors=True))
    assert not _single_step([pgd, square, fgsm]).fired
    fgsm = row("fgsm/static", 1, 1, 0.5, 0.5, survivors=True)  # of a random model: broken, but not for good
    pgd = row("pgd/static", -1, -1, 1, 1, survivors=True)
    assert _single_step([fgsm, square, pgd]).fired


def test_a_few_survivors_are_no_points():
    """Of 400 images many steps leave four, and one step breaks one of those."""
    pgd = row("pgd/static", 1, 1, 1, 1, *[0] * 396, survivors=True)
    assert not _single_step([pgd, row("fgsm/static", 0, 1, 1, 1, *[-1] * 396, survivors=True)]).fired


def test_what_a_row_broke_within_a_smaller_ball_is_its_own():
    assert not _single_step([row("fgsm/static", 1, 1, 0), row("pgd/static", -1, -1, 1)]).fired
    assert _single_step([row("fgsm/static", -1, -1, 1), row("pgd/static", 1, 1, 0)]).fired


@pytest.mark.parametrize(("lost", "fired"), [(6, False), (7, True)])
def test_an_attack_that_does_not_see_the_noise_and_breaks_more_is_told(lost, fired):
    """Of the images that differ all fall: 2^-6 = 0.016 is no reason yet, 2^-7 = 0.008 is."""
    target = SimpleNamespace(stochastic=True)
    static = cell_of(
        [sample(i, "pgd/static", correct=float(i >= lost)) for i in range(30)], "pgd/static", view="static"
    )
    seeing = [cell_of([sample(i, id_) for i in range(30)], id_) for id_ in ("pgd/eot", "apgd-ce/eot")]
    assert _static(target, [static, *seeing]).fired is fired
    strong = cell_of([sample(i, "fgsm/eot", correct=0.0) for i in range(30)], "fgsm/eot")
    assert not _static(target, [static, *seeing, strong]).fired
    assert not _static(target, [static]).fired  # noise-not-attacked says so
    assert not _static(SimpleNamespace(stochastic=False), [static, *seeing]).fired


def test_rows_that_did_not_run_are_named_with_what_kept_them():
    rows = [Row("pgd", "eot", {}), Row("transfer", "none", {}, label="pgd")]
    said = _why_left_out(rows)
    assert said == "transfer-pgd did not run: no surrogate was given; pgd/eot did not run: the model has no such view"
