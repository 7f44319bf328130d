"""Comparisons: known differences, the union over norms, what may not be compared, and the spellings of the table."""

from __future__ import annotations

import csv
import io
from typing import Any

import msgspec
import pytest
from rich.console import Console
from scipy import stats
from test_summary import clean_error, row_of, sample

from rbfbench.errors import IncomparableError
from rbfbench.reporting.compare_table import compare_table, reading, rendered
from rbfbench.results.comparison import Comparison, Result, compare_runs
from rbfbench.results.intervals import score
from rbfbench.results.records import Check, Environment, Run

N = 20


def result(
    model: str, broken: dict[str, set[int]], *, norm: str = "linf", wrong: frozenset[int] = frozenset(), **spec: Any
) -> Result:
    """A run on images 0 to N - 1: attack id to the images that it breaks; `wrong` ones are wrong without attack."""
    samples, rows = [], []
    for id_, images in broken.items():
        group = [
            clean_error(i, id_) if i in wrong else sample(i, id_, correct=0.0 if i in images else 1.0) for i in range(N)
        ]
        samples += group
        rows.append(row_of(group, id_, norm=norm))
    clean = score(N - len(wrong), N)
    made = Environment(rbfbench="0", python="3", torch="2", device="cpu", threads=1, git=None)
    asked = {"norm": norm, "eps": 0.1, "eps_text": "0.1", "suite": "quick", "seed": 0, "source": "toy"} | spec
    run = Run(
        status="complete",
        spec=asked,
        spec_digest="",
        model_digest=model,
        data_digest="data",
        model={"name": model, "stochastic": False},
        environment=made,
        clean=clean,
        attacks=rows,
        worst_case=None,
        null_attack=None,
        checks=[],
    )
    return Result(run, samples, f"run-{model}-{norm}", model)


def line(comparison: Comparison, name: str, norm: str = "linf") -> Any:
    (found,) = [line for line in comparison.lines if (line.name, line.norm) == (name, norm)]
    return found


FIRST = {"fgsm/static": {0, 1, 2, 3, 4, 5, 6, 7, 8, 9}, "pgd/static": {0, 1, 10, 11}}
SECOND = {"fgsm/static": {0}, "pgd/static": {0, 1, 12}}


def test_differences_are_paired_and_tested() -> None:
    both = compare_runs([result("a", FIRST), result("b", SECOND, wrong=frozenset({19}))])
    assert both.models == ["a", "b"]
    fgsm = line(both, "fgsm/static")
    assert [s.k for s in fgsm.scores] == [10, 18]
    difference = fgsm.differences[1]
    assert fgsm.differences[0] is None
    assert difference.difference == pytest.approx(8 / 20)
    assert (difference.better, difference.worse, difference.both, difference.neither) == (9, 1, 9, 1)
    assert difference.p == pytest.approx(stats.binomtest(1, 10).pvalue)
    # Four cells: clean, two attacks, the worst case; fgsm has the smallest p-value but one.
    p = sorted(d.p for c in both.lines for d in c.differences if d)
    assert len(p) == 4
    assert difference.p_holm == pytest.approx(
        max((4 - i) * value for i, value in enumerate(p) if value <= difference.p)
    )
    worst = line(both, "WORST CASE")
    assert [s.k for s in worst.scores] == [20 - 12, 20 - 4]
    assert line(both, "clean", "").differences[1].difference == pytest.approx(-1 / 20)


def test_the_union_over_norms_is_taken_image_by_image() -> None:
    runs = [
        result("a", {"pgd/static": {0, 1}}),
        result("a", {"pgd/static": {1, 2}}, norm="l2", eps=1.0),
        result("b", {"pgd/static": {5}}),
        result("b", {"pgd/static": set()}, norm="l2", eps=1.0),
    ]
    union = line(compare_runs(runs), "UNION OVER NORMS", "")
    assert [s.k for s in union.scores] == [N - 3, N - 1]
    assert (union.differences[1].better, union.differences[1].worse) == (3, 1)


def test_reasons_to_distrust_a_model_stand_beside_its_numbers() -> None:
    doubt = [
        Check(code="zero-gradient", fired=True, detail="none"),
        Check(code="probabilities", fired=False, detail=""),
    ]
    masked = result("b", SECOND)
    masked = Result(msgspec.structs.replace(masked.run, checks=doubt), masked.samples, masked.where, masked.model)
    both = compare_runs([result("a", FIRST), masked])
    assert both.checks == ["b, linf: zero-gradient: none"]
    assert "! check b, linf: zero-gradient: none" in reading(both)


def test_an_attack_that_one_model_has_no_view_for_leaves_its_cell_empty() -> None:
    both = compare_runs([result("a", FIRST), result("b", SECOND | {"pgd/eot": {3}})])
    eot = line(both, "pgd/eot")
    assert eot.scores[0] is None
    assert eot.differences == [None, None]


def test_attacks_that_are_all_capped_are_compared_on_their_images() -> None:
    def capped(one: Result) -> Result:
        kept = [s for s in one.samples if int(s.image.split(":")[0]) < 6]
        rows = [row_of([s for s in kept if s.attack == row.id], row.id) for row in one.run.attacks]
        return Result(msgspec.structs.replace(one.run, attacks=rows), kept, one.where, one.model)

    both = compare_runs([capped(result("a", FIRST)), capped(result("b", SECOND, wrong=frozenset({5, 19})))])
    assert both.n == 6
    assert [(s.k, s.n) for s in line(both, "clean", "").scores] == [(6, 6), (5, 6)]


@pytest.mark.parametrize(
    ("other", "field"),
    [
        (result("b", SECOND, eps=0.2), "eps"),
        (result("b", SECOND, suite="other"), "suite"),
        (result("b", SECOND, seed=1), "seed"),
        (result("b", SECOND, norm="l2"), "norm"),
    ],
)
def test_what_is_not_comparable_is_refused_with_the_field(other: Result, field: str) -> None:
    with pytest.raises(IncomparableError, match=f"{field} differs") as refused:
        compare_runs([result("a", FIRST), other])
    assert refused.value.exit_code == 3


def test_worst_cases_are_compared_over_the_same_attacks() -> None:
    """A model that met one attack more would seem weaker; a view that a model lacks was asked for all the same."""
    fgsm, pgd = ({"attack": name, "view": "static", "label": "", "limit": None} for name in ("fgsm", "pgd"))
    first = result("a", {"fgsm/static": {0}}, suite="", rows=[fgsm])
    with pytest.raises(IncomparableError, match=r"the attacks asked for differs: .*fgsm.* in run-a-linf, .*fgsm.*pgd"):
        compare_runs([first, result("b", SECOND, suite="", rows=[fgsm, pgd])])
    with pytest.raises(IncomparableError, match="fgsm=5"):
        compare_runs([first, result("b", SECOND, suite="", rows=[fgsm | {"limit": 5}])])
    through_noise = result("b", {"fgsm/eot": {0, 1}}, suite="", rows=[fgsm | {"view": "eot"}])
    worst = line(compare_runs([first, through_noise]), "WORST CASE")
    assert [s.k for s in worst.scores] == [N - 1, N - 2]


def changed(one: Result, **fields: Any) -> Result:
    return Result(msgspec.structs.replace(one.run, **fields), one.samples, one.where, one.model)


def test_other_images_other_parameters_and_unfinished_runs_are_refused() -> None:
    first, second = result("a", FIRST), result("b", SECOND)
    with pytest.raises(IncomparableError, match="data_digest"):
        compare_runs([first, changed(second, data_digest="others")])
    with pytest.raises(IncomparableError, match="partial"):
        compare_runs([first, changed(second, status="partial")])
    row, *rest = second.run.attacks
    weaker = [msgspec.structs.replace(row, params={"steps": 1}), *rest]
    with pytest.raises(IncomparableError, match="parameters of fgsm/static"):
        compare_runs([first, changed(second, attacks=weaker)])
    with pytest.raises(IncomparableError, match="same model and norm"):
        compare_runs([first, first])


def test_every_spelling_holds_every_number() -> None:
    both = compare_runs([result("a_b", FIRST), result("c&d", SECOND)])
    console = Console(width=120, file=io.StringIO(), record=True)
    console.print(compare_table(both))
    for text in (console.export_text(), rendered(both, "md"), rendered(both, "csv"), rendered(both, "latex")):
        for number in ("50.0", "95.0", "+45.0"):
            assert number in text
    rows = list(csv.reader(io.StringIO(rendered(both, "csv"))))
    assert {len(row) for row in rows} == {4}
    latex = rendered(both, "latex")
    assert r"a\_b" in latex
    assert r"c\&d" in latex
    assert latex.count(r"\toprule") == latex.count(r"\bottomrule") == 1
    assert msgspec.json.decode(rendered(both, "json"), type=Comparison) == both


def test_many_models_fit_into_80_columns_with_every_name_whole() -> None:
    names = ["cnn", "a-model-with-a-long-name", "rcnn+", "madry", "another-long-name-of-a-model", "rcnn"]
    many = compare_runs([result(name, FIRST) for name in names])
    console = Console(width=80, file=io.StringIO(), record=True)
    console.print(compare_table(many))
    lines = console.export_text().splitlines()
    assert max(map(len, lines)) <= 80
    heads = [line for i, line in enumerate(lines[:-1]) if set(lines[i + 1].strip()) == {"─"} and line.strip()]
    titles = " ".join(heads)
    assert all(name in titles for name in names)
    assert all(f"{name} minus cnn" in titles for name in names[1:])
