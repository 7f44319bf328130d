"""`rbfbench compare` end to end on the digits: folders, models, matrices, files, and what is refused."""

from __future__ import annotations

import json

import click
import pytest
from click.testing import Result

from rbfbench.attacks import AttackInfo
from rbfbench.cli import cli
from rbfbench.errors import IncomparableError, LoadError, ModelError, UsageError
from rbfbench.evaluation.engine import _Job

DIGITS = ("--dataset", "digits", "--device", "cpu", "--limit", "12", "--attack", "fgsm", "--attack", "noise")


@pytest.fixture
def folders(here):
    """Runs of two models, and one of them at another radius."""
    for name, model, eps in (("a", "cnn", "0.1"), ("b", "cnn-ls", "0.1"), ("far", "cnn-ls", "0.2")):
        done = here("attack", *DIGITS, "--model", model, "--eps", eps, "--out", name)
        assert done.exit_code == 0, done.output


def compared(done: Result) -> dict:
    assert done.exit_code == 0, (done.output, done.exception)
    return json.loads(done.stdout)


def test_folders_and_models_give_the_same_comparison(here, folders, tmp_path):
    stored = compared(here("compare", "a", "b", "--format", "json"))
    made = compared(here("compare", "--model", "cnn", "--model", "cnn-ls", *DIGITS, "--eps", "0.1", "--format", "json"))
    assert made == stored
    assert stored["models"] == ["cnn", "cnn-ls"]
    lines = {line["name"]: line for line in stored["lines"]}
    run = json.loads((tmp_path / "a" / "run.json").read_text())
    assert lines["clean"]["scores"][0]["k"] == run["clean"]["k"]
    assert lines["WORST CASE"]["scores"][0]["k"] == run["worst_case"]["k"]
    assert "noise" in lines  # shown, though it never enters the worst case
    table = here("compare", "a", "b")
    assert "cnn-ls minus cnn" in table.output
    done = here("compare", "a", "b", "--format", "csv", "--out", "table.csv")
    assert done.exit_code == 0
    assert done.stdout == ""
    assert (tmp_path / "table.csv").read_text().startswith(",cnn,cnn-ls,cnn-ls minus cnn")


def test_two_runs_of_one_model_are_told_apart_by_their_folders(here):
    for name, seed in (("one", "0.5"), ("two", "1.5")):
        arguments = ("--model", "rcnn", "--beta2", seed, "--eps", "0.1", "--out", name)
        assert here("attack", *DIGITS, *arguments).exit_code == 0
    assert compared(here("compare", "one", "two", "--format", "json"))["models"] == ["one", "two"]


def test_the_matrix_has_every_model_as_source_and_target(here):
    asked = ("--dataset", "digits", "--device", "cpu", "--limit", "8", "--eps", "0.15", "--attack", "fgsm")
    done = here("compare", "--model", "cnn", "--model", "cnn-ls", *asked, "--transfer-matrix", "--format", "json")
    matrix = compared(done)["transfer"]
    assert {source: set(row) for source, row in matrix.items()} == {
        "cnn": {"cnn", "cnn-ls"},
        "cnn-ls": {"cnn", "cnn-ls"},
    }
    direct = here(
        "attack", *asked[:-2], "--attack", "transfer", "--model", "cnn-ls", "--surrogate", "cnn", "--json", "-"
    )
    assert matrix["cnn"]["cnn-ls"]["k"] == json.loads(direct.stdout)["attacks"][0]["k"]


MATRIX = ("compare", "--dataset", "digits", "--device", "cpu", "--limit", "6", "--eps", "0.1", "--attack", "noise")


def test_ctrl_c_while_the_matrix_is_made_is_an_interrupt(here, monkeypatch):
    resolve = AttackInfo.resolve

    def interrupted(self):
        if self.surrogate:
            raise KeyboardInterrupt
        return resolve(self)

    monkeypatch.setattr(AttackInfo, "resolve", interrupted)
    with pytest.raises(click.Abort):  # which ends with 130
        cli.main([*MATRIX, "--model", "cnn", "--model", "cnn-ls", "--transfer-matrix"], standalone_mode=False)


def test_an_attack_that_crashes_while_the_matrix_is_made_is_no_accuracy(here, monkeypatch):
    resolve = AttackInfo.resolve

    def crashes(*words, **more):
        raise RuntimeError("no such layer")

    monkeypatch.setattr(AttackInfo, "resolve", lambda self: crashes if self.surrogate else resolve(self))
    done = here(*MATRIX, "--model", "cnn", "--model", "cnn-ls", "--transfer-matrix")
    assert isinstance(done.exception, IncomparableError), done.output
    assert "crashed on 6 of 6 images" in str(done.exception)


def test_a_model_that_stops_answering_while_the_matrix_is_made_is_an_error(here, monkeypatch):
    control, calls = _Job.null_control, []

    def failing(self, copies):
        calls.append(self.target.name)
        if len(calls) > 2:  # both models have been compared
            raise ModelError("rcnn is gone", "it answers no more", "start it again")
        return control(self, copies)

    monkeypatch.setattr(_Job, "null_control", failing)
    done = here(*MATRIX, "--model", "rcnn", "--model", "rcnn+", "--transfer-matrix")
    assert calls == ["rcnn", "rcnn+", "rcnn"]
    assert isinstance(done.exception, ModelError), done.output
    assert "rcnn is gone" in str(done.exception)


def test_a_model_and_its_twin_behind_a_defense_are_paired_attack_by_attack(here, tmp_path):
    asked = ("attack", "--dataset", "digits", "--device", "cpu", "--eps", "0.1", "--limit", "12", "--model", "cnn")
    assert here(*asked, "--attack", "fgsm", "--out", "plain").exit_code == 0
    assert here(*asked, "--attack", "fgsm", "--defense", "art:jpeg", "--out", "jpeg").exit_code == 0
    done = here("compare", "plain", "jpeg", "--format", "json")
    assert done.exit_code == 0, (done.output, done.exception)
    document = json.loads(done.stdout)
    assert document["models"] == ["cnn", "art:jpeg 50 + cnn"]
    (line,) = [line for line in document["lines"] if line["name"] == "fgsm/static"]
    assert all(line["scores"])
    assert line["differences"][1] is not None


@pytest.mark.parametrize("out", ["nowhere/table.md", "table.pdf"])
def test_a_file_that_cannot_be_written_is_refused_before_any_attack(here, monkeypatch, out):
    monkeypatch.setattr("rbfbench.evaluation.engine.evaluate", None)  # whatever calls it fails
    done = here("compare", "--model", "cnn", "--model", "cnn-ls", *DIGITS, "--eps", "0.1", "--out", out)
    assert isinstance(done.exception, LoadError | UsageError), done.exception


@pytest.mark.parametrize(
    ("name", "start"), [("c.md", "cnn and cnn-ls, "), ("c.CSV", ",cnn"), ("c.json", "{"), ("c.tex", "%")]
)
def test_the_ending_of_the_file_says_what_is_written(here, folders, tmp_path, name, start):
    done = here("compare", "a", "b", "--out", name)
    assert done.exit_code == 0, (done.output, done.exception)
    assert (tmp_path / name).read_text().startswith(start)


@pytest.mark.parametrize(
    ("arguments", "expected", "words"),
    [
        ((), (UsageError, 2), "nothing to compare"),
        (("a",), (UsageError, 2), "only a is given"),
        (("a", "b", "--model", "cnn"), (UsageError, 2), "exclude each other"),
        (("--model", "cnn", "--model", "cnn"), (UsageError, 2), "named twice"),
        (("a", "b", "--transfer-matrix"), (UsageError, 2), "needs --model"),
        (("a", "b", "--eps", "0.2"), (UsageError, 2), "--eps changes nothing: run folders hold finished runs"),
        (("a", "b", "--attack", "pgd"), (UsageError, 2), "--attack changes nothing"),
        (("a", "b", "--limit", "3"), (UsageError, 2), "--limit changes nothing"),
        (("a", "b", "--seed", "0"), (UsageError, 2), "--seed changes nothing"),
        (("a", "b", "--no-clip"), (UsageError, 2), "--clip changes nothing"),
        (("a", "b", "--out", "c.pdf"), (UsageError, 2), "unknown comparison format '.pdf'"),
        (("a", "b", "--out", "c.md", "--format", "csv"), (UsageError, 2), "--format csv does not fit --out c.md"),
        (("a", "b", "--out", "nowhere/c.md"), (LoadError, 3), "cannot write --out 'nowhere/c.md'"),
        (("a", "missing"), (LoadError, 3), "there is no run here"),
        (("a", "far"), (IncomparableError, 3), "eps differs: 0.1 in a, 0.2 in far"),
        (("a", "a"), (IncomparableError, 3), "same model and norm"),
    ],
)
def test_what_cannot_be_compared_is_told_in_one_line(here, folders, arguments, expected, words):
    done = here("compare", *arguments)
    error, code = expected
    assert isinstance(done.exception, error)
    assert done.exception.exit_code == code
    assert words in str(done.exception)
    assert "\n" not in str(done.exception)


def test_rows_that_met_fewer_images_say_so(here):
    models = ("--model", "cnn", "--model", "cnn-ls", "--eps", "0.1")
    asked = ("compare", *models, *DIGITS, "--attack", "pgd", "--cap", "pgd=5", "--set", "pgd.steps=2")
    table = here(*asked)
    assert table.exit_code == 0, table.output
    assert max(map(len, table.stdout.splitlines())) <= 80
    words = " ".join(table.stdout.split())
    assert "12 images, fewer where n is given" in words
    assert "only the first n images met the attack" in words
    rows = {line.partition(" ")[0]: line for line in table.stdout.splitlines()}
    assert rows["pgd/static"].count(", n 5)") == 2
    assert "n 5" not in rows["fgsm/static"] + rows["clean"] + rows["WORST"]
    for form in ("md", "csv", "latex"):
        assert here(*asked, "--format", form).stdout.count(", n 5)") == 2
    assert "where n is given" not in here("compare", *models, *DIGITS).stdout
