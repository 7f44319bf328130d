"""What run folders leave of a model when each image meets the strongest of all attacks that they hold."""

from __future__ import annotations

from collections.abc import Sequence
from math import fsum
from pathlib import Path
from typing import Any, NamedTuple

from rbfbench.results.intervals import score
from rbfbench.results.records import AttackRow, Run, Sample
from rbfbench.results.store import read_run, read_samples
from rbfbench.results.summary import choose, enters_worst_case


class Done(NamedTuple):
    """A finished run and the samples of its attacks, by row."""

    run: Run
    samples: dict[str, list[Sample]]

    @property
    def attacks(self) -> list[AttackRow]:
        """The rows that attack something, those that other models' examples made included."""
        return [row for row in self.run.attacks if enters_worst_case(row, include_transfer=True)]


def finished(folder: Path) -> Done | None:
    """The run in a folder, None where it is not there or not complete."""
    if not (folder / "run.json").is_file() or (run := read_run(folder)).status != "complete":
        return None
    samples: dict[str, list[Sample]] = {}
    for sample in read_samples(folder):
        samples.setdefault(sample.attack, []).append(sample)
    return Done(run, samples)


def worst_of(runs: Sequence[Done]) -> dict[str, Any]:
    """Accuracy when every image meets its strongest attack, and which attack is strongest alone.

    It is over the images that all runs are on. A random model is judged on those that every attack through its noise
    has met: on others the strongest attacks never ran, and they would pass for robust. Attacks that ran on fewer images
    than that count for those. The choice looks at selection draws only, and is scored on fresh ones
    (`rbfbench.results.summary.choose`).

    Raises:
        SystemExit: The runs do not belong together.
    """
    _check(runs)
    groups = [(row, done.samples[row.id]) for done in runs for row in done.attacks]
    on_survivors = {id(row) for done in runs for row in done.attacks[1:] if done.run.spec["worst_case"]}
    through = [samples for row, samples in groups if row.category == "adaptive"]
    whole = [max((done.samples[row.id] for row in done.attacks), key=len) for done in runs]
    counted = set.intersection(*({sample.image for sample in samples} for samples in (*whole, *through)))
    if not counted:
        raise SystemExit(f"the runs of {runs[0].run.model['name']} have no image in common: run them on the same ones")
    met = [(row, [s for s in samples if s.image in counted]) for row, samples in groups]
    met = [(row, samples) for row, samples in met if samples]
    chosen = choose((samples for _, samples in met), stochastic=runs[0].run.null_attack is not None)
    total = score(fsum(sample.correct for sample in chosen.values()), len(chosen))
    # A row that met the survivors of others says nothing of itself alone.
    alone = [
        (fsum(s.correct for s in samples) / len(samples), row)
        for row, samples in met
        if len(samples) == len(counted) and id(row) not in on_survivors
    ]
    accuracy, strongest = min(alone, key=lambda entry: (entry[0], entry[1].id))
    return {
        "accuracy": total.accuracy,
        "k": total.k,
        "n": total.n,
        "ci95": list(total.ci95),
        "strongest": {"row": strongest.id, "norm": strongest.norm, "accuracy": accuracy},
        "attacks": len(groups),
        "images": {str(image): round(chosen[image].correct, 6) for image in sorted(chosen)},
    }


def _check(runs: Sequence[Done]) -> None:
    """Refuse to mix runs of different weights, seeds or radii."""
    asked = {(run.model_digest, run.spec["seed"], run.spec["passes"]) for run, _ in runs}
    radii = {(run.spec["norm"], run.spec["eps"]) for run, _ in runs}
    if len(asked) > 1 or len(radii) > len({run.spec["norm"] for run, _ in runs}):
        names = ", ".join(sorted({run.model["name"] for run, _ in runs}))
        raise SystemExit(f"the runs of {names} differ in weights, seed, passes or radius: run them again")
