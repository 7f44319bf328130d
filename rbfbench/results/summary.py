"""From images to rows: what one attack left of the model, and what all of them together leave."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from math import fsum, inf
from typing import Any, Protocol, TypeVar

from rbfbench.results.intervals import score
from rbfbench.results.records import AttackRow, Category, Cell, Norm, Sample, Verdict, View, WorstCase

CONTROLS = frozenset({"null", "noise"})
DOUBTFUL: frozenset[Verdict] = frozenset({"invalid", "unknown"})  # of candidates that are no verified examples


class Candidate(Protocol):
    """What a choice among attacks looks at; `Sample` says what each is."""

    @property
    def image(self) -> str:
        """Id of the image."""

    @property
    def attack(self) -> str:
        """Id of the row."""

    @property
    def correct(self) -> float:
        """Mean correctness over decisions that took no part in choosing."""

    @property
    def selection(self) -> float:
        """How far the selection draws lean to the true class; lower is stronger."""

    @property
    def status(self) -> Verdict:
        """Whether it was verified."""


C = TypeVar("C", bound=Candidate)


def summarise(
    samples: Sequence[Sample],
    n: int,
    *,
    id: str,
    name: str,
    view: View,
    category: Category,
    norm: Norm,
    eps: float,
    decisions: int,
    wall_s: float,
    params: Mapping[str, Any],
) -> AttackRow:
    """The row of one attack.

    Args:
        samples: One per image asked for, clean errors included; their order does not matter.
        n: Images asked for.
        id: Name and view, such as "pgd/eot".
        name: Of the attack.
        view: Of the gradient.
        category: What the attack needs to know.
        norm: Of the budget.
        eps: The budget.
        decisions: Fresh decisions behind each `correct`.
        wall_s: Seconds for the whole attack.
        params: Every parameter of the attack.

    Raises:
        ValueError: Not exactly one sample per image.
    """
    _one_each(samples, n)
    total = score(fsum(s.correct for s in samples), n)
    attacked = [s for s in samples if s.status not in ("clean-error", "spared")]
    wrong_any = sum(s.status == "clean-error" or (s.status in ("ok", "spared") and s.wrong_any) for s in samples)
    right = [s for s in samples if s.clean_correct == 1]
    return AttackRow(
        accuracy=total.accuracy,
        k=total.k,
        n=total.n,
        ci95=total.ci95,
        id=id,
        name=name,
        view=view,
        category=category,
        norm=norm,
        eps=eps,
        decisions=decisions,
        invalid=sum(s.status == "invalid" for s in samples),
        unknown=sum(s.status == "unknown" for s in samples),
        forwards=_mean(s.forwards for s in attacked),
        backwards=_mean(s.backwards for s in attacked),
        wall_s=wall_s,
        params=dict(params),
        accuracy_8bit=score(fsum(s.correct_8bit for s in samples), n).accuracy,
        wrong_any=wrong_any if decisions > 1 else None,
        attacked=len(attacked),
        unmoved=sum(s.linf == 0 for s in attacked),
        median_distance=_median_distance(samples),
        curve=_curve(samples, eps),
        accuracy_of_right=fsum(s.correct for s in right) / len(right) if category == "transfer" and right else None,
    )


def accuracy_at(samples: Sequence[Sample], eps: float) -> float:
    """Accuracy that an attack which looks for the nearest adversarial example leaves at another radius.

    Args:
        samples: One per image asked for, of one such attack that was at all of them; those without a distance withstand
            every radius.
        eps: Radius in the norm of the run.
    """
    robust = (s.status != "clean-error" and (s.distance is None or s.distance > eps) for s in samples)
    return sum(robust) / len(samples)


CURVE = (0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 4.0)  # radii of a curve, in shares of the budget


def _searched(samples: Sequence[Sample]) -> bool:
    """Whether the nearest example of every image was looked for: what an earlier row broke may have a nearer one."""
    distances = any(s.distance is not None for s in samples)
    return distances and not any(s.status == "spared" and s.distance is None for s in samples)


def _curve(samples: Sequence[Sample], eps: float) -> list[tuple[float, float]] | None:
    if not _searched(samples) or eps == 0:
        return None
    return [(share * eps, accuracy_at(samples, share * eps)) for share in CURVE]


def _median_distance(samples: Sequence[Sample]) -> float | None:
    if not _searched(samples):
        return None
    distances = sorted(0.0 if s.status == "clean-error" else inf if s.distance is None else s.distance for s in samples)
    middle = distances[(len(distances) - 1) // 2]
    return None if middle == inf else middle


def worst_case(
    cells: Sequence[Cell], *, stochastic: bool, include_transfer: bool = False, cumulative: bool = False
) -> WorstCase | None:
    """Accuracy when each image meets the attack that is strongest against it.

    Args:
        cells: Every attack of the run; those that may not take part (`enters_worst_case`) are left out here. A row may
            hold the first images only, if another holds all.
        stochastic: Whether the model answers with noise, see `choose`.
        include_transfer: Let transfer rows take part.
        cumulative: Each attack ran on the survivors of those before it, so that none stands alone.

    Returns:
        None where no attack may take part.

    Raises:
        ValueError: No attack holds every image that one of them holds.
    """
    entered = [cell for cell in cells if enters_worst_case(cell.row, include_transfer=include_transfer)]
    if not entered:
        return None
    n = max(cell.row.n for cell in entered)
    chosen = list(choose([cell.samples for cell in entered], stochastic=stochastic).values())
    _one_each(chosen, n)
    total = score(fsum(s.correct for s in chosen), n)
    strongest = _most_taken(entered) if cumulative else _lowest([cell.row for cell in entered if cell.row.n == n])
    return WorstCase(accuracy=total.accuracy, k=total.k, n=total.n, ci95=total.ci95, strongest=strongest)


def _lowest(rows: Sequence[AttackRow]) -> str:
    """Id of the row with the lowest accuracy; of rows over the same images, since fewer may be easier ones."""
    return min((row.accuracy, row.id) for row in rows)[1]


def _most_taken(cells: Sequence[Cell]) -> str:
    """Id of the row that broke most of the images it was given."""
    taken = {c.row.id: sum(s.clean_correct - s.correct for s in c.samples if s.status == "ok") for c in cells}
    return max(taken, key=taken.__getitem__)


def enters_worst_case(row: AttackRow, *, include_transfer: bool = False) -> bool:
    """Whether the row is an attack on this model: controls attack nothing, transfer attacks another model."""
    return row.name not in CONTROLS and (include_transfer or row.category != "transfer")


def choose(groups: Iterable[Sequence[C]], *, stochastic: bool) -> dict[str, C]:
    """The strongest candidate of each image id, whatever the order of the groups.

    A deterministic model is broken on an image as soon as one attack breaks it. A stochastic one must not be judged on
    the draws that made the choice, or luck would pass for strength: the choice looks at `selection` only, prefers
    verified candidates, and leaves `correct` to speak for fresh draws.

    Args:
        groups: Samples of each attack, or what else is a `Candidate`.
        stochastic: Whether the model answers with noise.
    """

    def weakness(s: C) -> tuple[float, bool, float, str]:
        known = 0.0 if stochastic else s.correct
        return known, s.status in DOUBTFUL, s.selection, s.attack

    best: dict[str, C] = {}
    for group in groups:
        for s in group:
            if s.image not in best or weakness(s) < weakness(best[s.image]):
                best[s.image] = s
    return best


def _one_each(samples: Sequence[Sample], n: int) -> None:
    images = len({s.image for s in samples})
    if not images == len(samples) == n:
        raise ValueError(f"{len(samples)} samples of {images} images where one for each of {n} images is needed")


def _mean(counts: Iterable[int]) -> float:
    values = list(counts)
    return sum(values) / len(values) if values else 0.0
