"""Runs on the same images that differ in one number: a trade-off, and what must hold along it."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

from rbfbench.results.records import Check, Record, Run, Sample
from rbfbench.results.summary import enters_worst_case


class SweepPoint(Record, frozen=True, kw_only=True):
    """One value and its run.

    Attributes:
        value: The number.
        text: As the user wrote it: 8/255 is not 0.031.
        run: The run at this value.
    """

    value: float
    text: str
    run: Run


class Sweep(Record, frozen=True, kw_only=True):
    """sweep.json: a run for each value of one quantity.

    Attributes:
        status: "started" where it was stopped before its end.
        missing: Values asked for that it did not come to, as the user wrote them.
        over: Name of the quantity, "eps" or a constant of the defence.
        points: In the order of the values.
        checks: Reasons to distrust the curve; each run has its own besides.
    """

    schema_version: Literal[1] = 1
    status: Literal["started", "complete"] = "complete"  # older files hold neither of the two
    missing: tuple[str, ...] = ()
    over: str
    points: list[SweepPoint]
    checks: list[Check]


def broken(samples: Sequence[Sample], run: Run) -> set[str]:
    """Ids of the images that the attacks of a run break on a deterministic model."""
    transfer = bool(run.spec.get("include_transfer"))
    entering = {row.id for row in run.attacks if enters_worst_case(row, include_transfer=transfer)}
    return {s.image for s in samples if s.correct == 0 and s.attack in entering}


def budgets_nest(points: Sequence[SweepPoint], broken_at: Sequence[set[str]]) -> Check:
    """A larger ball holds the smaller one: whatever broke an image there breaks it here, if the attack finds it.

    On a deterministic model every image counts. On a random one, whose answers differ from pass to pass, the worst
    cases are compared, and only intervals that lie apart.

    Args:
        points: Of a sweep over eps, by growing value.
        broken_at: Images broken at each point; not used for random models.
    """
    lines = []
    for (small, large), (before, after) in zip(pairwise(points), pairwise(broken_at), strict=True):
        if small.run.null_attack is None:
            if escaped := before - after:
                lines.append(f"{len(escaped)} broken at {small.text} withstood {large.text}")
        elif small.run.worst_case and large.run.worst_case:
            low, high = large.run.worst_case.ci95[0], small.run.worst_case.ci95[1]
            if low > high:
                lines.append(f"accuracy rises from {small.text} to {large.text}")
    return Check(
        code="budgets-do-not-nest",
        fired=bool(lines),
        detail=f"{'; '.join(lines) or 'none'}: there the attack is too weak, not the model stronger",
    )
