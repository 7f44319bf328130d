"""The types of run.json and of the rows of samples.jsonl.gz: one definition for Python, for JSON and for the schema."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from msgspec import Meta, Struct, ValidationError, json, to_builtins

Fraction = Annotated[float, Meta(ge=0, le=1)]
Amount = Annotated[float, Meta(ge=0)]
Count = Annotated[int, Meta(ge=0)]
Prediction = Annotated[int, Meta(ge=-1)]  # -1: no class, the model rejected the image or never answered

Category = Literal["white-box", "static", "adaptive", "black-box", "transfer"]
Norm = Literal["linf", "l2", "l1"]
Status = Literal["started", "complete", "partial", "failed"]
View = Literal["static", "eot", "bpda", "bpda-eot", "none"]
Verdict = Literal["ok", "clean-error", "spared", "invalid", "unknown"]


class Record(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of all records: immutable, keyword-only, and strict about what it reads."""


class Score(Record, frozen=True, kw_only=True):
    """An accuracy that says how sure it is.

    Attributes:
        accuracy: k / n.
        k: Images answered correctly; a sum of mean correctness, so a fraction for a stochastic model.
        n: Images asked for, including those the model gets wrong without any attack.
        ci95: 95% interval of the accuracy over the choice of images.
    """

    accuracy: Fraction
    k: Amount
    n: Annotated[int, Meta(ge=1)]
    ci95: tuple[Fraction, Fraction]


class AttackRow(Score, frozen=True, kw_only=True):
    """What one attack left of the model.

    Attributes:
        id: Name and view, such as "pgd/eot"; unique in a run.
        decisions: Fresh decisions each image was scored on; 1 for a deterministic model.
        invalid: Images whose candidate broke the budget or the box; they stay in k.
        unknown: Images whose batch crashed; they stay in k and make the run partial.
        forwards: Mean per attacked image; one random draw counts one.
        backwards: Likewise.
        wall_s: Seconds for the whole attack.
        params: Every parameter the attack ran with.
        accuracy_8bit: Accuracy after rounding the candidates to the 1/255 grid.
        wrong_any: Images wrong in at least one of the decisions; None for a single decision.
        flat: Images that gave the attack no gradient at all, whatever point it looked at.
        cumulative_accuracy: Where each attack ran on the survivors of those above it: what all of them left, which is
            `accuracy` then.
        accuracy_of_right: Of a transfer attack: accuracy over the images that the model gets right without attack.
        curve: Of an attack that looks for the nearest adversarial example: (radius, accuracy) pairs by growing radius,
            all from this one run; None where it was not at images that an earlier row broke, and on a random model.
        attacked: Images that the attack was at: all but clean errors and spared ones.
        unmoved: Those of them whose candidate is the image itself.
        median_distance: Of an attack that looks for the nearest adversarial example: the median over the images asked
            for of the verified distance, 0 for clean errors; None where the median image withstood at any distance, and
            without a curve.
    """

    id: str
    name: str
    view: View
    category: Category
    norm: Norm
    eps: Amount
    decisions: Annotated[int, Meta(ge=1)]
    invalid: Count
    unknown: Count
    forwards: Amount
    backwards: Amount
    wall_s: Amount
    params: dict[str, Any]
    accuracy_8bit: Fraction
    wrong_any: Count | None
    flat: Count = 0
    attacked: Count = 0
    unmoved: Count = 0
    median_distance: Amount | None = None
    cumulative_accuracy: Fraction | None = None
    accuracy_of_right: Fraction | None = None
    curve: list[tuple[Amount, Fraction]] | None = None


class WorstCase(Score, frozen=True, kw_only=True):
    """Accuracy when each image meets the attack that is strongest against it.

    Attributes:
        strongest: Id of the single attack with the lowest accuracy, of those on all n images; where each attack ran on
            the survivors of those before it, of the one that broke most.
    """

    strongest: str


class Check(Record, frozen=True, kw_only=True):
    """One reason to distrust the numbers, and whether it applies."""

    code: str
    fired: bool
    detail: str


class Environment(Record, frozen=True, kw_only=True):
    """Where the numbers were made."""

    rbfbench: str
    python: str
    torch: str
    device: str
    threads: Annotated[int, Meta(ge=1)]
    git: str | None


class Run(Record, frozen=True, kw_only=True):
    """run.json: one model, one norm, one eps, several attacks."""

    schema_version: Literal[1] = 1
    status: Status
    spec: dict[str, Any]
    spec_digest: str
    model_digest: str
    data_digest: str
    model: dict[str, Any]
    environment: Environment
    clean: Score
    attacks: list[AttackRow]
    worst_case: WorstCase | None
    null_attack: Score | None
    checks: list[Check]


class Sample(Record, frozen=True, kw_only=True):
    """One image under one attack.

    Attributes:
        attack: Id of the row.
        image: Id of the image.
        clean_correct: Mean correctness over the clean decisions.
        correct: Mean correctness over decisions that took no part in choosing the candidate. 0 for "clean-error";
            clean_correct for "invalid" and "unknown", which are not verified adversarial examples.
        correct_8bit: The same for the candidate on the 1/255 grid.
        wrong_any: Wrong in at least one of those decisions.
        selection: How far decisions that score nothing lean to the true class, in [-1,1]; lower is stronger.
        status: "clean-error" was never attacked; "spared" was broken by an earlier row, and carries its numbers.
        linf: Size of the perturbation, likewise l2 and l1; None where the candidate was not finite.
        forwards: Forward passes spent on this image, likewise backwards.
        distance: Length in the norm of the run of the nearest verified adversarial example, whatever the budget, from
            an attack that looks for it; None where there is none, for other attacks, and on a random model, whose
            nearest example lies where its noise takes it back.
    """

    attack: str
    image: str
    label: Count
    clean_prediction: Prediction
    adversarial_prediction: Prediction
    clean_correct: Fraction
    correct: Fraction
    correct_8bit: Fraction
    wrong_any: bool
    selection: float
    status: Verdict
    linf: Amount | None
    l2: Amount | None
    l1: Amount | None
    forwards: Count
    backwards: Count
    distance: Amount | None = None


class Cell(Record, frozen=True, kw_only=True):
    """The unit of resuming: one attack, summarised and image by image."""

    row: AttackRow
    samples: list[Sample]


def encode(record: Record) -> bytes:
    """JSON of a record, or an error that names the field which may not be written.

    The types hold when a record is read, not when it is made; checking here keeps a wrong number out of every file.

    Raises:
        ValueError: A number is NaN or infinite, or out of the range that its field allows.
    """
    # msgspec writes NaN and infinity as null, which a reader could not tell from "there is none".
    _refuse_nonfinite(to_builtins(record), type(record).__name__)
    text = json.encode(record)
    try:
        json.decode(text, type=type(record))
    except ValidationError as error:
        raise ValueError(f"{type(record).__name__} cannot be written: {error}") from error
    return text


def encode_run(run: Run) -> bytes:
    """The run.json document: indented, ends with a newline, and holds no NaN (see `encode`)."""
    return json.format(encode(run), indent=2) + b"\n"


def _refuse_nonfinite(value: object, where: str) -> None:
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{where} is {value}: results hold finite numbers only")
    if isinstance(value, dict):
        for key, item in value.items():
            _refuse_nonfinite(item, f"{where}.{key}")
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            _refuse_nonfinite(item, f"{where}[{index}]")
