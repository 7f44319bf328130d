"""The plugin in real pytest runs of its own: fixture, baselines, messages, and what it costs others."""

from __future__ import annotations

import re
import subprocess
import sys
import time

import pytest

TEST = """
import rbfbench

def test_robust(robustness):
    x, y = rbfbench.load_data("digits").batch(0, 120)
    run = robustness(rbfbench.load_model("{model}", "digits"), x, y, norm="linf", eps=0.1, min_accuracy={floor})
    assert run.clean.n == 120
"""


@pytest.fixture
def inner(tmp_path):
    """Run a test file in a pytest of its own."""

    def run(model: str, *arguments: str, floor: float = 0.0) -> subprocess.CompletedProcess[str]:
        (tmp_path / "test_model.py").write_text(TEST.format(model=model, floor=floor))
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", *arguments]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)

    return run


def test_the_fixture_judges_by_a_floor_and_by_a_baseline(inner, tmp_path):
    assert inner("cnn-ls").returncode == 0
    below = inner("cnn-ls", floor=0.99)
    assert below.returncode == 1
    assert "at least 99.0% is asked for" in below.stdout
    kept = ("--rbfbench-baselines", "kept")
    saved = inner("cnn-ls", *kept, "--rbfbench-save")
    assert saved.returncode == 0, saved.stdout
    (kept_file,) = (tmp_path / "kept").iterdir()
    assert re.fullmatch(r"test_model\.py-test_robust-[0-9a-f]{8}\.json", kept_file.name)
    assert inner("cnn-ls", *kept).returncode == 0
    weaker = inner("cnn", *kept)
    assert weaker.returncode == 1, weaker.stdout
    assert "WORST CASE: newly broken: " in weaker.stdout
    assert "again: pytest test_model.py::test_robust" in weaker.stdout
    loose = inner("cnn", *kept, "--rbfbench-max-drop", "100")
    assert loose.returncode == 0
    missing = inner("cnn", "--rbfbench-baselines", "none")
    assert missing.returncode == 1
    assert "there is no such file" in missing.stdout


TWO = """
import pytest, rbfbench

@pytest.mark.parametrize("name", ["rcnn", "rcnn+", "rcnn-2"])
def test_two(robustness, name):
    x, y = rbfbench.load_data("digits").batch(0, 5)
    for _ in range(2):
        robustness(rbfbench.load_model("cnn", "digits"), x, y, norm="linf", eps=0.1, attacks={"fgsm": {}})
"""


def test_tests_whose_names_differ_in_what_no_file_is_called_have_baselines_of_their_own(tmp_path):
    (tmp_path / "test_two.py").write_text(TWO)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist"]
    command += ["--rbfbench-baselines", "kept", "--rbfbench-save"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert len(list((tmp_path / "kept").iterdir())) == 6


STEPS = """
import rbfbench

def test_steps(robustness, monkeypatch):
    def attacked(*given, **options):
        raise AssertionError("attacked")

    if {steps} != 2:
        monkeypatch.setattr("rbfbench.evaluation.api.evaluate", attacked)
    x, y = rbfbench.load_data("digits").batch(0, 20)
    model = rbfbench.load_model("cnn", "digits")
    robustness(model, x, y, norm="linf", eps=0.1, attacks={{"pgd": {{"steps": {steps}}}}})
"""


def test_other_parameters_are_refused_before_anything_is_attacked(tmp_path):
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist"]
    done = []
    for steps, more in ((2, ["--rbfbench-save"]), (3, [])):
        (tmp_path / "test_model.py").write_text(STEPS.format(steps=steps))
        words = [*command, "--rbfbench-baselines", "kept", *more]
        done.append(subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False))
    assert [each.returncode for each in done] == [0, 1], done[0].stdout
    assert "the parameter steps of pgd/static differs: 2 in the baseline, 3 in the run" in done[1].stdout


MASKED = """
def test_masked(robustness):
    import rbfbench
    x, y = rbfbench.load_data("digits").batch(0, 40)
    model = rbfbench.load_model("cnn", "digits")
    robustness(lambda x: (1e4 * model(x)).softmax(1).log().clamp(min=-50), x, y, norm="linf", eps=0.1)

def test_no_such_floor(robustness):
    robustness(None, None, None, norm="linf", eps=0.1, min_accuracy=40)
"""


def test_a_model_that_hides_its_gradient_fails_and_so_does_a_floor_that_is_none(tmp_path):
    (tmp_path / "test_masked.py").write_text(MASKED)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "2 failed" in done.stdout
    assert "UNPROVEN: zero-gradient" in done.stdout
    assert "! check moved-nothing: " in done.stdout
    assert "min_accuracy 40 cannot be met: it is not from 0 to 1" in done.stdout
    kept = [*command, "-k", "not floor", "--rbfbench-baselines", "kept"]
    saved, again = (
        subprocess.run([*kept, *more], cwd=tmp_path, capture_output=True, text=True, check=False)
        for more in (["--rbfbench-save"], [])
    )
    assert (saved.returncode, again.returncode) == (0, 0), saved.stdout + again.stdout
    assert "RobustnessWarning: zero-gradient: " in again.stdout


def test_other_test_runs_pay_next_to_nothing():
    """Importing the page, pytest being there: no torch, and under 10 ms by the best of five."""
    code = (
        "import sys, time, pytest; began = time.perf_counter(); import rbfbench.pytest_plugin; "
        "print(time.perf_counter() - began); assert not {'torch', 'numpy', 'msgspec'} & set(sys.modules)"
    )
    times = []
    for _ in range(5):
        began = time.monotonic()
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        times.append(float(done.stdout))
        assert time.monotonic() - began < 60
    assert min(times) < 0.010
