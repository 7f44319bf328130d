"""The gate: what it tells apart, what it refuses to judge, and its files for other programs."""

from __future__ import annotations

import itertools
import json
import math
import random
import shlex
import subprocess
import sys
import time
import xml.etree.ElementTree as ET

import msgspec
import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from scipy.stats import binom, binomtest

from rbfbench.cli import cli
from rbfbench.cli.again import command_of
from rbfbench.errors import IncomparableError, IncompleteError, LoadError, UsageError
from rbfbench.evaluation import engine
from rbfbench.reporting.gate_table import gate_table, github_lines, junit, lines, summary
from rbfbench.results.gate import ASKED, WORST, Baseline, BaselineCell, judge, read_baseline, visible
from rbfbench.results.paired import mcnemar
from rbfbench.results.records import encode
from rbfbench.results.store import read_run

ASKED_VALUES = {"norm": "linf", "eps": 0.1, "suite": "quick", "seed": 0, "worst_case": False, "include_transfer": False}


def made(decisions: int = 1, asked: dict | None = None, **cells: list[int]) -> Baseline:
    """A baseline from right decisions, image by image; `worst` stands for the worst case."""
    named = {WORST if name == "worst" else name: counts for name, counts in cells.items()}
    digits = "0123456789abcdefghijklmnopqrstuvwxyz"
    n = max(map(len, named.values()))
    return Baseline(
        model="m",
        model_digest="x",
        data_digest="d",
        images="some",
        n=n,
        decisions=decisions,
        asked=ASKED_VALUES | (asked or {}),
        command="rbfbench attack",
        cells={
            name: BaselineCell(
                accuracy=sum(counts) / decisions / len(counts), params={}, right=["".join(digits[c] for c in counts)]
            )
            for name, counts in named.items()
        },
    )


def judged(before: Baseline | None, after: Baseline, **changed: object):
    settings = {"max_drop": 0.01, "alpha": 0.05, "floors": {}} | changed
    return judge(before, after, images=[f"image-{i}" for i in range(after.n)], **settings)


# the decision ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("fell", "rose", "n", "failed"),
    [
        (0, 0, 500, False),
        (4, 0, 500, False),  # 2^-4 is above 0.05
        (5, 0, 500, False),  # significant, but exactly the point that is allowed
        (6, 0, 500, True),
        (6, 0, 1000, False),  # significant, but 0.6 points
        (30, 18, 500, False),  # 2.4 points, and p 0.056
        (31, 18, 500, True),  # p 0.043
    ],
)
def test_it_fails_when_the_fall_is_too_large_and_no_chance(fell, rose, n, failed):
    before = [1] * fell + [0] * rose + [1] * (n - fell - rose)
    after = [0] * fell + [1] * rose + [1] * (n - fell - rose)
    gate = judged(made(worst=before), made(worst=after))
    (cell,) = gate.cells
    assert (cell.fell, cell.rose, cell.broken) == (fell, rose, list(range(fell)))
    if fell + rose:
        assert cell.p == pytest.approx(binomtest(fell, fell + rose, alternative="greater").pvalue)
    assert gate.passed is not failed
    assert cell.failed is failed


def test_holm_counts_all_cells():
    """Five images fell: p 0.031 alone, and twice that beside another cell."""
    before, after = [1] * 400, [0] * 5 + [1] * 395
    alone = judged(made(worst=before), made(worst=after))
    beside = judged(made(worst=before, clean=[1] * 400), made(worst=after, clean=[1] * 400))
    assert not alone.passed
    assert beside.passed
    assert next(c for c in beside.cells if c.name == WORST).p_holm == pytest.approx(2 * 2**-5)


def test_a_random_model_is_paired_on_its_mean_correctness():
    """By enumeration of all signs, for decisions of another number on each side."""
    before, after = [3, 2, 3, 3, 1, 0], [1, 1, 2, 1, 1, 0]
    gate = judged(made(3, worst=before), made(2, worst=after))
    steps = [a / 2 - b / 3 for a, b in zip(after, before, strict=True)]
    total = sum(steps)
    signs = list(itertools.product((-1, 1), repeat=6))
    lower = sum(sum(s * abs(d) for s, d in zip(sign, steps, strict=True)) <= total + 1e-9 for sign in signs)
    assert gate.cells[0].p == pytest.approx(lower / len(signs))


@pytest.mark.parametrize("chances", [(0.02, 0.98), (0.2, 0.5, 0.8), (0.5,)], ids=["calm", "mixed", "churning"])
def test_an_unchanged_model_fails_as_seldom_as_alpha_says(chances):
    """1,000 pairs of runs of one random model under four cells: at most alpha, up to four standard deviations."""
    rng, alpha, runs = random.Random(0), 0.05, 1000
    chance = [rng.choice(chances) for _ in range(60)]

    def run() -> Baseline:
        return made(**{name: [int(rng.random() < c) for c in chance] for name in ("a", "b", "c", "worst")})

    failures = sum(not judged(run(), run(), max_drop=0.0, alpha=alpha).passed for _ in range(runs))
    assert failures <= runs * alpha + 4 * math.sqrt(runs * alpha * (1 - alpha))


def test_one_cell_under_the_strongest_churn_fails_as_often_as_its_exact_test():
    """Without Holm and the allowed drop the size of the exact test is known: not merely at most alpha."""
    rng, alpha, runs, n = random.Random(1), 0.05, 1000, 60

    def run() -> Baseline:
        return made(worst=[int(rng.random() < 0.5) for _ in range(n)])

    failures = sum(not judged(run(), run(), max_drop=0.0, alpha=alpha).passed for _ in range(runs))
    # Of n images half change, by a binomial; among c changes those that fell are a binomial again.
    size = 0.0
    for c in range(n + 1):
        fails = sum(
            binom.pmf(fell, c, 0.5) for fell in range(c + 1) if fell > c - fell and mcnemar(fell, c - fell) < alpha
        )
        size += binom.pmf(c, n, 0.5) * fails
    assert abs(failures - runs * size) <= 4 * math.sqrt(runs * size * (1 - size))


@pytest.mark.parametrize(("n", "rose"), [(100, 0), (200, 3), (500, 12)])
def test_a_fall_of_the_size_that_is_printed_is_seen_and_one_image_less_is_not(n, rose):
    before = made(worst=[0] * rose + [1] * (n - rose))
    fall = round(visible(n, rose, 0.05) * n)

    def after(lost: int) -> Baseline:
        return made(worst=[1] * rose + [0] * (lost + rose) + [1] * (n - 2 * rose - lost))

    gate = judged(before, after(fall), max_drop=0.0)
    assert not gate.passed
    assert gate.cells[0].visible == pytest.approx(fall / n)
    assert gate.cells[0].before - gate.cells[0].after == pytest.approx(fall / n)
    assert judged(before, after(fall - 1), max_drop=0.0).passed


def test_the_power_at_a_simulated_regression_is_that_of_the_exact_test():
    """Each right image is lost with chance 0.03, none rises: 1,000 regressions, against the binomial's own tail."""
    rng, n, lost, alpha, runs = random.Random(2), 300, 0.03, 0.05, 1000
    before = made(worst=[1] * n)
    least = round(visible(n, 0, alpha) * n)
    expected = binom.sf(least - 1, n, lost)
    seen = sum(
        not judged(before, made(worst=[int(rng.random() >= lost) for _ in range(n)]), max_drop=0.0).passed
        for _ in range(runs)
    )
    assert 0.5 < expected < 1
    assert abs(seen - runs * expected) <= 4 * math.sqrt(runs * expected * (1 - expected))


@given(st.integers(0, 40), st.integers(0, 40))
def test_mcnemar_is_the_binomial_test(fell, rose):
    if fell + rose:
        assert mcnemar(fell, rose) == pytest.approx(binomtest(fell, fell + rose, alternative="greater").pvalue)


@given(st.integers(2, 400), st.integers(0, 20), st.sampled_from([0.05, 0.01, 0.3]))
def test_the_smallest_visible_fall_is_where_the_test_turns(n, rose, alpha):
    rose = min(rose, n // 2)
    seen = [fell for fell in range(rose, n - rose + 1) if mcnemar(fell, rose) < alpha]
    assert visible(n, rose, alpha) == pytest.approx((seen[0] - rose) / n if seen else 1.0)


def test_no_fall_is_called_the_smallest_visible_one_where_images_fall_by_parts():
    """Six images of 200 lose one decision of ten: the test sees 0.3 points, where McNemar's needs whole images."""
    gate = judged(made(10, worst=[10] * 200), made(10, worst=[9] * 6 + [10] * 194), max_drop=0.0)
    assert not gate.passed  # by 0.3 points
    assert gate.cells[0].visible is None
    assert "visible: empty, since an image of several decisions can fall by a part." in list(lines(gate))
    assert "|  |" in summary(gate)


def test_a_fall_that_chance_explains_is_not_called_ok():
    gate = judged(made(worst=[1] * 100), made(worst=[0] * 4 + [1] * 96))
    (cell,) = gate.cells
    assert (cell.failed, cell.unclear, gate.passed) == (False, True, True)
    assert any(line.startswith("unclear: it fell by more than is allowed") for line in lines(gate))
    assert "| unclear |" in summary(gate)
    fine = judged(made(worst=[1] * 100), made(worst=[0] + [1] * 99))
    assert not fine.cells[0].unclear


def test_a_run_that_proves_nothing_does_not_pass_unless_its_baseline_was_no_better():
    doubt = {
        "checks": {"zero-gradient": "nothing flows", "moved-nothing": "none moved"},
        "proofless": {"zero-gradient": 1.0},
    }
    before = made(worst=[1] * 40)
    masked = msgspec.structs.replace(before, **doubt)
    gate = judged(before, masked)
    assert (gate.answer, gate.passed, gate.proofless) == ("UNPROVEN", False, ["zero-gradient"])
    assert "! check zero-gradient: nothing flows" in list(lines(gate))
    assert "UNPROVEN" in summary(gate)
    assert [line.split(" ")[0] for line in github_lines(gate)] == ["::error", "::warning"]
    (suite,) = ET.fromstring(junit(gate))  # noqa: S314  (our own text)
    assert (suite.get("tests"), suite.get("failures"), suite.get("errors")) == ("3", "0", "1")
    assert judged(None, masked, floors={"": 0.5}).answer == "UNPROVEN"
    assert judged(masked, masked).passed
    assert judged(masked, before).passed
    few = msgspec.structs.replace(before, **doubt | {"proofless": {"zero-gradient": 0.05}})
    assert judged(few, masked).answer == "UNPROVEN"  # it was so on 5% of the images, and is on all
    assert judged(masked, few).passed
    barely = msgspec.structs.replace(before, **doubt | {"proofless": {"zero-gradient": 0.01}})
    assert judged(before, barely).passed
    fallen = msgspec.structs.replace(made(worst=[0] * 40), **doubt)
    assert judged(before, fallen).answer == "FAILED"


def test_an_attack_that_is_added_is_no_fall():
    before, after = made(fgsm=[1] * 40, worst=[1] * 40), made(fgsm=[1] * 40, apgd=[0] * 40, worst=[0] * 40)
    gate = judged(before, after)
    assert gate.passed
    assert [cell.name for cell in gate.cells] == ["fgsm"]
    assert gate.unjudged == ["apgd", WORST]
    assert "not in the baseline, so not judged: apgd; nor WORST CASE" in "\n".join(lines(gate))
    assert not judged(before, made(fgsm=[0] * 40, apgd=[0] * 40, worst=[0] * 40)).passed
    assert not judged(before, after, floors={"linf": 0.5}).passed  # a floor is for whatever attacks there are


def test_a_floor_that_is_met_exactly_holds():
    """17 of 100 right decisions of ten images sum to 0.16999999999999998 in floating point."""
    counts = [10, 7, 0, 0, 0, 0, 0, 0, 0, 0]
    run = made(10, worst=counts)
    met = msgspec.structs.replace(run.cells[WORST], accuracy=0.16999999999999998)
    assert judged(None, msgspec.structs.replace(run, cells={WORST: met}), floors={"": 0.17}).passed
    assert not judged(None, run, floors={"": 0.171}).passed


def test_floors_are_for_the_worst_case_of_the_norm():
    run = made(worst=[1] * 4 + [0] * 6)
    assert judged(None, run, floors={"linf": 0.4}).passed
    assert not judged(None, run, floors={"": 0.41}).passed
    with pytest.raises(IncomparableError, match="it is about linf, not l2"):
        judged(None, run, floors={"l2": 0.1})


# what cannot be judged ------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("field", ASKED)
def test_another_question_is_refused_by_its_field(field):
    other = made(worst=[1, 1], asked={field: "other"})
    with pytest.raises(IncomparableError, match=f"{field} differs") as caught:
        judged(made(worst=[1, 1]), other)
    assert caught.value.exit_code == 3


def test_other_images_attacks_and_parameters_are_refused():
    base = made(worst=[1, 1], pgd=[1, 1])
    with pytest.raises(IncomparableError, match="the attacks differs: pgd"):
        judged(base, made(worst=[1, 1]))
    with pytest.raises(IncomparableError, match="data_digest"):
        judged(base, msgspec.structs.replace(base, data_digest="e"))
    with pytest.raises(IncomparableError, match="n differs: 2"):
        judged(base, made(worst=[1, 1, 1], pgd=[1, 1, 1]))
    steps = msgspec.structs.replace(base.cells["pgd"], params={"steps": 3})
    with pytest.raises(IncomparableError, match="the parameter steps of pgd differs"):
        judged(base, msgspec.structs.replace(base, cells=base.cells | {"pgd": steps}))
    more = judged(made(worst=[1, 1]), base)
    assert more.unjudged == [WORST, "pgd"]


def test_a_file_that_was_edited_is_not_believed(tmp_path):
    path = tmp_path / "b.json"
    document = json.loads(encode(made(worst=[1, 0, 1])))
    path.write_text(json.dumps(document))
    assert read_baseline(path).cells[WORST].accuracy == pytest.approx(2 / 3)
    for change in ({"accuracy": 0.5}, {"right": ["120"]}, {"right": ["110"], "accuracy": 0.5}):
        path.write_text(json.dumps(document | {"cells": {WORST: document["cells"][WORST] | change}}))
        with pytest.raises(LoadError, match="do not agree"):
            read_baseline(path)
    empty = {"cells": {WORST: document["cells"][WORST] | {"right": []}}}
    for change in ({"cells": {}}, empty, {"n": 4}, {"decisions": 0}, {"decisions": 36}):
        path.write_text(json.dumps(document | change))
        with pytest.raises(LoadError, match="it lacks the worst case of its images"):
            read_baseline(path)
    path.write_text("{")
    with pytest.raises(LoadError, match="it is no baseline"):
        read_baseline(path)
    with pytest.raises(LoadError, match="there is no such file"):
        read_baseline(tmp_path / "none.json")


# the command ----------------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Runs of two models and an unfinished one, and a baseline of the first."""
    folder = tmp_path_factory.mktemp("runs")
    for model, name in (("cnn-ls", "strong"), ("cnn", "weak")):
        asked = [
            "attack",
            "--model",
            model,
            "--dataset",
            "digits",
            "--eps",
            "0.1",
            "--attack",
            "fgsm",
            "--limit",
            "150",
        ]
        done = CliRunner().invoke(cli, [*asked, "--device", "cpu", "--out", str(folder / name)])
        assert done.exit_code == 0, done.output
    saved = CliRunner().invoke(cli, ["baseline", "save", str(folder / "strong"), str(folder / "strong.json")])
    assert saved.exit_code == 0, saved.output
    return folder


@pytest.fixture
def here(runs, monkeypatch):
    monkeypatch.chdir(runs)

    def run(*arguments: str) -> Result:
        return CliRunner().invoke(cli, list(arguments))

    return run


def test_a_weaker_model_fails_with_its_reasons_on_one_screen(here, runs, tmp_path, monkeypatch):
    summary = tmp_path / "summary.md"
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    done = here("check", "weak", "--baseline", "strong.json", "--junit", str(tmp_path / "j.xml"), "--github")
    assert done.exit_code == 1, (done.output, done.exception)
    assert "FAILED: cnn, 150 images" in done.stdout
    assert "newly broken: " in done.stdout
    assert "again: rbfbench attack --model cnn --dataset digits" in done.stdout
    assert len(done.stdout.splitlines()) < 30
    errors = [line for line in done.stdout.splitlines() if line.startswith("::error")]
    root = ET.parse(tmp_path / "j.xml").getroot()  # noqa: S314  (our own file)
    (suite,) = root
    cases = {case.get("name"): case.find("failure") for case in suite}
    assert set(cases) == {"clean", "fgsm/static", WORST}
    assert int(suite.get("tests")) == 3
    assert int(suite.get("failures")) == sum(f is not None for f in cases.values()) == len(errors) == 2
    assert cases[WORST].get("message").startswith("WORST CASE fell from")
    assert "| WORST CASE |" in summary.read_text()
    same = here("check", "strong", "--baseline", "strong.json")
    assert same.exit_code == 0
    assert "PASSED: cnn-ls" in same.stdout
    by_folder = here("check", "weak", "--baseline", "strong", "--json", "-")
    assert by_folder.exit_code == 1
    assert [cell["failed"] for cell in json.loads(by_folder.stdout)["cells"]] == [False, True, True]


def test_annotations_escape_what_github_unescapes_and_no_more():
    gate = judged(made(**{"a,b:c/d": [1] * 40, "worst": [1] * 40}), made(**{"a,b:c/d": [0] * 40, "worst": [1] * 40}))
    (line,) = [line for line in github_lines(gate) if line.startswith("::error")]
    head, _, message = line.removeprefix("::error title=").partition("::")
    assert head == "rbfbench a%2Cb%3Ac/d"
    assert message.startswith("a,b:c/d fell from 100.0%25 to 0.0%25 (40 images fell, 0 rose, p ")
    assert "%3A" not in message


@pytest.mark.parametrize("width", [40, 60, 80])
def test_names_and_verdicts_are_whole_on_narrow_screens(width):
    names = ("art:ProjectedGradientDescentPyTorch/static", "art:ProjectedGradientDescentNumpy/static", "fgsm/static")
    before, after = (made(**{name: [right] * 40 for name in (*names, "worst")}) for right in (1, 0))
    gate = judged(before, after)
    console = Console(width=width, highlight=False, color_system=None)
    with console.capture() as captured:
        console.print(gate_table(gate), crop=False)
    shown = captured.get()
    assert "…" not in shown
    assert shown.count("FAILED") == 5  # the heading's too
    assert "verdict" in shown
    assert max(map(len, shown.splitlines())) <= max(width, len(f"again: {gate.command}"))


def test_the_command_to_paste_is_whole_on_a_narrow_screen(here, runs, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    done = here("check", "strong", "--baseline", "strong.json")
    command = command_of(read_run(runs / "strong").spec)
    assert len(command) > 80
    assert f"again: {command}" in done.stdout.splitlines()


@pytest.mark.parametrize("option", ["--max-drop", "--alpha", "--timeout"])
@pytest.mark.parametrize("number", ["nan", "inf"])
def test_numbers_that_are_none_are_refused_before_any_attack(here, option, number):
    done = here("check", "--model", "cnn", "--dataset", "digits", "--baseline", "strong.json", option, number)
    assert done.exit_code == 2, (done.output, done.exception)
    assert f"Invalid value for '{option}': {number} is n" in done.output


@pytest.mark.parametrize("wrong", [{"max_drop": math.nan}, {"alpha": math.nan}, {"alpha": 0.0}, {"max_drop": 1.5}])
def test_no_gate_judges_by_numbers_that_are_none(wrong):
    b = made(clean=[1, 1], worst=[1, 0])
    (name,) = wrong
    with pytest.raises(UsageError, match=f"the gate has no {name} to judge by"):
        judge(b, b, images=["0", "1"], floors={}, **({"max_drop": 0.01, "alpha": 0.05} | wrong))


def test_it_can_make_the_run_itself(here):
    asked = ("--dataset", "digits", "--eps", "0.1", "--attack", "fgsm", "--limit", "150", "--device", "cpu")
    assert here("check", "--model", "cnn-ls", *asked, "--baseline", "strong.json").exit_code == 0
    assert here("check", "--model", "cnn", *asked, "--baseline", "strong.json").exit_code == 1
    other = here("check", "--model", "cnn", *asked[:3], "0.2", *asked[4:], "--baseline", "strong.json")
    assert isinstance(other.exception, IncomparableError)
    assert "eps differs: 0.1 in the baseline, 0.2 in the run" in str(other.exception)


MASKED = """
import torch, rbfbench

def build():
    model = rbfbench.load_model("cnn", "digits")
    return lambda x: (1e4 * model(x)).softmax(1).log().clamp(min=-50)
"""


def test_a_model_that_hides_its_gradient_does_not_pass(here, runs, tmp_path):
    (runs / "masked.py").write_text(MASKED)
    asked = ("--model", "masked.py:build", "--dataset", "digits", "--eps", "0.1", "--attack", "fgsm", "--limit", "150")
    junit_path = tmp_path / "gate.xml"
    done = here("check", *asked, "--baseline", "strong.json", "--device", "cpu", "--junit", str(junit_path))
    assert done.exit_code == 3, done.output
    assert "UNPROVEN: masked.py:build, 150 images" in done.stdout
    assert "! check zero-gradient" in done.stdout
    assert "zero-gradient" in junit_path.read_text()
    floor = here("check", *asked, "--min-accuracy", "0.5", "--device", "cpu", "--json", "-")
    assert floor.exit_code == 3
    assert json.loads(floor.stdout)["proofless"] == ["zero-gradient"]
    assert here("attack", *asked, "--device", "cpu", "--out", "masked").exit_code == 0
    assert here("baseline", "save", "masked", str(tmp_path / "masked.json")).exit_code == 0
    assert here("check", "masked", "--baseline", str(tmp_path / "masked.json")).exit_code == 0


@pytest.mark.parametrize(
    ("more", "code"),
    [
        (
            ("--attack", "pgd", "--cap", "pgd=1"),
            3,
        ),  # a gradient on the images that a capped row took is none on the others
        (("--attack", "transfer", "--surrogate", "cnn-ls", "--include-transfer"), 3),  # the surrogate's gradient
        (("--attack", "square", "--set", "square.queries=1000"), 0),  # needs none
        (("--attack", "square", "--set", "square.queries=999"), 3),  # too few to say anything
        (("--attack", "square", "--set", "square.queries=1000", "--cap", "square=5"), 3),
    ],
)
def test_only_attacks_on_all_images_and_on_the_model_prove_something(here, runs, more, code):
    (runs / "masked.py").write_text(MASKED)
    asked = ("--model", "masked.py:build", "--dataset", "digits", "--eps", "0.05", "--limit", "40", "--device", "cpu")
    done = here("check", *asked, "--attack", "fgsm", *more, "--min-accuracy", "0.1")
    assert done.exit_code == code, done.output
    assert "! check zero-gradient" in done.stdout


NOISY = """
import torch, rbfbench

def build():
    model = rbfbench.load_model("cnn", "digits")
    return lambda x: (1e4 * model(x)).softmax(1).log().clamp(min=-50) + 1e-3 * torch.randn(len(x), 10)
"""


@pytest.mark.parametrize(("queries", "code"), [(999, 3), (1000, 0)])
def test_a_look_of_a_random_model_counts_once_however_many_passes_it_takes(here, runs, queries, code):
    (runs / "noisy.py").write_text(NOISY)
    asked = ("--model", "noisy.py:build", "--m", "2", "--dataset", "digits", "--eps", "0.05", "--limit", "10")
    search = ("--attack", "fgsm", "--attack", "square", "--set", f"square.queries={queries}", "--device", "cpu")
    done = here("check", *asked, *search, "--min-accuracy", "0.1")
    assert done.exit_code == code, done.output
    assert "! check zero-gradient" in done.stdout


def test_another_question_is_refused_before_anything_is_attacked(here, monkeypatch):
    def attacked(*given: object, **options: object) -> None:
        raise AssertionError("attacked")

    monkeypatch.setattr(engine, "evaluate", attacked)
    asked = (
        "--model",
        "cnn",
        "--dataset",
        "digits",
        "--attack",
        "fgsm",
        "--device",
        "cpu",
        "--baseline",
        "strong.json",
    )
    for changed, words in (
        (("--eps", "0.2", "--limit", "150"), "eps differs: 0.1 in the baseline, 0.2 in the run"),
        (("--eps", "0.1", "--limit", "150", "--seed", "1"), "seed differs"),
        (("--eps", "0.1", "--limit", "50"), "the images (data_digest) differs: 150 of digest"),
        (("--eps", "0.1", "--limit", "150", "--gradient", "eot"), "the attacks differs: fgsm/static"),
        (
            ("--eps", "0.1", "--limit", "150", "--set", "fgsm.loss=margin"),
            "the parameter loss of fgsm/static differs: ce in the baseline, margin in the run",
        ),
        (("--eps", "0.1", "--limit", "150", "--cap", "fgsm=20"), "the number of images of fgsm/static differs: 150 in"),
    ):
        done = here("check", *asked, *changed)
        assert isinstance(done.exception, IncomparableError), done.output
        assert words in str(done.exception)


def test_the_command_that_is_printed_makes_the_same_run(here, runs):
    words = shlex.split(read_baseline(runs / "strong.json").command)
    assert words[0] == "rbfbench"
    again = here(*words[1:], "--device", "cpu", "--json", "-")
    assert again.exit_code == 0, again.output
    kept = json.loads((runs / "strong" / "run.json").read_text())
    assert json.loads(again.stdout)["spec_digest"] == kept["spec_digest"]


@pytest.mark.parametrize(
    "arguments",
    [
        ("--model", "cnn", "--attack", "pgd", "--set", "pgd.steps=3", "--set", "pgd.loss=margin"),
        (
            "--model",
            "rcnn",
            "--attack",
            "pgd",
            "--gradient",
            "eot",
            "--eot-samples",
            "3",
            "--beta2",
            "1.5",
            "--m",
            "2",
        ),
        ("--model", "cnn", "--suite", "quick", "--set", "pgd-margin.steps=2", "--worst-case"),
        (
            "--model",
            "cnn",
            "--defense",
            "art:jpeg:quality=80",
            "--defense",
            "art:spatial-smoothing",
            "--attack",
            "fgsm",
        ),
        ("--model", "rcnn", "--suite", "quick", "--eot-samples", "2", "--objective", "mean-of-losses", "--no-clip"),
        ("--model", "rcnn", "--suite", "quick", "--seed", "3", "--passes", "2"),
        ("--model", "cnn", "--suite", "quick", "--cap", "pgd-margin/static=2"),
        ("--model", "cnn", "--attack", "fgsm", "--cap", "fgsm=2"),
        ("--model", "cnn", "--defense", "art:jpeg", "--attack", "pgd", "--cap", "pgd=2", "--set", "pgd.steps=2"),
        ("--model", "cnn", "--attack", "pgd", "--set", "pgd.random_start=false", "--set", "pgd.steps=2"),
    ],
)
def test_commands_repeat_whatever_was_asked(arguments):
    asked = ["--dataset", "digits", "--eps", "0.1", "--limit", "3", "--device", "cpu", *arguments]
    first = CliRunner().invoke(cli, ["attack", *asked, "--json", "-"])
    assert first.exit_code == 0, first.output
    spec = json.loads(first.stdout)["spec"]
    again = CliRunner().invoke(cli, [*shlex.split(command_of(spec))[1:], "--device", "cpu", "--json", "-"])
    assert again.exit_code == 0, again.output
    assert json.loads(again.stdout)["spec_digest"] == json.loads(first.stdout)["spec_digest"]


def test_attacks_that_are_all_capped_make_a_baseline_of_their_images(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    images = ("--dataset", "digits", "--eps", "0.1", "--limit", "20", "--device", "cpu")
    attacks = ("--attack", "fgsm", "--attack", "pgd", "--attack", "noise", "--set", "pgd.steps=2")
    asked = (*images, *attacks, "--cap", "fgsm=3", "--cap", "pgd=5")

    def here(*arguments: str) -> Result:
        return CliRunner().invoke(cli, list(arguments))

    assert here("attack", "--model", "cnn", *asked, "--out", "run").exit_code == 0
    assert here("baseline", "save", "run", "b.json").exit_code == 0
    saved = read_baseline(tmp_path / "b.json")
    assert saved.n == 5
    sizes = {name: len("".join(cell.right)) for name, cell in saved.cells.items()}
    assert sizes == {"clean": 5, "fgsm/static": 3, "pgd/static": 5, WORST: 5}
    for run in (("run",), ("--model", "cnn", *asked)):
        done = here("check", *run, "--baseline", "b.json", "--json", "-")
        assert done.exit_code == 0, done.exception
        gate = json.loads(done.stdout)
        assert (gate["n"], len(gate["images"])) == (5, 5)
    wider = here("check", "--model", "cnn", *images, *attacks, "--cap", "fgsm=3", "--baseline", "b.json")
    assert "the number of images of pgd/static differs: 5 in the baseline, 20 in the run" in str(wider.exception)


class Stopped(Exception):
    """Before any attack."""


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        # The rows of a suite that look at static look at bpda where a stand-in gives the gradient.
        ("--suite paper-linf --model cnn --defense art:jpeg", ""),
        (
            "--suite paper-linf --model cnn --defense art:jpeg --cap pgd=7 --cap daa-blob=9",
            "--cap pgd/static=7 --cap daa-blob/static=9 --cap daa-blob-margin/static=9 --cap pgd/bpda-eot=7",
        ),
        ("--suite adaptive --model cnn --defense art:jpeg --set pgd.steps=30", ""),
        # The name of a row without label is also the attack of those that have one.
        (
            "--suite paper-linf --model cnn --set daa-blob.steps=100 --set daa-blob-margin.steps=200",
            "--set daa-blob.steps=100 --set daa-blob-margin.steps=200",
        ),
        ("--suite adaptive --model rcnn --set pgd.steps=30 --set pgd-margin.steps=40", ""),
        ("--suite adaptive --model rcnn --set pgd-margin.restarts=2", "--set pgd-margin.restarts=2"),
        ("--suite quick --model rcnn --set pgd.steps=20", ""),
        ("--suite paper-linf --model cnn --set transfer-fgsm.decay=0.5 --set pgd.random_start=false", ""),
    ],
)
def test_commands_name_the_rows_of_a_suite_as_the_suite_does(monkeypatch, arguments, words):
    specs = []

    def evaluate(target, images, spec, **how):
        specs.append(spec)
        raise Stopped

    monkeypatch.setattr(engine, "evaluate", evaluate)
    asked = ["--dataset", "digits", "--eps", "0.1", "--limit", "3", *arguments.split()]
    done = CliRunner().invoke(cli, ["attack", *asked, "--device", "cpu"])
    assert isinstance(done.exception, Stopped), done.output
    command = command_of(specs[0].document())
    assert words in command
    again = CliRunner().invoke(cli, [*shlex.split(command)[1:], "--device", "cpu"])
    assert isinstance(again.exception, Stopped), again.output
    assert specs[1] == specs[0]


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        (("check", "weak"), UsageError, "nothing to judge by"),
        (("check", "weak", "--min-accuracy", "linf"), UsageError, "write linf=0.4"),
        (("check", "weak", "--min-accuracy", "linf=40"), UsageError, "write linf=0.4"),
        (("check", "weak", "--min-accuracy", "l3=0.4"), UsageError, "write linf=0.4"),
        (("check", "weak", "--min-accuracy", "0.4", "--eps", "0.2"), UsageError, "--eps changes nothing"),
        (("check", "weak", "--baseline", "none.json"), LoadError, "there is no such file"),
        (("check", "gone", "--baseline", "strong.json"), LoadError, "there is no run here"),
        (("check", "weak", "--min-accuracy", "l2=0.4"), IncomparableError, "it is about linf, not l2"),
        (("baseline", "save", "weak", "strong.json"), UsageError, "strong.json exists"),
    ],
)
def test_what_cannot_be_judged_is_neither_0_nor_1(here, arguments, error, words):
    done = here(*arguments)
    assert isinstance(done.exception, error), done.output
    assert done.exception.exit_code in (2, 3)
    assert words in str(done.exception)


def test_an_unfinished_run_is_not_judged(here, runs, tmp_path):
    document = json.loads((runs / "weak" / "run.json").read_text())
    copy = tmp_path / "partial"
    copy.mkdir()
    (copy / "cells").mkdir()
    (copy / "run.json").write_text(json.dumps(document | {"status": "partial"}))
    (copy / "samples.jsonl.gz").write_bytes((runs / "weak" / "samples.jsonl.gz").read_bytes())
    done = here("check", str(copy), "--baseline", "strong.json")
    assert isinstance(done.exception, IncompleteError)
    assert done.exception.exit_code == 3


def test_a_baseline_is_shown_and_updated(here, tmp_path):
    path = tmp_path / "b.json"
    assert here("baseline", "save", "weak", str(path)).exit_code == 0
    shown = here("baseline", "show", str(path)).stdout
    assert "cnn, scikit-learn" in shown
    assert "WORST CASE: " in shown
    updated = here("baseline", "update", "strong", str(path))
    assert updated.exit_code == 0
    assert "WORST CASE: " in updated.stdout
    assert " -> " in updated.stdout
    assert here("check", "strong", "--baseline", str(path)).exit_code == 0


def test_ten_thousand_images_under_twenty_attacks_are_judged_at_once_and_without_torch(tmp_path):
    rng = random.Random(0)
    cells = {f"attack-{i}": [int(rng.random() < 0.5) for _ in range(10_000)] for i in range(20)}
    before, after = made(worst=[0] * 10_000, **cells), made(worst=[0] * 10_000, **cells)
    path = tmp_path / "large.json"
    path.write_bytes(encode(before))
    assert path.stat().st_size < 250_000
    began = time.monotonic()
    gate = judge(
        read_baseline(path), after, images=["i"] * 10_000, max_drop=0.01, alpha=0.05, floors={}
    )  # fmt: skip
    assert time.monotonic() - began < 2
    assert gate.passed
    code = "import sys, rbfbench.results.gate, rbfbench.reporting.gate_table; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
