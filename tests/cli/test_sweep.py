"""`rbfbench sweep` end to end on the digits: each point is the attack run it stands for, and the curve says so."""

from __future__ import annotations

import csv
import dataclasses
import json
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from PIL import Image

from rbfbench.errors import LoadError, ModelError, UsageError
from rbfbench.results.records import Sample
from rbfbench.results.store import read_samples

SMALL = ("--dataset", "digits", "--device", "cpu", "--limit", "12", "--attack", "fgsm", "--attack", "noise")


def test_every_point_is_the_run_that_attack_makes(here):
    done = here(
        "sweep", "--over", "beta2", "--values", "1.5,0", "--model", "rcnn", *SMALL, "--eps", "0.1", "--json", "-"
    )
    assert done.exit_code == 0, done.output
    document = json.loads(done.stdout)
    assert [point["value"] for point in document["points"]] == [0.0, 1.5]  # in growing order
    for point in document["points"]:
        alone = here(
            "attack", "--beta2", point["text"], "--model", "rcnn", *SMALL, "--eps", "0.1", "--json", "-"
        )  # fmt: skip
        run = json.loads(alone.stdout)
        for name in ("clean", "worst_case", "null_attack", "spec_digest", "model_digest"):
            assert point["run"][name] == run[name]
        assert point["run"]["model"]["constants"]["beta2"] == point["value"]
    assert document["points"][0]["run"]["null_attack"] is None  # no noise, no luck
    assert document["checks"] == []


def test_a_folder_of_other_results_is_refused_before_anything_is_attacked(here, tmp_path, monkeypatch):
    eps, small = ("sweep", "--over", "eps", "--out", "kept", *SMALL), "0.05,0.1"
    assert here(*eps, "--values", small, "--model", "cnn").exit_code == 0
    attack = ("attack", "--model", "cnn", "--eps", "0.1", "--out", "run", *SMALL)
    assert here(*attack).exit_code == 0
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.json")}

    def attacked(*given: object, **options: object) -> None:
        raise AssertionError("attacked")

    monkeypatch.setattr("rbfbench.evaluation.engine.evaluate", attacked)
    certify = ("certify", "--model", "cnn", "--dataset", "digits", "--n", "20", "--limit", "1", "--device", "cpu")
    for words, why in (
        ((*eps, "--values", small, "--model", "madry"), "it holds a run with other settings"),
        ((*eps, "--values", "0.1,0.2", "--model", "cnn"), "its sweep.json holds eps 0.05, which would be lost"),
        (("sweep", "--over", "eps", "--values", "0.1", "--model", "cnn", *SMALL, "--out", "run"), "other settings"),
        ((*certify, "--out", "run"), "other settings"),
        ((*certify, "--out", "kept"), "other settings"),
        ((*attack[: -len(SMALL)], "--out", "kept", *SMALL), "it holds files that are not a run's"),
    ):
        done = here(*words)
        assert isinstance(done.exception, LoadError), (words, done.output)
        assert why in str(done.exception)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.json")} == before


def test_a_folder_in_which_nothing_came_about_can_be_used_again(here, tmp_path):
    asked = ("sweep", "--over", "eps", "--values", "0.05", "--model", "cnn", *SMALL, "--out", "kept")
    assert here(*asked, "--attack", "transfer", "--surrogate", "nosuch").exit_code != 0
    assert here(*asked).exit_code == 0
    (tmp_path / "kept" / "sweep.json").write_text("{")
    assert here(*asked).exit_code == 0, "a damaged one is written anew"
    (tmp_path / "kept" / "question.txt").unlink()
    done = here(*asked)
    assert isinstance(done.exception, LoadError)
    assert "it holds a sweep.json that may be another's" in str(done.exception)


def test_the_table_shows_every_value_and_the_curve_is_drawn(here, tmp_path):
    eps = ("--over", "eps", "--values", "8/255,0.1,0.3", "--model", "cnn")
    done = here("sweep", *eps, *SMALL, "--figure", "curve.svg", "--out", "kept")
    assert done.exit_code == 0, done.output
    for words in ("8/255", "0.1", "0.3", "clean", "fgsm/static", "WORST CASE", "noise", "95% intervals"):
        assert words in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 80
    root = ET.fromstring((tmp_path / "curve.svg").read_text())  # noqa: S314  (our own file)
    text = " ".join(part for part in root.itertext() if part.strip())
    for words in ("clean", "fgsm/static", "WORST CASE", "accuracy, %", "eps", "8/255:"):
        assert words in text
    assert sorted(path.name for path in (tmp_path / "kept").iterdir()) == [
        "eps=0.1",
        "eps=0.3",
        "eps=8_255",
        "question.txt",
        "sweep.json",
    ]
    kept = json.loads((tmp_path / "kept" / "sweep.json").read_text())
    assert kept["over"] == "eps"
    assert [point["text"] for point in kept["points"]] == ["8/255", "0.1", "0.3"]
    assert kept["points"][0]["run"] == json.loads((tmp_path / "kept" / "eps=8_255" / "run.json").read_text())
    accuracies = [point["run"]["worst_case"]["accuracy"] for point in kept["points"]]
    assert accuracies == sorted(accuracies, reverse=True)
    assert [check["code"] for check in kept["checks"]] == ["budgets-do-not-nest"]


def test_accuracy_never_rises_with_the_budget_and_what_is_broken_is_not_attacked_again(here, tmp_path):
    """At each radius an image is broken if it is there alone, or at a smaller one; the walk costs what is left only."""
    radii = ("0.05", "0.1", "0.15", "0.2")
    asked = ("--dataset", "digits", "--device", "cpu", "--limit", "40", "--model", "cnn", "--attack", "pgd")
    few = ("--set", "pgd.steps=4", "--set", "pgd.restarts=1")
    done = here("sweep", "--over", "eps", "--values", ",".join(radii), *asked, *few, "--out", "kept", "--json", "-")
    assert done.exit_code == 0, done.output
    points = json.loads(done.stdout)["points"]
    rows = [point["run"]["attacks"][0] for point in points]
    accuracies = [row["accuracy"] for row in rows]
    assert accuracies == sorted(accuracies, reverse=True)
    assert accuracies[-1] < accuracies[0]
    before: set[str] = set()
    for radius in radii:
        run = here("attack", *asked, *few, "--eps", radius, "--out", f"alone-{radius}")
        assert run.exit_code == 0
        broken = {s.image for s in read_samples(tmp_path / f"alone-{radius}") if s.correct == 0}
        kept = read_samples(tmp_path / "kept" / f"eps={radius}")
        assert {s.image for s in kept if s.correct == 0} == broken | before
        assert {s.image for s in kept if s.status == "spared"} == {s.image for s in kept if s.image in before} - {
            s.image for s in kept if s.status == "clean-error"
        }
        assert all(s.forwards == 0 for s in kept if s.status == "spared")
        assert all(s.linf <= float(radius) * (1 + 1e-5) + 1e-6 for s in kept if s.linf is not None)
        before |= broken


def test_a_random_model_is_attacked_anew_at_each_radius_and_keeps_the_better_candidate(here, tmp_path):
    """By the selection draws; the score of the one that is taken is the score that it had."""
    asked = (*SMALL, "--model", "rcnn")
    done = here("sweep", "--over", "eps", "--values", "0.05,0.07", *asked, "--out", "kept", "--json", "-")
    assert done.exit_code == 0, done.output
    assert here("attack", *asked, "--eps", "0.07", "--out", "alone").exit_code == 0

    def of(folder: str) -> dict[tuple[str, str], Sample]:
        return {(s.attack, s.image): s for s in read_samples(tmp_path / folder)}

    small, large, alone = of("kept/eps=0.05"), of("kept/eps=0.07"), of("alone")
    taken = [key for key in alone if small[key].selection < alone[key].selection]
    assert 0 < len(taken) < len(alone)
    for key, sample in large.items():
        source = small[key] if key in taken else alone[key]
        assert (sample.selection, sample.correct, sample.linf) == (source.selection, source.correct, source.linf)
        assert (sample.status, sample.forwards) == ("ok", alone[key].forwards)
    cells = {path: path.stat().st_mtime_ns for path in (tmp_path / "kept").rglob("cells/*")}
    assert here("sweep", "--over", "eps", "--values", "0.05,0.07", *asked, "--out", "kept").exit_code == 0
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "kept").rglob("cells/*")} == cells


def test_the_caption_of_a_curve_names_what_stayed_as_it_was(here, tmp_path):
    values = ("--values", "0,1", "--m", "3", "--eps", "0.1")
    done = here("sweep", "--model", "rcnn", *SMALL, *values, "--figure", "c.svg")
    assert done.exit_code == 0, done.output
    root = ET.fromstring((tmp_path / "c.svg").read_text())  # noqa: S314
    text = " ".join(" ".join(root.itertext()).split())
    assert "rcnn (beta1 25, m 3)" in text


def test_the_same_command_resumes(here, tmp_path):
    command = ("sweep", "--values", "0,1", "--model", "rcnn", *SMALL, "--eps", "0.1", "--out", "kept", "--json", "-")
    first = here(*command)
    cells = {path: path.stat().st_mtime_ns for path in (tmp_path / "kept").rglob("cells/*")}
    assert cells
    again = here(*command)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "kept").rglob("cells/*")} == cells
    points = [[point["run"]["worst_case"] for point in json.loads(done.stdout)["points"]] for done in (first, again)]
    assert points[0] == points[1]


def test_ctrl_c_keeps_the_values_that_are_done(here, tmp_path, monkeypatch):
    from rbfbench.evaluation import engine

    evaluate, calls = engine.evaluate, []

    def stopping(*arguments, **named):
        calls.append(1)
        if len(calls) == 2:
            monkeypatch.setattr(engine._Job, "attack", interrupt)
        return evaluate(*arguments, **named)

    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(engine, "evaluate", stopping)
    done = here("sweep", "--values", "0,1", "--model", "rcnn", *SMALL, "--eps", "0.1", "--out", "kept")
    assert done.exit_code == 130
    assert "interrupted: 1 of 2 values are done and shown and kept" in done.stderr
    kept = json.loads((tmp_path / "kept" / "sweep.json").read_text())
    assert [point["value"] for point in kept["points"]] == [0.0]
    assert (kept["status"], kept["missing"]) == ("started", ["1"])
    marked = "UNFINISHED SWEEP: 1 of 2 values done, without beta2 1; what was started with --out goes on"
    assert marked in " ".join(done.stdout.split())
    for ending in ("md", "tex", "html"):
        assert here("report", "kept", "--out", f"r.{ending}").exit_code == 0
        assert marked in (tmp_path / f"r.{ending}").read_text()
    assert here("report", "kept", "--out", "r.csv").exit_code == 0
    rows = list(csv.DictReader((tmp_path / "r.csv").read_text().splitlines()))
    assert {row["status"] for row in rows} == {"started"}
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    whole = here("sweep", "--values", "0,1", "--model", "rcnn", *SMALL, "--eps", "0.1", "--out", "kept", "--json", "-")
    assert (json.loads(whole.stdout)["status"], json.loads(whole.stdout)["missing"]) == ("complete", [])


def test_a_model_that_is_lost_keeps_the_values_that_are_done(here, tmp_path, monkeypatch):
    from rbfbench.evaluation import engine

    evaluate, calls = engine.evaluate, []

    def losing(*arguments, **named):
        calls.append(1)
        outcome = evaluate(*arguments, **named)
        return outcome if len(calls) == 1 else dataclasses.replace(outcome, lost=ModelError("it", "is gone", "find it"))

    monkeypatch.setattr(engine, "evaluate", losing)
    done = here("sweep", "--values", "0,1", "--model", "rcnn", *SMALL, "--eps", "0.1", "--out", "kept")
    assert isinstance(done.exception, ModelError)
    assert [point["value"] for point in json.loads((tmp_path / "kept" / "sweep.json").read_text())["points"]] == [0.0]
    assert "WORST CASE" in done.stdout


def test_a_png_has_the_size_that_is_said(here, tmp_path):
    done = here(
        "sweep", "--over", "m", "--values", "1,3", "--model", "rcnn", *SMALL, "--eps", "0.1", "--figure", "m.png"
    )
    assert done.exit_code == 0, done.output
    with Image.open(tmp_path / "m.png") as picture:
        picture.load()
        assert f"wrote m.png ({picture.width} x {picture.height} pixels)" in done.stderr
        assert len(picture.convert("RGB").getcolors(1 << 24)) > 20


BAD = {
    "unknown quantity": (("--over", "beta3"), "did you mean 'beta2'"),
    "no number": (("--values", "1,x"), "--values 'x' is not a number"),
    "nothing": (("--values="), "--values '' is not a number"),
    "part of a draw": (("--over", "m", "--values", "1.5"), "is not a whole number"),
    "twice": (("--values", "1,1.0"), "holds a value twice"),
    "below zero": (("--values=-1,1", "--model", "rcnn", *SMALL, "--eps", "0.1"), "beta2 = -1.0 cannot be used"),
    "not this model's": (("--model", "cnn", *SMALL, "--eps", "0.1"), "cnn has no --beta2"),
    "set twice": (("--beta2", "1"), "--beta2 and --over beta2 exclude each other"),
    "radius twice": (("--over", "eps", "--eps", "0.1"), "--eps and --over eps exclude each other"),
    "no default": (("--over", "beta1"), "--values is missing"),
    "no radius": (("--over", "eps", "--dataset", "digits"), "give one, as --norm linf --values 0.1"),
    "negative radius": (("--over", "eps", "--values=-0.1,0.1"), "--values -0.1 is no radius"),
    "radius that is no number": (("--over", "eps", "--values", "0.1,x"), "--values 'x' is not a number"),
    "empty radius": (("--over", "eps", "--values="), "--values '' is not a number"),
    "picture": (("--figure", "curve.pdf"), "unknown picture format"),
    "scale": (("--noise-scale", "sigmas", "--model", "rcnn", *SMALL, "--eps", "0.1"), "did you mean 'sigma'"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_wrong_command_line_is_refused_before_any_run(here, case, monkeypatch):
    from rbfbench.evaluation import engine

    monkeypatch.setattr(engine, "evaluate", lambda *_, **__: pytest.fail("a run began"))
    arguments, words = BAD[case]
    done = here("sweep", *((arguments,) if isinstance(arguments, str) else arguments))
    assert isinstance(done.exception, UsageError), done.output
    assert words in str(done.exception)
    assert "\n" not in str(done.exception)


def test_a_place_that_cannot_hold_the_result_is_refused(here):
    done = here("sweep", "--json", str(Path("nowhere") / "s.json"), *SMALL, "--eps", "0.1")
    assert isinstance(done.exception, LoadError)
    assert "nowhere" in str(done.exception)


def test_a_value_that_leaves_attacks_nothing_to_look_at_is_named(here):
    words = (*SMALL[:-4], "--attack", "pgd", "--gradient", "eot", "--eps", "0.1")
    done = here("sweep", "--over", "beta2", "--values", "0,1", "--model", "rcnn", *words)
    assert isinstance(done.exception, ModelError), done.output
    assert str(done.exception).startswith("beta2 0: none of the attacks can look at rcnn")


def test_rows_that_met_fewer_images_say_so_wherever_the_sweep_is_shown(here, tmp_path):
    capped = ("--attack", "fgsm", "--attack", "pgd", "--cap", "pgd=5", "--set", "pgd.steps=2")
    radii = ("--over", "eps", "--values", "0.05,0.1,0.15,0.2,0.25")
    asked = ("--dataset", "digits", "--device", "cpu", "--limit", "12", "--model", "cnn")
    done = here("sweep", *asked, *radii, *capped, "--figure", "curve.svg", "--out", "kept")
    assert done.exit_code == 0, done.output
    assert max(map(len, done.stdout.splitlines())) <= 80
    shown = {"table": done.stdout, "figure": " ".join(ET.parse(tmp_path / "curve.svg").getroot().itertext())}  # noqa: S314
    for ending in ("md", "tex", "html"):
        assert here("report", "kept", "--out", f"r.{ending}").exit_code == 0
        shown[ending] = (tmp_path / f"r.{ending}").read_text()
    for where, text in shown.items():
        words = " ".join(text.split())
        assert "pgd/static (n 5)" in words, where
        assert "fgsm/static (n" not in words, where
        assert "WORST CASE (n" not in words, where
        assert "only the first n images met the attack" in words, where
    whole = here("sweep", *asked, "--over", "eps", "--values", "0.1", "--attack", "fgsm")
    assert "(n " not in whole.stdout
    assert "Where n is given" not in whole.stdout
