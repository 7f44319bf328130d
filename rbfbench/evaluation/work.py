"""What a run costs: passes planned, passes done, and how long they take."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from rbfbench.attacks import AVERAGING, Row
from rbfbench.attacks.oracle import Oracle
from rbfbench.attacks.rng import Keys
from rbfbench.data.images import Images
from rbfbench.evaluation.asked_again import SEEN
from rbfbench.evaluation.input_range import IMAGES, tries
from rbfbench.evaluation.target import Target, View, ensemble
from rbfbench.interop import attack_info
from rbfbench.precision import full_precision

SHORT = 2.0  # seconds; what took longer is not measured again
BACKWARD = 1.5  # what a backward pass counts, in forward passes
CLEAN, NULL, AGAIN, RANGES = "clean", "null control", "asked again", "other ranges"  # stages beside the attacks
EXACT = (CLEAN, NULL, AGAIN, RANGES)  # cost what is planned: no image is done early

Progress = Callable[[str, float, float], None]  # (what, work done, all work), work in passes over one image


def view_of(target: Target, row: Row, surrogates: Sequence[Target] = ()) -> View:
    """What a row looks at: a view of the target, or the surrogates in its place."""
    if attack_info(row.attack).surrogate:
        return ensemble(surrogates)
    return target.views[row.view]


def draws_of(target: Target, row: Row) -> int:
    """Noisy passes behind each look of a row; 1 without noise, and at surrogates."""
    view = view_of(target, row)
    return (view.draws or row.draws) if view.noisy else 1


def recorded_parameters(target: Target, row: Row) -> dict[str, Any]:
    """Every parameter that a row runs with, as run.json holds them."""
    averaged = {"draws": draws_of(target, row), "objective": row.objective} if row.view in AVERAGING else {}
    return dict(row.parameters) | averaged


def planned(target: Target, rows: Sequence[Row], n: int) -> dict[str, tuple[dict[str, Any], int]]:
    """By their names the parameters of the rows that will run on n images, and how many of them each takes."""
    return {
        row.id: (recorded_parameters(target, row), images_of_row(row, n)) for row in rows if row.view in target.views
    }


def verdict_decisions(target: Target, row: Row, passes: int) -> tuple[int, int]:
    """How often a verdict on one candidate of a row asks for `passes` decisions of a random model, and for one.

    An attack that looks for the nearest example has two candidates to choose from, and two distances to verify unless
    the model is random.
    """
    scored, distances = (2, 0) if target.stochastic else (1, 2)
    nearest = 2 + distances if attack_info(row.attack).kind == "minimum-norm" else 0
    return scored + nearest, 1  # scored and chosen by many; one more on the 8-bit grid


def verdict_work(target: Target, row: Row, passes: int) -> float:
    """Passes that the verdict on one candidate of a row costs."""
    many, single = verdict_decisions(target, row, passes)
    return target.draws * (many * passes + single)


def row_passes(target: Target, row: Row) -> tuple[int, int]:
    """Most (forwards, backwards) that one image costs under a row, without its verdict."""
    draws = draws_of(target, row)
    forwards, backwards = attack_info(row.attack).passes(row.parameters)
    return draws * forwards, draws * backwards


def row_work(target: Target, row: Row, passes: int) -> float:
    """Work that one image costs at most under a row, its verdict included."""
    forwards, backwards = row_passes(target, row)
    return forwards + BACKWARD * backwards + verdict_work(target, row, passes)


def images_of_row(row: Row, n: int) -> int:
    """Images that a row takes of the n asked for."""
    return n if row.limit is None else min(n, row.limit)


def null_work(target: Target, rows: list[Row], passes: int) -> float:
    """Work that one image costs in the null control."""
    copies = max(1, sum(attack_info(row.attack).kind != "control" for row in rows))
    return target.draws * passes * (copies + 1)


def repeated_work(target: Target, n: int) -> float:
    """Work of asking a model that is not random again, about the first of n images, to see that it answers alike."""
    return float(2 * min(SEEN, n) * target.draws)


def ranges_work(target: Target, images: Images) -> float:
    """Work of trying whether a model expects pixels of another range."""
    return float(tries(target, images) * min(IMAGES, len(images)))


def work_ahead(target: Target, rows: list[Row], images: Images, passes: int) -> dict[str, float]:
    """Work of every stage of a run over the images, at most."""
    n = len(images)
    stages = {CLEAN: float(n * passes * target.draws)}
    stages |= {row.id: images_of_row(row, n) * row_work(target, row, passes) for row in rows}
    if target.stochastic:
        stages[NULL] = float(n * null_work(target, rows, passes))
    else:
        stages[AGAIN] = repeated_work(target, n)
    stages[RANGES] = ranges_work(target, images)
    return stages


class Meter:
    """How much work is done and how much is ahead, learning from what is done how far bounds are undercut.

    Args:
        tell: Called after every pass.
        stages: Most work of each stage.
    """

    def __init__(self, tell: Progress, stages: dict[str, float]) -> None:
        self.tell = tell
        self.ahead = stages
        self.stage = ""
        self.done = 0.0
        self.batch = 0.0  # spent in the batch at hand
        self.spent: dict[str, float] = {}
        self.promised: dict[str, float] = {}

    def begin(self, stage: str, most: float) -> None:
        """Start a stage, of which no more than `most` is to be done."""
        self.stage, self.ahead[stage] = stage, most
        self.tick(0)

    def skip(self, stage: str) -> None:
        """A stage need not be done."""
        del self.ahead[stage]

    def tick(self, work: float) -> None:
        """So much more is done."""
        self.done += work
        self.batch += work
        left = sum(most * self._share(stage) for stage, most in self.ahead.items())
        here = min(self.batch, self.ahead.get(self.stage, 0.0) * self._share(self.stage))
        self.tell(self.stage, self.done, max(self.done + left - here, 1.0))

    def settle(self, promised: float) -> None:
        """The batch at hand is over, for which `promised` was planned."""
        self.ahead[self.stage] = max(0.0, self.ahead[self.stage] - promised)
        self.spent[self.stage] = self.spent.get(self.stage, 0.0) + self.batch
        self.promised[self.stage] = self.promised.get(self.stage, 0.0) + promised
        self.batch = 0.0
        self.tick(0)

    def _share(self, stage: str) -> float:
        """Work over bound: of this stage, if some of it is over, else of all attacks that are."""
        if self.promised.get(stage):
            return self.spent[stage] / self.promised[stage]
        if stage in EXACT:
            return 1.0
        attacks = [name for name, promised in self.promised.items() if promised and name not in EXACT]
        if not attacks:
            return 1.0
        return sum(self.spent[name] for name in attacks) / sum(self.promised[name] for name in attacks)


class Clock:
    """How long looks at a model and verdicts take, each measured on its own, in seconds for one image.

    Args:
        target: The model.
        x: Images (n, C, H, W) of the run to look at.
        passes: Fresh decisions of a verdict.
        surrogates: What transfer rows look at.
    """

    def __init__(self, target: Target, x: Tensor, passes: int, surrogates: Sequence[Target] = ()) -> None:
        self.target, self.x, self.passes, self.surrogates = target, x, passes, surrogates
        self.keys = Keys.of([str(i) for i in range(len(x))], 0)
        self.looks: dict[tuple[bool, str, int], tuple[float, float]] = {}
        self.decision = self._time(lambda: target.decide(x, self.keys, passes))
        self.single = self._time(lambda: target.decide(x, self.keys))

    def row(self, row: Row) -> float:
        """Seconds that one image takes at most under a row, its verdict included."""
        info, draws = attack_info(row.attack), draws_of(self.target, row)
        forwards, backwards = info.passes(row.parameters)
        key = (info.surrogate, row.view, draws)
        if key not in self.looks:
            self.looks[key] = self._look(view_of(self.target, row, self.surrogates), draws, graded=backwards > 0)
        plain, graded = self.looks[key]
        many, single = verdict_decisions(self.target, row, self.passes)
        verdict = many * self.decision + single * self.single
        return max(forwards - backwards, 0) * plain + backwards * graded + verdict

    def _look(self, view: View, draws: int, *, graded: bool) -> tuple[float, float]:
        """(without gradient, with gradient)."""
        keys = self.keys if view.noisy else None
        oracle = Oracle(view.forward, keys, len(self.x), draws=draws, max_rows=max(self.target.max_rows, draws))
        plain = self._time(lambda: oracle.logits(self.x))
        return plain, self._time(lambda: oracle.value_and_grad(self.x, lambda z: z.sum(1))) if graded else 0.0

    def _time(self, work: Callable[[], object]) -> float:
        """Seconds for one image; the lesser of two, if the first was short: it may have paid for a cold start."""
        first = self._once(work)
        return (min(first, self._once(work)) if first < SHORT else first) / len(self.x)

    @full_precision()
    def _once(self, work: Callable[[], object]) -> float:
        began = time.perf_counter()
        work()
        if self.x.is_cuda:
            torch.cuda.synchronize()
        return time.perf_counter() - began
