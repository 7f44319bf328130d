"""Several models under the same attacks on the same images: side by side, and paired image by image."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import msgspec

from rbfbench.errors import IncomparableError
from rbfbench.results.intervals import score
from rbfbench.results.paired import compare, holm
from rbfbench.results.records import Fraction, Record, Run, Sample, Score
from rbfbench.results.summary import choose, enters_worst_case


class Difference(Record, frozen=True, kw_only=True):
    """A model against the first one, on the images of both.

    Attributes:
        difference: Mean correctness of this model minus that of the first.
        better: Images on which it is right more often.
        worse: Images on which it is right less often.
        both: Images that both always get right.
        neither: Images that both always get wrong.
        p: Chance of such a difference, either way, if the models are equal (exact sign-flip test).
        p_holm: The same, adjusted for all cells of the comparison.
    """

    difference: float
    better: int
    worse: int
    both: int
    neither: int
    p: Fraction
    p_holm: Fraction


class Compared(Record, frozen=True, kw_only=True):
    """One line of a comparison: clean, an attack, a worst case or the union over norms.

    Attributes:
        name: "clean", the id of an attack, "WORST CASE" or "UNION OVER NORMS".
        norm: Norm of the budget; "" for lines that belong to none.
        scores: One a model; None where the model was not under this attack.
        differences: One a model, against the first; None for the first, and where a score is missing.
    """

    name: str
    norm: str
    scores: list[Score | None]
    differences: list[Difference | None]


class Comparison(Record, frozen=True, kw_only=True):
    """compare.json.

    Attributes:
        models: Their names, the first being what the others are compared with.
        budgets: Norm to radius as written.
        images: Which images, for people.
        n: How many of them the first model's rows took.
        suite: Their attacks.
        lines: Clean, then the attacks and worst case of each norm, then the union.
        transfer: Source to target to accuracy on examples made on the source, if it was asked for.
        checks: Reasons to distrust the numbers, those that fired: "model, norm: code: detail".
    """

    schema_version: Literal[1] = 1
    models: list[str]
    budgets: dict[str, str]
    images: str
    n: int
    suite: str
    lines: list[Compared]
    transfer: dict[str, dict[str, Score]] | None = None
    checks: list[str] = msgspec.field(default_factory=list)


@dataclass(frozen=True)
class Result:
    """A run with its samples.

    Attributes:
        run: The document.
        samples: Its rows.
        where: What the user calls it.
        model: Name of the model; the same for its runs under other norms.
    """

    run: Run
    samples: Sequence[Sample]
    where: str
    model: str

    @property
    def norm(self) -> str:
        """Norm of the run."""
        return str(self.run.spec["norm"])

    @property
    def stochastic(self) -> bool:
        """Whether the model answers with noise."""
        return bool(self.run.model.get("stochastic"))

    @property
    def decisions(self) -> int:
        """Decisions behind each mean correctness."""
        return int(self.run.spec.get("passes", 1)) if self.stochastic else 1

    def shared_id(self, id_: str) -> str:
        """Id of a row across models: the gradient of a deterministic model is its own, through a stand-in or not."""
        return id_ if self.stochastic or not id_.endswith("/bpda") else f"{id_.removesuffix('/bpda')}/static"

    def asked(self) -> list[str]:
        """The attacks that were asked for, whatever views of the model they found, with their caps."""
        rows = [(row["attack"], row.get("label", ""), row.get("limit")) for row in self.run.spec.get("rows", ())]
        return sorted({f"{name}{label and '-' + label}{'' if cap is None else f'={cap}'}" for name, label, cap in rows})

    def entering(self) -> list[list[Sample]]:
        """Samples of each attack that enters the worst case."""
        transfer = bool(self.run.spec.get("include_transfer"))
        ids = [row.id for row in self.run.attacks if enters_worst_case(row, include_transfer=transfer)]
        return [[s for s in self.samples if s.attack == id_] for id_ in ids]


def compare_runs(results: Sequence[Result]) -> Comparison:
    """Put runs side by side; several runs of one model differ in their norm.

    Raises:
        IncomparableError: They are not about the same images, budgets and attacks, or one is unfinished.
    """
    columns = _columns(results)
    _same_question(results, columns)
    first = results[0]
    lines: list[tuple[str, str, list[dict[str, float] | None]]] = []
    clean = [_clean(next(iter(runs.values()))) for runs in columns.values()]
    lines.append(("clean", "", [*clean]))
    for norm in columns[first.model]:
        runs = [column[norm] for column in columns.values()]
        ids = dict.fromkeys(result.shared_id(row.id) for result in runs for row in result.run.attacks)
        lines += [(id_, norm, [_attacked(result, id_) for result in runs]) for id_ in ids]
        lines.append(("WORST CASE", norm, [_worst(result.entering(), result.stochastic) for result in runs]))
    if len(columns[first.model]) > 1:
        lines.append(("UNION OVER NORMS", "", [_union(list(runs.values())) for runs in columns.values()]))
    decisions = math.lcm(*(result.decisions for result in results))
    return Comparison(
        models=list(columns),
        budgets={norm: str(result.run.spec["eps_text"]) for norm, result in columns[first.model].items()},
        images=str(first.run.spec.get("source", "")),
        n=len(clean[0]),
        suite=str(first.run.spec.get("suite", "")),
        lines=_tested(lines, decisions),
        checks=[
            f"{result.model}, {result.norm}: {check.code}: {check.detail}"
            for result in results
            for check in result.run.checks
            if check.fired
        ],
    )


Outcomes = dict[str, float]  # image id -> mean correctness


def _columns(results: Sequence[Result]) -> dict[str, dict[str, Result]]:
    """Model -> norm -> result."""
    columns: dict[str, dict[str, Result]] = {}
    for result in results:
        if result.norm in columns.setdefault(result.model, {}):
            why = (
                f"{result.where} and {columns[result.model][result.norm].where} are {result.model} under {result.norm}"
            )
            raise IncomparableError(
                "two runs are of the same model and norm", why, "leave one out, or name models apart"
            )
        for earlier in columns[result.model].values():
            _agree(f"the model called {result.model} (model_digest)", earlier, result, earlier.run.model_digest,
                   result.run.model_digest)  # fmt: skip
        columns[result.model][result.norm] = result
    return columns


def _same_question(results: Sequence[Result], columns: Mapping[str, Mapping[str, Result]]) -> None:
    first = results[0]
    for other in results:
        if other.run.status != "complete":
            raise IncomparableError(f"{other.where} is {other.run.status}", "some of it is missing", "finish it first")
        _agree("the images (data_digest)", first, other, first.run.data_digest, other.run.data_digest)
        for field in ("suite", "seed", "worst_case", "include_transfer"):
            # Switches that came later were off in runs that do not know them.
            _agree(field, first, other, first.run.spec.get(field, False), other.run.spec.get(field, False))
        twin = columns[first.model].get(other.norm)
        if twin is None:
            _agree("norm", first, other, ", ".join(columns[first.model]), other.norm)
            continue
        _agree("eps", twin, other, twin.run.spec["eps"], other.run.spec["eps"])
        _agree("the attacks asked for", twin, other, twin.asked(), other.asked())
        settled = {twin.shared_id(row.id): row.params for row in twin.run.attacks}
        for row in other.run.attacks:
            if (id_ := other.shared_id(row.id)) in settled:
                _agree(f"the parameters of {id_}", twin, other, settled[id_], row.params)
    for column in columns.values():
        _agree("norms", first, next(iter(column.values())), list(columns[first.model]), list(column))


def _agree(field: str, one: Result, other: Result, ours: Any, theirs: Any) -> None:  # noqa: ANN401
    if ours != theirs:
        why = f"{field} differs: {_brief(ours)} in {one.where}, {_brief(theirs)} in {other.where}"
        raise IncomparableError("these runs cannot be compared", why, "run both with the same options")


def _brief(value: object) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _clean(result: Result) -> Outcomes:
    return {s.image: s.clean_correct for s in result.samples}


def _attacked(result: Result, id_: str) -> Outcomes | None:
    return {s.image: s.correct for s in result.samples if result.shared_id(s.attack) == id_} or None


def _worst(groups: list[list[Sample]], stochastic: bool) -> Outcomes | None:
    return {image: s.correct for image, s in choose(groups, stochastic=stochastic).items()} or None


def _union(results: Sequence[Result]) -> Outcomes | None:
    groups = [group for result in results for group in result.entering()]
    return _worst(groups, any(result.stochastic for result in results))


def _tested(lines: list[tuple[str, str, list[Outcomes | None]]], decisions: int) -> list[Compared]:
    """Scores and differences of all lines, with Holm's correction over all of them."""
    tested: list[Compared] = []
    for name, norm, outcomes in lines:
        reference = outcomes[0]
        scores = [score(math.fsum(o.values()), len(o)) if o else None for o in outcomes]
        differences: list[Difference | None] = [None]
        for other in outcomes[1:]:
            differences.append(_difference(reference, other, decisions) if reference and other else None)
        tested.append(Compared(name=name, norm=norm, scores=scores, differences=differences))
    every = [d for line in tested for d in line.differences if d]
    adjusted = iter(holm([d.p for d in every]))
    return [
        Compared(
            name=line.name,
            norm=line.norm,
            scores=line.scores,
            differences=[
                d
                and Difference(**{name: getattr(d, name) for name in d.__struct_fields__} | {"p_holm": next(adjusted)})
                for d in line.differences
            ],
        )
        for line in tested
    ]


def _difference(first: Outcomes, other: Outcomes, decisions: int) -> Difference:
    shared = [image for image in first if image in other]
    pairs = [(first[image], other[image]) for image in shared]
    paired = compare([a for a, _ in pairs], [b for _, b in pairs], decisions=decisions)
    return Difference(
        difference=paired.difference,
        better=paired.rose,
        worse=paired.fell,
        both=sum(a == b == 1 for a, b in pairs),
        neither=sum(a == b == 0 for a, b in pairs),
        p=paired.p,
        p_holm=paired.p,
    )
