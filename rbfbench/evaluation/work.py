"""What a run costs: passes planned, passes done, and how long they take."""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median

import torch
from torch import Tensor

from rbfbench.attacks import Row
from rbfbench.evaluation.target import Target
from rbfbench.interop import attack_info

BACKWARD = 1.5  # what a backward pass counts, in forward passes
TRIALS = 3  # timed passes; the median of them counts

Progress = Callable[[str, float, float], None]  # (what, work done, all work), work in passes over one image


def draws_of(target: Target, row: Row) -> int:
    """Noisy passes behind each look of a row at the model; 1 without noise."""
    view = target.views[row.view]
    return (view.draws or row.draws) if view.noisy else 1


def verdict_work(target: Target, passes: int) -> float:
    """Passes that the verdict on one candidate costs."""
    return target.draws * ((passes + 2) if target.stochastic else 2)


def row_passes(target: Target, row: Row) -> tuple[int, int]:
    """Most (forwards, backwards) that one image costs under a row, without its verdict."""
    draws = draws_of(target, row)
    forwards, backwards = attack_info(row.attack).passes(row.parameters)
    return draws * forwards, draws * backwards


def row_work(target: Target, row: Row, passes: int) -> float:
    """Work that one image costs at most under a row, its verdict included."""
    forwards, backwards = row_passes(target, row)
    return forwards + BACKWARD * backwards + verdict_work(target, passes)


def images_of_row(row: Row, n: int) -> int:
    """Images that a row takes of the n asked for."""
    return n if row.limit is None else min(n, row.limit)


def null_work(target: Target, rows: list[Row], passes: int) -> float:
    """Work that one image costs in the null control."""
    return target.draws * (passes + max(1, sum(attack_info(row.attack).kind != "control" for row in rows)))


def work_ahead(target: Target, rows: list[Row], n: int, passes: int) -> dict[str, float]:
    """Work of every stage of a run over n images, at most."""
    stages = {"clean": float(n * passes * target.draws)}
    stages |= {row.id: images_of_row(row, n) * row_work(target, row, passes) for row in rows}
    if target.stochastic:
        stages["null control"] = float(n * null_work(target, rows, passes))
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
        attacks = [name for name, promised in self.promised.items() if promised and name != "clean"]
        if not attacks:
            return 1.0
        return sum(self.spent[name] for name in attacks) / sum(self.promised[name] for name in attacks)


def seconds_per_pass(target: Target, x: Tensor) -> float:
    """Seconds that one unit of work takes, measured on images x (n, C, H, W) of the run; x should fill a batch."""
    view = target.views.get("static", target.views["none"])
    keys = None
    gradient = "static" in target.views
    work = len(x) * (1 + BACKWARD * gradient)
    times = []
    for _ in range(TRIALS):
        began = time.perf_counter()
        with torch.set_grad_enabled(gradient):
            leaf = x.clone().requires_grad_(gradient)
            logits = view.forward(leaf, keys)
            if gradient:
                torch.autograd.grad(logits.sum(), leaf)
        if x.is_cuda:
            torch.cuda.synchronize()
        times.append(time.perf_counter() - began)
    return median(times) / work
