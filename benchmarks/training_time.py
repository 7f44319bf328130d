"""What training costs, recipe beside recipe: Table II.

Every recipe trains in turn on the first training images, and in turn again in every round, in one process: what the
machine does besides falls on all of them alike. The time of an epoch and of what grows with the number of images is
scaled to all of them; the filters take as long however many images there are.
"""

from __future__ import annotations

import dataclasses
import re
import statistics
import time
from collections import Counter
from math import fsum
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import torch

from rbfbench.data import load_training
from rbfbench.data.catalogue import default_root
from rbfbench.data.images import Images
from rbfbench.defenses import shipped_path
from rbfbench.defenses.checkpoint import load
from rbfbench.defenses.em import EM_PRESETS
from rbfbench.defenses.rbf import PRESETS
from rbfbench.training.recipes import RECIPES, adversary_of, noise_of, schedule_of
from rbfbench.training.trainer import TrainSpec, model_digest, train

CARD = re.compile(
    r"^(?P<epochs>\d+) epochs? in (?P<minutes>[\d.]+) minutes on (?P<device>.*?), (?P<threads>\d+) threads?.*\n"
    r"(?:It started from a model of (?P<before>\d+) epochs)?",
    re.MULTILINE,
)
STEPS = re.compile(r'"steps": (\d+)')
TIMED = ("cnn", "fast", "madry", "rcnn", "rcnn+")
HELD_OUT = 1000


class Stages:
    """Seconds of each stage of a training, by what it tells of its progress."""

    def __init__(self) -> None:
        self.seconds: Counter[str] = Counter()
        self.last = time.perf_counter()

    def __call__(self, stage: str, done: int, total: int, remark: str) -> None:
        """The time since the last word belongs to this stage."""
        del done, total, remark
        now = time.perf_counter()
        self.seconds[stage] += now - self.last
        self.last = now


class Amount(NamedTuple):
    """Images that are trained on, and held-out ones that are looked at."""

    images: int
    held_out: int


class Taken(NamedTuple):
    """What the training of a shipped model took, by its card.

    Attributes:
        epochs: Of its own training.
        minutes: Times threads.
        device: Where.
        before: Epochs of the model that it started from, whose minutes are not in these; 0 without one.
        steps: Of the adversarial examples in a step of training; 0 without them.
    """

    epochs: int
    minutes: float
    device: str
    before: int
    steps: int


def taken_by(name: str, dataset: str) -> Taken:
    """What the training of a shipped model took. Raises LookupError."""
    path = shipped_path(name, dataset)
    text = path.with_suffix(".md").read_text(encoding="utf-8") if path else ""
    found = CARD.search(text)
    if found is None:
        raise LookupError(f"no card of {name} for {dataset} says what its training took")
    steps = STEPS.search(text)
    return Taken(
        int(found["epochs"]),
        float(found["minutes"]) * int(found["threads"]),
        found["device"],
        int(found["before"] or 0),
        int(steps[1]) if steps else 0,
    )


def growth(spec: TrainSpec, stage: str, some: Amount, everything: Amount) -> float:
    """How much longer a stage takes on everything than on some images."""
    if stage == "reconstructions":  # of the held-out images too
        return sum(everything) / sum(some)
    if stage == "filters":  # as many updates, however many images there are
        return 1.0
    most = {"adversarial noise": spec.noise and spec.noise.stored, "batch norm": spec.schedule.settle}.get(stage)
    first = everything.images if most is None else most
    return min(first, everything.images) / min(first, some.images)


def once(
    name: str,
    dataset: str,
    images: Images,
    validation: Images,
    *,
    everything: Amount,
    epochs: int,
    seed: int,
    device: torch.device,
) -> dict[str, Any]:
    """One training: seconds of each epoch, held-out accuracy after it, and what is done once, for all images."""
    recipe = RECIPES[name]
    maker = shipped_path(recipe.source, dataset) if recipe.source else None
    source = load(maker)[0].requires_grad_(False) if maker else None
    spec = TrainSpec(
        name=name,
        dataset=dataset,
        preset="default",
        recipe=recipe,
        schedule=dataclasses.replace(schedule_of("default", dataset, recipe), epochs=epochs),
        noise=noise_of("default", dataset, recipe),
        adversary=adversary_of(dataset, recipe),
        rbf=PRESETS["default"] if recipe.rbf else None,
        em=EM_PRESETS[dataset] if recipe.rbf and source is None else None,
        source=model_digest(source) if source else None,
        seed=seed,
        precision="bfloat16",
        data_digest=images.digest,
    )
    stages = Stages()
    with TemporaryDirectory() as folder:
        made = train(spec, images, validation, Path(folder), source=source, device=device, progress=stages)
    in_epochs = [stages.seconds.pop(f"epoch {number + 1}/{epochs}") for number in range(epochs)]
    stages.seconds.pop("epochs")  # looks at held-out images, and writes the checkpoint
    some = Amount(len(images), len(validation))
    besides = [spent * growth(spec, stage, some, everything) for stage, spent in stages.seconds.items()]
    return {
        "seconds": in_epochs,
        "held_out": [epoch["validation_accuracy"] for epoch in made.history],
        "besides_s": fsum(besides),
    }


def measure(dataset: str, *, limit: int, epochs: int, rounds: int, device: torch.device) -> dict[str, dict[str, Any]]:
    """Columns of Table II.

    Args:
        dataset: Data set.
        limit: Training images an epoch.
        epochs: Of each training.
        rounds: Trainings of each recipe, which take turns.
        device: Where to train.

    Returns:
        By recipe: seconds of an epoch over all images (one number for each that ran), seconds of what is done once,
        and for each round the seconds of its epochs, over the images that were trained on, and held-out accuracies.
    """
    everything, validation = load_training(dataset, data_root=default_root())
    shared: dict[str, Any] = {"everything": Amount(len(everything), len(validation)), "device": device}
    images, validation = everything.head(limit), validation.head(HELD_OUT)
    once(TIMED[0], dataset, images, validation, epochs=1, seed=0, **shared)  # what starts slowly does so here
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in TIMED}
    for seed in range(rounds):
        for name in TIMED:
            made = once(name, dataset, images, validation, epochs=epochs, seed=seed, **shared)
            runs[name].append(made)
            print(f"round {seed + 1}, {name}: {fsum(made['seconds']):.1f} s in epochs", flush=True)
    scale = len(everything) / len(images)
    return {
        name: {
            "epoch_s": [scale * spent for run in found for spent in run["seconds"]],
            "besides_s": statistics.median(run["besides_s"] for run in found),
            "rounds": [{"seconds": run["seconds"], "held_out": run["held_out"]} for run in found],
            "images": len(images),
            "of": len(everything),
        }
        for name, found in runs.items()
    }


class Alike(NamedTuple):
    """Time in epochs until equal accuracy, of one recipe over another.

    Attributes:
        ratio: Median over the rounds in which both came to an accuracy worth comparing.
        accuracy: The lowest that was compared at.
        rounds: Such rounds.
        of: All rounds.
    """

    ratio: float
    accuracy: float
    rounds: int
    of: int

    @property
    def tells(self) -> bool:
        """Whether these are most of the rounds."""
        return 2 * self.rounds > self.of


def to_equal_accuracy(column: dict[str, Any], other: dict[str, Any], least: float) -> Alike | None:
    """Time of a recipe over that of another until the highest held-out accuracy that both came to, round by round.

    Args:
        column: Of Table II.
        other: The one whose time is the unit.
        least: Rounds in which one of them stayed below this accuracy are left out, and counted.

    Returns:
        None where no round is left.
    """
    found = []
    for one, two in zip(column["rounds"], other["rounds"], strict=True):
        common = min(max(one["held_out"]), max(two["held_out"]))
        if common >= least:
            found.append((_seconds_to(one, common) / _seconds_to(two, common), common))
    if not found:
        return None
    ratios, accuracies = zip(*found, strict=True)
    return Alike(statistics.median(ratios), min(accuracies), len(found), len(column["rounds"]))


def _seconds_to(made: dict[str, Any], accuracy: float) -> float:
    """Seconds in epochs until a training came to a held-out accuracy that it reached."""
    first = next(epoch for epoch, found in enumerate(made["held_out"]) if found >= accuracy)
    return fsum(made["seconds"][: first + 1])
