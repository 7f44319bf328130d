"""What result files keep of each image, and what is left when each image meets the strongest of several runs' attacks.

A column of a result file keeps what every attack left of every image, or the radius of its certificate, so that columns
of several tables can be put together and compared image by image wherever the files are: `kept` and `kept_radii` write
it, `ran` reads it back, `with_images` puts it beside the accuracies, and `worst_of` puts runs together.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import fsum
from pathlib import Path
from typing import Any, NamedTuple

from rbfbench.results.certificates import Certificate
from rbfbench.results.intervals import score
from rbfbench.results.records import Sample, Verdict
from rbfbench.results.store import read_run, read_samples
from rbfbench.results.summary import DOUBTFUL, choose, enters_worst_case

UNMET, DOUBT = "-", "?"  # of an image that the attack did not run on, and of a candidate that was not verified
NONE = "-"  # of an image that is not certified: another class, or none


class Outcome(NamedTuple):
    """What one attack left of one image: of `Sample`, what a worst case needs."""

    image: str
    attack: str
    correct: float
    selection: float
    status: Verdict


class Row(NamedTuple):
    """One attack.

    Attributes:
        id: Name and view, such as "pgd/eot".
        norm: Of its budget.
        eps: The budget.
        through: Whether it looked through the noise.
        alone: Whether it ran on whatever others had left, or on all of its images.
        wall_s: Seconds.
        outcomes: Of the images that it met.
    """

    id: str
    norm: str
    eps: float
    through: bool
    alone: bool
    wall_s: float
    outcomes: list[Outcome]


class Ran(NamedTuple):
    """A finished run.

    Attributes:
        digest: Of the weights.
        seed: Its seed.
        passes: Decisions that score a candidate of a random model.
        random: Whether the model is one.
        rows: Attacks.
        choosing: Decisions that choose among candidates of a random model.
    """

    digest: str
    seed: int
    passes: int
    random: bool
    rows: list[Row]
    choosing: int = 1


def kept(folder: Path) -> dict[str, Any] | None:
    """What a column keeps of the attacks of a finished run; None where a run is not there or not complete.

    Numbers stand in the order of `images`, with spaces between. Transfer rows are kept too.
    """
    if not (folder / "run.json").is_file() or (run := read_run(folder)).status != "complete":
        return None
    samples: dict[str, dict[str, Sample]] = {}
    for sample in read_samples(folder):
        samples.setdefault(sample.attack, {})[sample.image] = sample
    rows = [row for row in run.attacks if enters_worst_case(row, include_transfer=True)]
    images = max((list(samples[row.id]) for row in rows), key=len)
    kept_rows: dict[str, dict[str, Any]] = {}
    for number, row in enumerate(rows):
        met = [samples[row.id].get(image) for image in images]
        kept_rows[row.id] = {
            "norm": row.norm,
            "eps": row.eps,
            "through": row.category == "adaptive",
            "alone": not (run.spec["worst_case"] and number),
            "correct": " ".join(UNMET if s is None else _written(s) for s in met),
        }
        if run.null_attack is not None:  # a model without noise is broken by whatever breaks it: there is no choice
            kept_rows[row.id]["selection"] = " ".join(UNMET if s is None else f"{s.selection:.6g}" for s in met)
    passes = run.spec["passes"]
    return {"passes": passes, "choosing": passes, "images": " ".join(images), "rows": kept_rows}


def _written(sample: Sample) -> str:
    return f"{sample.correct:.6g}" + (DOUBT if sample.status in DOUBTFUL else "")


def kept_radii(certificates: Sequence[Certificate]) -> dict[str, str]:
    """What a column keeps of certificates: the radius around each image that is certified to be of its own class."""
    radii = [repr(each.radius) if each.prediction == each.label else NONE for each in certificates]
    return {"images": " ".join(each.image for each in certificates), "radii": " ".join(radii)}


def with_images(column: dict[str, Any]) -> dict[str, Any]:
    """The column, each of its accuracies with `images`, what is left of each image, where it keeps that."""
    found = column.get("outcomes", {})
    if "radii" in found:
        radii = list(zip(found["images"].split(), found["radii"].split(), strict=True))
        cells = [
            cell | {"images": {image: float(text != NONE and float(text) >= cell["radius"]) for image, text in radii}}
            for cell in column["certified"]
        ]
        return column | {"certified": cells}
    if "rows" in found:
        images = {row.id: {each.image: each.correct for each in row.outcomes} for row in ran(column).rows}
        rows = {id: row | ({"images": images[id]} if id in images else {}) for id, row in column["rows"].items()}
        return column | {"rows": rows}
    return column


def ran(column: dict[str, Any]) -> Ran:
    """The run behind a column that keeps outcomes."""
    found = column["outcomes"]
    images = found["images"].split()
    rows = [
        Row(
            id,
            row["norm"],
            row["eps"],
            row["through"],
            row["alone"],
            column["rows"][id]["wall_s"],
            list(_outcomes(id, images, row)),
        )
        for id, row in found["rows"].items()
    ]
    random = column["null_attack"] is not None
    # Columns from before that was kept had one decision choose.
    return Ran(column["model_digest"], column["seed"], found["passes"], random, rows, found.get("choosing", 1))


def _outcomes(attack: str, images: Sequence[str], row: dict[str, Any]) -> Iterator[Outcome]:
    correct = row["correct"].split()
    selection = row["selection"].split() if "selection" in row else ["0"] * len(images)
    for image, left, margin in zip(images, correct, selection, strict=True):
        if left != UNMET:
            status: Verdict = "unknown" if left.endswith(DOUBT) else "ok"
            yield Outcome(image, attack, float(left.removesuffix(DOUBT)), float(margin), status)


def worst_of(runs: Sequence[Ran]) -> dict[str, Any]:
    """Accuracy when every image meets its strongest attack, and which attack is strongest alone.

    It is over the images that all runs are on. A random model is judged on those that every attack through its noise
    has met: on others the strongest attacks never ran, and they would pass for robust. Attacks that ran on fewer images
    than that count for those. Candidates are chosen by selection draws only, and scored on fresh ones (`_chosen`).

    Raises:
        ValueError: The runs do not belong together.
    """
    _check(runs)
    rows = [row for run in runs for row in run.rows]
    whole = [max((row.outcomes for row in run.rows), key=len) for run in runs]
    through = [row.outcomes for row in rows if row.through]
    counted = set.intersection(*({outcome.image for outcome in outcomes} for outcomes in (*whole, *through)))
    if not counted:
        raise ValueError("the runs have no image in common: run them on the same ones")
    met = [(row, [outcome for outcome in row.outcomes if outcome.image in counted]) for row in rows]
    met = [(row, outcomes) for row, outcomes in met if outcomes]
    chosen = _chosen(runs, counted)
    total = score(fsum(outcome.correct for outcome in chosen.values()), len(chosen))
    # A row that met the survivors of others says nothing of itself alone.
    alone = [
        (fsum(outcome.correct for outcome in outcomes) / len(outcomes), row)
        for row, outcomes in met
        if len(outcomes) == len(counted) and row.alone
    ]
    accuracy, strongest = min(alone, key=lambda entry: (entry[0], entry[1].id))
    return {
        "accuracy": total.accuracy,
        "k": total.k,
        "n": total.n,
        "ci95": list(total.ci95),
        "strongest": {"row": strongest.id, "norm": strongest.norm, "accuracy": accuracy},
        "attacks": len(rows),
        "choosing": sorted({run.choosing for run in runs}) if runs[0].random else [],
        "images": {image: round(chosen[image].correct, 6) for image in sorted(chosen)},
    }


def _chosen(runs: Sequence[Ran], counted: set[str]) -> dict[str, Outcome]:
    """The strongest candidate of each image counted.

    One decision leans far by luck, where the mean of ten does not: only candidates that as many decisions chose are
    compared. Where luck still chooses among many attacks, taking for all images the one that leans farthest over all of
    them can be the better choice. Each choice so made bounds from above what is left; of these few bounds the lowest is
    taken, as of the tables under one norm and of all three together, which is to lie below each.
    """
    alike: dict[int, list[list[Outcome]]] = {}
    for run in runs:
        for row in run.rows:
            met = [outcome for outcome in row.outcomes if outcome.image in counted]
            alike.setdefault(run.choosing if run.random else 0, []).append(met)
    choices = [choose(rows, stochastic=runs[0].random) for rows in alike.values()]
    whole = [met for rows in alike.values() for met in rows if len(met) == len(counted)]
    if runs[0].random and whole:
        farthest = min(whole, key=lambda met: fsum(outcome.selection for outcome in met))
        choices.append({outcome.image: outcome for outcome in farthest})
    return min(choices, key=lambda chosen: fsum(outcome.correct for outcome in chosen.values()))


def _check(runs: Sequence[Ran]) -> None:
    """Refuse to mix runs of different weights, seeds or radii."""
    asked = {(run.digest, run.seed, run.passes) for run in runs}
    radii = {(row.norm, row.eps) for run in runs for row in run.rows}
    if len(asked) > 1 or len(radii) > len({norm for norm, _ in radii}):
        raise ValueError("the runs differ in weights, seed, passes or radius: run them again")
