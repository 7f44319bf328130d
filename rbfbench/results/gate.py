"""The gate: did robustness fall against a baseline, by more than is allowed and more than chance explains?"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec

from rbfbench.errors import IncomparableError, IncompleteError, LoadError, UsageError
from rbfbench.results.intervals import score
from rbfbench.results.paired import compare, holm, mcnemar
from rbfbench.results.records import AttackRow, Count, Fraction, Record, Run, Sample
from rbfbench.results.store import read_results
from rbfbench.results.summary import choose, enters_worst_case

WORST = "WORST CASE"
DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"  # right decisions of one image, in one character
ROUNDING = 1e-12  # of accuracies, which are sums of fractions
LINE = 100  # images a line of a baseline file
# Checks that leave an accuracy without meaning: whoever passes by it has proved nothing.
PROOFLESS = frozenset({"answers-changed", "noise-not-attacked", "noise-shared", "null-off-clean", "zero-gradient"})
FEW = 0.01  # share of images without a gradient, above what the baseline had, that is no reason to stop
QUERIES = 1000  # a fifth of what AutoAttack's random search asks (arXiv 2003.01690): fewer say nothing of an image
# What must agree. `passes` may differ: more decisions say the same more exactly.
ASKED = ("norm", "eps", "suite", "seed", "worst_case", "include_transfer")


class BaselineCell(Record, frozen=True, kw_only=True):
    """Clean accuracy, one attack, or the worst case.

    Attributes:
        accuracy: Mean correctness.
        params: What the attack ran with.
        right: Image by image, how many of the decisions are right: one character each, 0 to z, a hundred a line.
    """

    accuracy: Fraction
    params: dict[str, Any]
    right: list[str]


class Baseline(Record, frozen=True, kw_only=True):
    """What a later run is judged by: small enough to commit, and readable in a diff.

    Attributes:
        model: What the user called it.
        model_digest: Of the model that made it.
        data_digest: Of the images.
        images: Which they are, for people.
        n: How many of them the attacks took; all, unless each of them was capped.
        decisions: Behind each character of `right`.
        asked: Norm, eps, suite and whatever else must be the same.
        command: What makes such a run.
        cells: By name, in the order of the run.
        checks: Reasons to distrust the run, those that fired: code to detail.
        proofless: Those of them that leave its accuracies without meaning: code to share of the images.
    """

    schema_version: Literal[1] = 1
    model: str
    model_digest: str
    data_digest: str
    images: str
    n: Count
    decisions: Count
    asked: dict[str, Any]
    command: str
    cells: dict[str, BaselineCell]
    checks: dict[str, str] = msgspec.field(default_factory=dict)
    proofless: dict[str, Fraction] = msgspec.field(default_factory=dict)


class Judged(Record, frozen=True, kw_only=True):
    """One cell against the baseline.

    Attributes:
        name: "clean", the id of an attack, or "WORST CASE".
        before: Accuracy of the baseline.
        after: Accuracy now.
        fell: Images that are right less often than before.
        rose: Images that are right more often.
        p: Chance of a fall like this or larger if nothing has changed (exact one-sided sign-flip test).
        p_holm: The same, adjusted for all cells.
        visible: Smallest fall that would have counted as more than chance, if as many images rose as did; None where
            an image has several decisions, since a fall of one of them counts less than a fall of all.
        failed: It fell by more than is allowed, and by more than chance.
        unclear: It fell by more than is allowed, and chance explains it.
        broken: Positions of images that are right less often than before.
    """

    name: str
    before: Fraction
    after: Fraction
    fell: Count
    rose: Count
    p: Fraction
    p_holm: Fraction
    visible: Fraction | None
    failed: bool
    unclear: bool
    broken: list[Count]


class Floor(Record, frozen=True, kw_only=True):
    """An accuracy that must be reached, whatever it was before.

    Attributes:
        norm: Of the budget.
        least: What is asked for.
        accuracy: Of the worst case.
        ci95: Of it, over the choice of images; the gate judges the accuracy itself.
        failed: It is lower.
    """

    norm: str
    least: Fraction
    accuracy: Fraction
    ci95: tuple[Fraction, Fraction]
    failed: bool


class Gate(Record, frozen=True, kw_only=True):
    """The answer.

    Attributes:
        model: What was judged.
        n: Images.
        max_drop: Allowed fall.
        alpha: Chance at which a fall counts.
        cells: Against the baseline; none without one.
        floors: Absolute gates.
        unjudged: Cells of the run that the baseline does not have, and with them the worst case over other attacks.
        images: Ids of the images, by position.
        command: What makes the run again.
        checks: Reasons to distrust the run, those that fired: code to detail.
        proofless: Codes of those that leave its accuracies without meaning, and that the baseline does not share.
    """

    model: str
    n: Count
    max_drop: Fraction
    alpha: Fraction
    cells: list[Judged]
    floors: list[Floor]
    unjudged: list[str]
    images: list[str]
    command: str
    checks: dict[str, str]
    proofless: list[str]

    @property
    def answer(self) -> Literal["PASSED", "FAILED", "UNPROVEN"]:
        """FAILED where anything did; UNPROVEN where nothing did, in a run whose accuracies prove nothing."""
        failed = any(cell.failed for cell in self.cells) or any(floor.failed for floor in self.floors)
        return "FAILED" if failed else "UNPROVEN" if self.proofless else "PASSED"

    @property
    def passed(self) -> bool:
        """Nothing failed, in a run that proves something."""
        return self.answer == "PASSED"


def baseline_of(run: Run, samples: Sequence[Sample], command: str) -> Baseline:
    """The baseline that a run makes.

    Raises:
        IncompleteError: The run is not complete: what it lacks could hide a fall.
        IncomparableError: It has more decisions an image than one character can hold.
    """
    name = str(run.model.get("name") or run.spec.get("model"))
    if run.status != "complete":
        raise IncompleteError(f"the run of {name} is {run.status}", "some of it is missing or undecided", "finish it")
    stochastic = bool(run.model.get("stochastic"))
    decisions = int(run.spec.get("passes", 1)) if stochastic else 1
    if decisions >= len(DIGITS):
        raise IncomparableError(
            f"the run of {name} cannot be a baseline", f"it has {decisions} decisions an image", "use fewer --passes"
        )
    transfer = bool(run.spec.get("include_transfer"))
    rows = [row for row in run.attacks if enters_worst_case(row, include_transfer=transfer)]
    if not rows:
        raise IncomparableError(f"the run of {name} cannot be judged", "it holds no attack on the model", "attack it")
    by_row = {row.id: [s for s in samples if s.attack == row.id] for row in rows}
    attacked = [s for group in by_row.values() for s in group]
    order = images_of(attacked)
    outcomes: dict[str, dict[str, float]] = {"clean": {s.image: s.clean_correct for s in attacked}}
    outcomes |= {id_: {s.image: s.correct for s in group} for id_, group in by_row.items()}
    chosen = choose(by_row.values(), stochastic=stochastic)
    outcomes[WORST] = {image: s.correct for image, s in chosen.items()}
    params = {row.id: row.params for row in rows}
    checks = {check.code: check.detail for check in run.checks if check.fired}
    proofless = dict.fromkeys(sorted(checks.keys() & PROOFLESS), 1.0)
    if "zero-gradient" in proofless:
        proofless["zero-gradient"] = _blind(rows, by_row, len(order), int(run.model.get("m", 1)) if stochastic else 1)
    return Baseline(
        model=name,
        model_digest=run.model_digest,
        data_digest=run.data_digest,
        images=str(run.spec.get("source", "")),
        n=len(order),
        decisions=decisions,
        asked={field: run.spec.get(field, False) for field in ASKED},  # switches that came later were off before
        command=command,
        cells={
            cell: BaselineCell(
                accuracy=math.fsum(found.values()) / len(found),
                params=params.get(cell, {}),
                right=_written([round(found[image] * decisions) for image in order if image in found]),
            )
            for cell, found in outcomes.items()
        },
        checks=checks,
        proofless=proofless,
    )


def _blind(rows: Sequence[AttackRow], samples: Mapping[str, Sequence[Sample]], n: int, draws: int) -> float:
    """Share of the images that gave no gradient to the attack that got most; 0 where one that needs none tried hard."""
    whole = [row for row in rows if row.n == n and row.category != "transfer"]
    if any(row.category == "black-box" and _searched(samples[row.id], draws) for row in whole):
        return 0.0
    return min((row.flat / n for row in whole if row.backwards), default=1.0)


def _searched(samples: Sequence[Sample], draws: int) -> bool:
    """Whether an attack without gradients looked often enough, by so many draws a look, at every image that it left."""
    return all(sample.forwards >= QUERIES * draws for sample in samples if sample.correct > 0)


def images_of(samples: Sequence[Sample]) -> list[str]:
    """Ids of the images of a run, in their order."""
    groups: dict[str, list[str]] = {}
    for s in samples:
        groups.setdefault(s.attack, []).append(s.image)
    return max(groups.values(), key=len, default=[])


def _written(counts: Sequence[int]) -> list[str]:
    text = "".join(DIGITS[count] for count in counts)
    return [text[i : i + LINE] for i in range(0, len(text), LINE)]


def _read(cell: BaselineCell, decisions: int) -> list[float]:
    return [DIGITS.index(character) / decisions for line in cell.right for character in line]


def read_baseline(path: Path) -> Baseline:
    """A baseline file, or the baseline that a run folder makes.

    Raises:
        LoadError: Missing, damaged, or from a newer rbfbench.
        IncompleteError: A run that is not complete.
    """
    if path.is_dir():
        return baseline_of(*read_results(path), "")
    try:
        found = msgspec.json.decode(path.read_bytes(), type=Baseline)
    except FileNotFoundError as error:
        raise LoadError(f"cannot read {path}", "there is no such file", "make one: rbfbench baseline save") from error
    except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
        raise LoadError(
            f"cannot read {path}", f"it is no baseline ({error})", "make one: rbfbench baseline save"
        ) from error
    whole = len("".join(found.cells[WORST].right)) if WORST in found.cells else 0
    if not 1 <= found.decisions < len(DIGITS) or not 1 <= found.n == whole:
        raise LoadError(f"cannot use {path}", "it lacks the worst case of its images", "it was edited: save it again")
    for name, cell in found.cells.items():
        text = "".join(cell.right)
        wrong = not text or any(c not in DIGITS[: found.decisions + 1] for c in text)
        if wrong or abs(math.fsum(_read(cell, found.decisions)) / len(text) - cell.accuracy) > 1e-9:
            raise LoadError(
                f"cannot use {path}", f"accuracy and images of {name} do not agree", "it was edited: save it again"
            )
    return found


def judge(
    before: Baseline | None,
    after: Baseline,
    *,
    images: Sequence[str],
    max_drop: float,
    alpha: float,
    floors: Mapping[str, float],
) -> Gate:
    """Judge a run.

    A cell fails if its accuracy fell by more than `max_drop` and the exact paired test, adjusted by Holm for all cells,
    says that chance gives such a fall less often than alpha.

    Args:
        before: The baseline, if there is one.
        after: The run.
        images: Ids of its images, those that the attacks took first.
        max_drop: Allowed fall of accuracy, a fraction.
        alpha: Chance of failing although nothing has changed.
        floors: Norm to least accuracy of the worst case; "" is the norm of the run.

    Raises:
        IncomparableError: The two are not about the same images, budgets and attacks, or a floor is for another norm.
        UsageError: `max_drop` or `alpha` is NaN or out of its range; no fall is larger than NaN.
    """
    for name, holds, wanted in (
        ("max_drop", 0 <= max_drop <= 1, "from 0 to 1"),
        ("alpha", 0 < alpha < 1, "above 0 and below 1"),
    ):
        if not holds:
            raise UsageError(f"the gate has no {name} to judge by", f"it is not {wanted}", "change it")
    cells = _judged(before, after, max_drop=max_drop, alpha=alpha) if before else []
    judged = {cell.name for cell in cells}
    norm, worst = str(after.asked["norm"]), after.cells[WORST].accuracy
    if strange := set(floors) - {"", norm}:
        raise IncomparableError(
            "the run does not answer --min-accuracy",
            f"it is about {norm}, not {strange.pop()}",
            "judge a run of that norm",
        )
    return Gate(
        model=after.model,
        n=after.n,
        max_drop=max_drop,
        alpha=alpha,
        cells=cells,
        floors=[
            Floor(
                norm=norm,
                least=least,
                accuracy=worst,
                ci95=score(worst * after.n, after.n).ci95,
                failed=least - worst > ROUNDING,
            )
            for least in floors.values()
        ],
        unjudged=[name for name in after.cells if before and name not in judged],
        images=list(images[: after.n]),
        command=after.command,
        checks=after.checks,
        proofless=[
            code
            for code, share in after.proofless.items()
            if share > (before.proofless.get(code, 0) if before else 0) + FEW
        ],
    )


def _judged(before: Baseline, after: Baseline, *, max_drop: float, alpha: float) -> list[Judged]:
    same_question(before, after)
    decisions = math.lcm(before.decisions, after.decisions)
    same_attacks = after.cells.keys() == before.cells.keys()
    pairs = {
        name: (_read(cell, before.decisions), _read(after.cells[name], after.decisions))
        for name, cell in before.cells.items()
        if name != WORST or same_attacks  # an attack that was added would pass for a fall
    }
    tests = {name: compare(*pair, decisions=decisions) for name, pair in pairs.items()}
    adjusted = dict(zip(tests, holm([test.p_fall for test in tests.values()]), strict=True))
    found = []
    for name, test in tests.items():
        large = -test.difference > max_drop + ROUNDING
        found.append(
            Judged(
                name=name,
                before=before.cells[name].accuracy,
                after=after.cells[name].accuracy,
                fell=test.fell,
                rose=test.rose,
                p=test.p_fall,
                p_holm=adjusted[name],
                visible=visible(test.n, test.rose, alpha / len(tests)) if decisions == 1 else None,
                failed=large and adjusted[name] < alpha,
                unclear=large and adjusted[name] >= alpha,
                broken=[i for i, (a, b) in enumerate(zip(*pairs[name], strict=True)) if b < a],
            )
        )
    return found


def visible(n: int, rose: int, alpha: float) -> float:
    """Smallest fall of accuracy that McNemar's exact test would tell from chance, on n images of which `rose` improve.

    Args:
        n: Images.
        rose: Images that are right now and were not.
        alpha: Chance of calling it a fall although nothing has changed.

    Returns:
        A share of the images; 1 if even a fall of all others would not be enough.
    """
    most = n - rose
    if mcnemar(most, rose) >= alpha:
        return 1.0
    least = bisect_left(range(most), True, key=lambda fell: mcnemar(fell, rose) < alpha)
    return max(least - rose, 0) / n


def same_question(before: Baseline, after: Baseline) -> None:
    """Refuse two runs that do not answer the same question.

    Raises:
        IncomparableError: They differ in a field, which is named.
    """
    same_terms(before, after.asked, data_digest=after.data_digest, n=after.n)
    _agree("n", before.n, after.n)
    same_attacks(before, {name: (cell.params, len("".join(cell.right))) for name, cell in after.cells.items()})


def same_terms(before: Baseline, asked: Mapping[str, Any], *, data_digest: str, n: int) -> None:
    """Refuse what a run is about to ask, if the baseline was asked something else: before hours are spent on it.

    Args:
        before: The baseline.
        asked: Spec of the run.
        data_digest: Of its images.
        n: How many they are.

    Raises:
        IncomparableError: They differ in a field, which is named.
    """
    if before.data_digest != data_digest:
        old, new = (f"{count} of digest {of[:12]}" for count, of in ((before.n, before.data_digest), (n, data_digest)))
        _agree("the images (data_digest)", old, new)
    for field in ASKED:
        was, is_now = (False if fields.get(field) is None else fields[field] for fields in (before.asked, asked))
        _agree(field, was, is_now)


def same_attacks(before: Baseline, attacks: Mapping[str, tuple[Mapping[str, Any], int]]) -> None:
    """Refuse a run without an attack of the baseline, or with another one of its name.

    Args:
        before: The baseline.
        attacks: By their names the parameters of the run's attacks, and the images that each takes.

    Raises:
        IncomparableError: One is missing, or differs.
    """
    for name, cell in before.cells.items():
        if name in ("clean", WORST):
            continue
        if name not in attacks:
            _agree("the attacks", name, "none of this name")
        parameters, n = attacks[name]
        for key in sorted(cell.params.keys() | parameters.keys()):
            _agree(f"the parameter {key} of {name}", cell.params.get(key), parameters.get(key))
        _agree(f"the number of images of {name}", len("".join(cell.right)), n)


def _agree(field: str, old: object, new: object) -> None:
    if old != new:
        raise IncomparableError(
            "the run cannot be judged by this baseline",
            f"{field} differs: {old} in the baseline, {new} in the run",
            "run the baseline's command, or save a new baseline",
        )
