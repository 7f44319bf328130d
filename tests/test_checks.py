"""Checks of a run: what its rows must look like for one to fire."""

from __future__ import annotations

import msgspec
import pytest
from test_summary import cell_of, sample

from rbfbench.evaluation.checks import _single_step
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
