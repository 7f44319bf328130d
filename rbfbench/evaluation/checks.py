"""Reasons to distrust the numbers of a run, computed from its rows. A check that did not fire proves nothing."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from rbfbench.attacks import NOISY_VIEWS, Row
from rbfbench.data.images import Images
from rbfbench.defenses.rbfcnn import RBFCNN
from rbfbench.evaluation.target import Target
from rbfbench.interop import attack_info
from rbfbench.results.intervals import wilson
from rbfbench.results.paired import compare
from rbfbench.results.records import AttackRow, Cell, Check, Score

ONE_POINT = 0.01
GRADIENTS = ("white-box", "static", "adaptive")  # categories of rows that follow them
NO_VARIANCE = 1e-6  # a filter below it tells an exact match from a change of one 8-bit level in one pixel
GREY = 0.5
MANY = 10  # images whose labels seldom ascend by chance
MET = 7  # images below which no difference is seldom: 2^-7 is
SELDOM = 0.01  # chance of such a difference between equal attacks, below which one is called stronger


def run_checks(
    target: Target,
    images: Images,
    clean: Score,
    cells: Sequence[Cell],
    left_out: Sequence[Row],
    *,
    suspicion: str = "",
    cut: bool = False,
    finished: bool = True,
) -> list[Check]:
    """All checks, fired or not.

    Args:
        target: The model.
        images: Those of the run.
        clean: Its accuracy without attack.
        cells: The attacks that ran, with their samples.
        left_out: Rows of the suite whose view the model does not have.
        cut: They are the first of more.
        suspicion: What the model seems to expect in place of images in [0,1].
        finished: Whether every attack of the run is among them; one to come may average over the noise.
    """
    rows = [cell.row for cell in cells]
    chance = chance_of(target, images)
    at_chance = clean.ci95[0] <= chance
    adaptive = any(row.view not in ("static", "none") for row in rows)
    return [
        Check(
            code="clean-at-chance",
            fired=at_chance,
            detail=f"clean accuracy {clean.accuracy:.1%} cannot be told from chance ({chance:.1%}): "
            + (
                suspicion
                or "are the weights loaded (--weights), and does the model expect another input range "
                "(--input-range, --mean, --std) or label order?"
            ),
        ),
        Check(
            code="other-input-range",
            fired=bool(suspicion) and not at_chance,
            detail=f"{suspicion or 'no other range of pixels was tried'}, and as it stands on {clean.accuracy:.1%} of "
            "all images: is its normalisation missing, or have the images little contrast?",
        ),
        _sorted(images, cut=cut),
        Check(
            code="probabilities",
            fired=target.probabilities,
            detail="the model returns probabilities; return logits, or attacks on its loss may see no gradient",
        ),
        Check(
            code="noise-not-attacked",
            fired=finished and target.stochastic and not adaptive and bool(rows) and "eot" in target.views,
            detail="the model is random and no attack averaged over its noise: take one that follows gradients, with "
            "`--gradient eot`",
        ),
        Check(
            code="rows-left-out",
            fired=bool(left_out),
            detail=_why_left_out(left_out),
        ),
        _flat(rows),
        Check(
            code="large-radius",
            fired=any(row.norm == "linf" and row.eps >= GREY for row in rows),
            detail="at linf eps 0.5 every image can be made grey: was a fraction such as 8/255 meant?",
        ),
        _degenerate(target),
        _few_classes(target, rows),
        _idle(rows),
        _single_step(cells),
        _static(target, cells),
        _black_box(cells),
        _eight_bit(rows),
    ]


def chance_of(target: Target, images: Images) -> float:
    """What is right without looking: a guess among the outputs, or the commonest class always, as often as is sure."""
    commonest = int(np.unique(images.labels, return_counts=True)[1].max())
    one_class = commonest == len(images)  # then every answer is always the same class, and says nothing
    return max(1 / target.n_classes, 0.0 if one_class else wilson(commonest, len(images))[0])


def _sorted(images: Images, *, cut: bool) -> Check:
    """Whether the first images of a set were taken that is sorted by class: of its first classes, and of no others."""
    seen = len(np.unique(images.labels))
    ascending = bool((np.diff(images.labels) >= 0).all())
    return Check(
        code="sorted-images",
        fired=cut and ascending and len(images) >= MANY,
        detail=f"the {len(images)} images, of {seen} class{'es' * (seen != 1)}, are the first of a set that seems to "
        "be sorted by class: shuffle it, or take --limit all",
    )


def _why_left_out(rows: Sequence[Row]) -> str:
    """Reasons, with the rows that each keeps from running."""
    reasons = {
        "no surrogate was given": [row.id for row in rows if attack_info(row.attack).surrogate],
        "the model has no such view": [row.id for row in rows if not attack_info(row.attack).surrogate],
    }
    found = [f"{', '.join(ids)} did not run: {reason}" for reason, ids in reasons.items() if ids]
    return "; ".join(found) or "every row ran"


def _degenerate(target: Target) -> Check:
    model = target.model
    variances = model.reconstruction.variances_in_force() if isinstance(model, RBFCNN) else None
    count = 0 if variances is None else int((variances < NO_VARIANCE).sum())
    return Check(
        code="degenerate-filters",
        fired=count > 0,
        detail=f"{count} RBF filter{' has' if count == 1 else 's have'} almost no variance: the reconstruction jumps "
        "where a patch equals such a mean, and gradients do not see it; compare with --var-floor 1e-3",
    )


def _few_classes(target: Target, rows: Sequence[AttackRow]) -> Check:
    """Attacks adapt to few classes instead of failing, and then are not what their names say."""
    others = target.n_classes - 1
    needs = {"apgd-dlr": 3, "apgd-t": 4}
    notes = [
        f"{row.id} was to try {row.params['targets']} wrong classes and there are {others}"
        for row in rows
        if row.params.get("targets", 0) > others
    ]
    notes += [
        f"{row.id} needs {needs[row.name]} classes and took the plain margin"
        for row in rows
        if target.n_classes < needs.get(row.name, 0)
    ]
    return Check(code="few-classes", fired=bool(notes), detail="; ".join(notes) or "every attack ran as named")


def _idle(rows: Sequence[AttackRow]) -> Check:
    idle = [row.id for row in rows if row.unmoved == row.attacked > 0 and row.eps > 0 and row.name != "null"]
    return Check(
        code="moved-nothing",
        fired=bool(idle),
        detail=f"{', '.join(idle) or 'no attack'} changed no image: it found nothing, or did nothing at all",
    )


def _flat(rows: Sequence[AttackRow]) -> Check:
    worst = max(rows, key=lambda row: row.flat, default=None)
    return Check(
        code="zero-gradient",
        fired=worst is not None and worst.flat > 0,
        detail=f"{worst.flat if worst else 0} images gave {worst.id if worst else '-'} no gradient at any point: "
        "the model hides it, and gradient attacks prove nothing there; take --suite adaptive, or --attack square on "
        "all images",
    )


def _single_step(cells: Sequence[Cell]) -> Check:
    """FGSM against the rows that iterate, on the images that both hold; one that either was not at shows nothing."""
    gradients = [cell for cell in cells if cell.row.category in GRADIENTS]
    many = [cell for cell in gradients if cell.row.name != "fgsm"]
    fired = any(
        bool(many) and all(_lead(one, other) > ONE_POINT for other in many)
        for one in gradients
        if one.row.name == "fgsm"
    )
    return Check(
        code="single-step-stronger",
        fired=fired,
        detail="one step breaks more than many: gradients mislead the iterated attack (arXiv 1802.00420)",
    )


def _static(target: Target, cells: Sequence[Cell]) -> Check:
    """Rows that do not see a random model's noise against those that do, on the images of both."""
    blind = [cell for cell in cells if cell.row.view == "static"] if target.stochastic else []
    seeing = [cell for cell in cells if cell.row.view in NOISY_VIEWS]
    stronger = [one.row.id for one in blind if seeing and all(_breaks_more(one, other) for other in seeing)]
    return Check(
        code="static-stronger",
        fired=bool(stronger),
        detail=f"{', '.join(stronger) or 'no row'} breaks more without seeing the noise than any attack that averages "
        "over it: give those more (--eot-samples, steps, restarts)",
    )


def _breaks_more(one: Cell, other: Cell) -> bool:
    """Whether a row leaves less than another on the images of both, and by more than chance explains."""
    elsewhere = _broken_elsewhere(one) | _broken_elsewhere(other)
    return _stronger({image: pair for image, pair in _pairs(one, other).items() if image not in elsewhere}, one)


def _pairs(one: Cell, other: Cell) -> dict[str, tuple[float, float]]:
    """What two rows left of the images that both hold, by image; those that either did not decide are left out."""
    known = [{s.image: s.correct for s in cell.samples if s.status != "unknown"} for cell in (one, other)]
    return {image: (left, known[1][image]) for image, left in known[0].items() if image in known[1]}


def _lead(one: Cell, other: Cell) -> float:
    """How much more the first row breaks, as a share of the images that both hold."""
    both, elsewhere = _pairs(one, other), _broken_elsewhere(one) | _broken_elsewhere(other)
    gained = [theirs - ours for image, (ours, theirs) in both.items() if image not in elsewhere]
    return math.fsum(gained) / max(1, len(both))


def _broken_elsewhere(cell: Cell) -> set[str]:
    """Images of a row that ran on survivors only which an earlier row broke; else spared ones are its own."""
    survivors = cell.row.cumulative_accuracy is not None
    return {s.image for s in cell.samples if survivors and s.status == "spared"}


def _black_box(cells: Sequence[Cell]) -> Check:
    """Rows that see answers only, and controls, against those that follow gradients, on the images that both hold.

    One step is no attack to measure gradients by, unless there is no other.
    """
    following = [cell for cell in cells if cell.row.category in GRADIENTS]
    gradients = [cell for cell in following if cell.row.name != "fgsm"] or following
    found = [
        f"{cell.row.id} ({cell.row.accuracy:.1%})"
        for cell in cells
        if cell.row.category in ("black-box", "transfer") and gradients
        if all(_stronger(_pairs(cell, other), cell) for other in _telling(cell, gradients))
    ]
    return Check(
        code="black-box-stronger",
        fired=bool(found),
        detail=f"{', '.join(found) or 'no row'} without gradients breaks more than gradients do: they are masked, "
        "or the attacks that follow them too weak (--suite adaptive)",
    )


def _telling(one: Cell, others: Sequence[Cell]) -> Sequence[Cell]:
    """Those of other rows with enough images in common that a difference could show; all where none has."""
    return [other for other in others if len(_pairs(one, other)) >= MET] or others


def _stronger(pairs: dict[str, tuple[float, float]], one: Cell) -> bool:
    """Whether the first of each pair, which are of the row `one`, are less than the second beyond chance."""
    left = [theirs for _, theirs in pairs.values()], [ours for ours, _ in pairs.values()]
    return bool(pairs) and compare(*left, decisions=one.row.decisions).p_fall < SELDOM


def _eight_bit(rows: Sequence[AttackRow]) -> Check:
    worst = max(rows, key=lambda row: row.accuracy_8bit - row.accuracy, default=None)
    gap = worst.accuracy_8bit - worst.accuracy if worst else 0.0
    return Check(
        code="lost-in-8-bit",
        fired=gap > ONE_POINT,
        detail=f"rounding to 8 bits undoes attacks on {max(gap, 0):.1%} of the images ({worst.id if worst else '-'})",
    )
