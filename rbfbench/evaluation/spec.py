"""What decides a run, in one frozen object."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from rbfbench.attacks import Row


@dataclass(frozen=True, kw_only=True)
class RunSpec:
    """Everything that decides the numbers of a run.

    Attributes:
        model: What the user called the model.
        dataset: What the user called the images.
        source: Which images they are, for people.
        norm: Norm of the budget.
        eps: The budget.
        eps_text: As the user wrote it: 8/255 is not 0.031.
        suite: Name of the suite, or "" for attacks given by name.
        rows: The attacks, every parameter filled in.
        limit: Images asked for.
        available: Images there are.
        seed: Seeds every key.
        passes: Fresh decisions a stochastic model is scored on; as many others choose its strongest candidate.
        batch_size: Rows in one pass; None chooses from memory. It decides no number.
        device: Where the model runs.
        knobs: Constants of the defence that were changed.
        worst_case: Each attack runs on the survivors of those before it only.
        include_transfer: Transfer rows enter the worst case.
        surrogates: What transfer rows attack, as the user called it.
        loading: What was said about the model beside its name, as `LoadOptions.record` gives it.
    """

    model: str
    dataset: str
    source: str
    norm: str
    eps: float
    eps_text: str
    suite: str
    rows: tuple[Row, ...]
    limit: int
    available: int
    seed: int = 0
    passes: int = 3
    batch_size: int | None = None
    device: str = "cpu"
    knobs: dict[str, Any] = dataclasses.field(default_factory=dict)
    worst_case: bool = False
    include_transfer: bool = False
    surrogates: tuple[str, ...] = ()
    loading: dict[str, Any] = dataclasses.field(default_factory=dict)

    def document(self) -> dict[str, Any]:
        """The spec as run.json holds it."""
        return dataclasses.asdict(self)

    def deciding(self) -> dict[str, Any]:
        """The part that decides numbers: without names for people, the rows, and how the work is cut."""
        kept = ("norm", "eps", "seed", "passes", "knobs")
        given = {name: value for name, value in self.loading.items() if name != "weights"}  # their digest counts
        part = {name: value for name, value in dataclasses.asdict(self).items() if name in kept}
        return part | ({"loading": given} if given else {})

    def question(self) -> dict[str, Any]:
        """What the run asks, however it is computed: one run folder answers one question."""
        how = ("batch_size", "device", "source", "available", "eps_text")
        asked = {name: value for name, value in dataclasses.asdict(self).items() if name not in how}
        return asked if self.loading else {name: value for name, value in asked.items() if name != "loading"}
