"""`rbfbench train`: weights, card, refusal to lose a checkpoint, resuming after a kill, constants and mistakes."""

from __future__ import annotations

import dataclasses
import errno
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from rbfbench import cli
from rbfbench.cli.train import _parts
from rbfbench.defenses import PRESET_NAMES, shipped_path
from rbfbench.defenses.checkpoint import Blueprint, build, load, save
from rbfbench.defenses.rbf import PRESETS
from rbfbench.evaluation.card import command as card_command
from rbfbench.training.recipes import DATASETS, RECIPES
from rbfbench.training.trainer import model_digest

RBFBENCH = Path(sys.executable).with_name("rbfbench")


def command(*arguments: str) -> list[str]:
    return [str(RBFBENCH), *arguments]


def train(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command("train", *arguments), cwd=folder, env=os.environ, capture_output=True, text=True, check=False
    )


ARGUMENTS = ("rcnn", "--dataset", "digits", "--out", "mine.safetensors", "--epochs")


def test_trained_weights_come_with_a_card_and_can_be_attacked(tmp_path):
    done = train(tmp_path, *ARGUMENTS, "3")
    assert done.returncode == 0, done.stderr
    card = (tmp_path / "mine.md").read_text()
    assert card.strip() == done.stdout.strip()
    assert "`rbfbench train rcnn --dataset digits --set schedule.epochs=3 --precision float32 --seed 0`" in card
    recipe = json.loads(card.split("```json")[1].split("```")[0])
    assert recipe["schedule"]["epochs"] == 3
    assert recipe["rbf"]["beta2"] == 1.75
    weights = (tmp_path / "mine.safetensors").read_bytes()
    shutil.rmtree(tmp_path / "mine.safetensors.work", ignore_errors=True)
    again = train(tmp_path, *ARGUMENTS, "3", "--seed", "3")
    assert again.returncode == 2
    assert (
        "--out mine.safetensors exists: its weights would be lost; choose another --out, or remove it" in again.stderr
    )
    assert train(tmp_path, *ARGUMENTS, "3", "--seed", "3", "--resume").returncode == 2, "there is nothing to resume"
    assert (tmp_path / "mine.safetensors").read_bytes() == weights
    attacked = subprocess.run(
        command("attack", "--model", "mine.safetensors", "--dataset", "digits", "--eps", "0.1", "--json", "-"),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(attacked.stdout)["model"]["stochastic"] is True


def test_a_page_that_is_no_card_is_not_overwritten(tmp_path):
    (tmp_path / "mine.md").write_text("notes")
    done = train(tmp_path, *ARGUMENTS, "1")
    assert done.returncode == 2
    assert "mine.md" in done.stderr
    assert (tmp_path / "mine.md").read_text() == "notes"
    assert not (tmp_path / "mine.safetensors.work").exists()


def test_a_checkpoint_is_not_overwritten_unasked(tmp_path):
    assert train(tmp_path, *ARGUMENTS, "1").returncode == 0
    again = train(tmp_path, *ARGUMENTS, "1")
    assert again.returncode == 2
    assert "--resume" in again.stderr
    other = train(tmp_path, *ARGUMENTS, "2", "--resume")
    assert other.returncode == 3
    assert "other settings" in other.stderr


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL on this system")
def test_a_killed_training_ends_with_the_weights_of_an_undisturbed_one(tmp_path):
    for name in ("whole", "killed"):
        (tmp_path / name).mkdir()
    assert train(tmp_path / "whole", *ARGUMENTS, "12").returncode == 0
    process = subprocess.Popen(
        command("train", *ARGUMENTS, "12"),
        cwd=tmp_path / "killed",
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    checkpoint = tmp_path / "killed" / "mine.safetensors.work" / "checkpoint.pt"
    deadline = time.monotonic() + 120
    while not checkpoint.exists() and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.01)
    process.kill()
    process.wait()
    assert not (tmp_path / "killed" / "mine.safetensors").exists()  # it was stopped in the middle
    resumed = train(tmp_path / "killed", *ARGUMENTS, "12", "--resume")
    assert resumed.returncode == 0, resumed.stderr
    whole, killed = (tmp_path / name / "mine.safetensors" for name in ("whole", "killed"))
    assert whole.read_bytes() == killed.read_bytes()


# Every constant -------------------------------------------------------------------------------------------------------
class Here:
    """The command line in this process: (exit code, stdout, stderr)."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self.monkeypatch, self.capsys = monkeypatch, capsys

    def __call__(self, *arguments: str) -> tuple[int, str, str]:
        self.monkeypatch.setattr(sys, "argv", ["rbfbench", "train", *arguments])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        out, err = self.capsys.readouterr()
        return int(stop.value.code or 0), out, err


@pytest.fixture
def here(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RBFBENCH_DATA_ROOT", str(tmp_path / "no-data"))
    return Here(monkeypatch, capsys)


PARTS_OF = {
    "cnn": {"recipe", "schedule"},
    "cnn-ls": {"recipe", "schedule"},
    "cnn-ls-noise": {"recipe", "schedule", "noise"},
    "madry": {"recipe", "schedule", "adversary"},
    "fast": {"recipe", "schedule", "adversary"},
    "trades": {"recipe", "schedule", "adversary"},
    "rcnn": {"recipe", "schedule", "rbf", "em"},
    "rcnn+": {"recipe", "schedule", "noise", "rbf"},  # its filters are those of its source
}


def parts_of(recipe: str, preset: str, dataset: str, **options: Any) -> dict[str, Any]:
    plain = dict.fromkeys(("epochs", "lr", "batch_size", "classifier", "start", "norm")) | {"settings": ()}
    return _parts(plain | {"recipe": recipe, "preset": preset, "dataset": dataset} | options)


@pytest.mark.parametrize("recipe", RECIPES)
def test_show_prints_every_constant_and_each_can_be_given_back(recipe, here):
    for preset, dataset in itertools.product(PRESET_NAMES, DATASETS):
        code, out, err = here(recipe, "--preset", preset, "--dataset", dataset, "--show")
        assert (code, err) == (0, "")
        lines = out.splitlines()
        parts = parts_of(recipe, preset, dataset)
        fields = [f"{part}.{field.name}" for part, made in parts.items() if made for field in dataclasses.fields(made)]
        assert [line.partition("=")[0] for line in lines] == fields
        assert {line.partition(".")[0] for line in lines} == PARTS_OF[recipe]
        # given to the same recipe of another preset, in the opposite order, they make this one
        for other in PRESET_NAMES:
            back = parts_of(recipe, other, dataset, settings=tuple(reversed(lines)))
            assert back == parts
    assert list(Path.cwd().iterdir()) == []  # nothing was trained


def test_adversarial_training_knows_other_norms(here):
    code, out, _ = here("madry", "--dataset", "mnist", "--norm", "l2", "--show")
    assert code == 0
    assert {"adversary.norm=l2", "adversary.eps=2.0", "adversary.steps=40"} <= set(out.splitlines())
    code, _, err = here("cnn", "--dataset", "mnist", "--norm", "l2", "--show")
    assert code == 2
    assert "--norm changes nothing" in err
    code, _, err = here("madry", "--norm", "l3", "--show")
    assert code == 2
    assert "unknown norm 'l3'" in err


def test_the_card_of_another_norm_names_the_command_that_made_it(here, tmp_path):
    code, _, _ = here("fast", "--dataset", "digits", "--norm", "l2", "--epochs", "1", "--out", "a.safetensors")
    assert code == 0
    said = "`rbfbench train fast --dataset digits --norm l2 --set schedule.epochs=1 --precision float32 --seed 0`"
    assert said in (tmp_path / "a.md").read_text()


def test_options_and_set_end_in_show(here):
    changes = ("--epochs", "7", "--lr", "0.25", "--batch-size", "33", "--classifier", "vgg16")
    more = ("noise.pairing=matched", "noise.stored=none", "noise.flip=false", "recipe.smoothing=0.2", "rbf.m=3")
    settings = tuple(itertools.chain.from_iterable(("--set", setting) for setting in more))
    plain = here("rcnn+", "--show")[1].splitlines()
    code, out, _ = here("rcnn+", "--show", *changes, *settings)
    assert code == 0
    assert set(out.splitlines()) - set(plain) == {
        "schedule.epochs=7",
        "schedule.lr=0.25",
        "schedule.batch=33",
        "schedule.classifier=vgg16",
        "noise.pairing=matched",
        "noise.stored=none",
        "noise.flip=False",
        "recipe.smoothing=0.2",
        "rbf.m=3",
    }


@pytest.mark.parametrize("preset", PRESET_NAMES)
@pytest.mark.parametrize("recipe", RECIPES)
def test_the_command_on_a_card_gives_every_constant_again(recipe, preset):
    settings = ["schedule.epochs=260", "schedule.lr=0.037", "schedule.weight_decay=1e-05", "recipe.smoothing=0.3"]
    settings += ["noise.made_at=none", "noise.stored=17", "noise.flip=false"] if RECIPES[recipe].source else []
    settings += ["rbf.log2pi=true", "rbf.noise_scale=sigma"] if RECIPES[recipe].rbf else []
    parts = parts_of(recipe, preset, "cifar10", settings=tuple(settings))
    told = {part: dataclasses.asdict(made) if made else None for part, made in parts.items()}
    head = {"name": recipe, "dataset": "cifar10", "preset": preset, "precision": "bfloat16", "seed": 4}
    words = card_command(json.loads(json.dumps(told | head))).split()
    assert words[:5] == ["rbfbench", "train", recipe, "--dataset", "cifar10"]
    given = [*itertools.pairwise(words)]
    assert ("--preset", preset) in given or preset == "default"
    assert {("--precision", "bfloat16"), ("--seed", "4")} <= set(given)
    again = tuple(value for option, value in given if option == "--set")
    assert parts_of(recipe, preset, "cifar10", settings=again) == parts


def test_set_reaches_the_training_and_its_card(tmp_path):
    done = train(
        tmp_path, *ARGUMENTS, "1", "--set", "em.updates=30", "--set", "schedule.shift=1", "--batch-size", "100"
    )
    assert done.returncode == 0, done.stderr
    recipe = json.loads((tmp_path / "mine.md").read_text().split("```json")[1].split("```")[0])
    assert (recipe["em"]["updates"], recipe["schedule"]["shift"], recipe["schedule"]["batch"]) == (30, 1, 100)


# Noisy copies ---------------------------------------------------------------------------------------------------------
def weights(path: Path, *, rbf: bool, dataset: str = "digits", name: str | None = None) -> Path:
    plan = Blueprint(
        classifier="digits-cnn",
        dataset=dataset,
        n_classes=10,
        rbf=PRESETS["default"] if rbf else None,
        recipe={"name": name or ("rcnn" if rbf else "cnn-ls")},
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        save(build(plan, (torch.rand(6, 1, 3, 3), torch.rand(6))), plan, path)
    return path


def test_rcnn_plus_is_trained_with_the_shipped_source_and_its_filters(tmp_path):
    done = train(tmp_path, "rcnn+", *ARGUMENTS[1:], "1", "--set", "noise.adversarial_steps=1")
    assert done.returncode == 0, done.stderr
    assert "copies" in done.stderr
    path = shipped_path("rcnn", "digits")
    assert path
    (ours, plan), (shipped, _) = load(tmp_path / "mine.safetensors"), load(path)
    assert torch.equal(ours.reconstruction.means, shipped.reconstruction.means)
    assert plan.recipe["name"] == "rcnn+"
    assert plan.recipe["noise"]["adversarial_steps"] == 1
    assert len(plan.recipe["source"]) == 64


def test_the_control_takes_the_source_it_is_given(tmp_path):
    weights(tmp_path / "ls.safetensors", rbf=False)
    arguments = ("cnn-ls-noise", *ARGUMENTS[1:], "1", "--set", "noise.adversarial_steps=1")
    done = train(tmp_path, *arguments, "--source", "ls.safetensors")
    assert done.returncode == 0, done.stderr
    source = load(tmp_path / "mine.safetensors")[1].recipe["source"]
    other = load(weights(tmp_path / "other.safetensors", rbf=False))[0]
    with torch.no_grad():
        next(other.parameters()).add_(1)
    save(other, load(tmp_path / "ls.safetensors")[1], tmp_path / "other.safetensors")
    again = train(tmp_path, *arguments, "--source", "other.safetensors", "--resume")
    assert again.returncode == 3
    assert "it holds a training with other settings" in again.stderr
    assert load(tmp_path / "mine.safetensors")[1].recipe["source"] == source


def test_a_shipped_model_can_be_trained_on(tmp_path):
    done = train(tmp_path, "cnn-ls", *ARGUMENTS[1:], "1", "--lr", "1e-9", "--start", "cnn-ls")
    assert done.returncode == 0, done.stderr
    path = shipped_path("cnn-ls", "digits")
    assert path
    (ours, plan), (shipped, _) = load(tmp_path / "mine.safetensors"), load(path)
    assert plan.recipe["start"] == model_digest(shipped)
    assert f"the model of digest {plan.recipe['start'][:12]} as --start" in done.stdout
    for name, tensor in shipped.state_dict().items():
        assert torch.allclose(ours.state_dict()[name], tensor, rtol=1e-3, atol=1e-5)


def test_a_model_that_makes_its_noise_itself_needs_no_source(tmp_path):
    settings = ("--set", "noise.adversarial_steps=1", "--set", "noise.made_at=1")
    done = train(tmp_path, "cnn-ls-noise", *ARGUMENTS[1:], "2", *settings)
    assert done.returncode == 0, done.stderr
    assert load(tmp_path / "mine.safetensors")[1].recipe["source"] is None


def test_to_resume_what_is_not_there_is_said(here):
    """Interrupted before its first file or misspelt: the hours to come should not be a surprise."""
    arguments = (*ARGUMENTS, "1", "--set", "em.updates=30", "--resume")
    note = "note: mine.safetensors.work holds nothing to resume: the training starts anew\n"
    assert here(*arguments)[2].startswith(note)
    assert "note" not in here(*arguments)[2]


@pytest.mark.parametrize("begun", [True, False])
def test_an_interrupt_says_how_to_go_on(begun, here, monkeypatch):
    def interrupted(*_: object, **__: object) -> None:
        if begun:
            Path("mine.safetensors.work").mkdir()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("rbfbench.training.trainer.train", interrupted)
        code, out, err = here(*ARGUMENTS, "1")
    assert (code, out) == (130, "")
    todo = ": mine.safetensors.work keeps what is done; the same command with --resume goes on" if begun else ""
    assert err.strip() == f"interrupted{todo}"


@pytest.mark.parametrize("name", ["mine.safetensors", "mine.md"])
def test_a_full_disk_at_the_very_end_loses_nothing(name, here, monkeypatch):
    """The training is done; its weights or their card do not fit. With --resume nothing is trained again."""
    write = Path.write_bytes

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        if name == "mine.md":
            patch.setattr(os, "fsync", full)
        else:
            patch.setattr(
                Path, "write_bytes", lambda path, data: full() if path.name.startswith(name) else write(path, data)
            )
        code, out, err = here(*ARGUMENTS, "1", "--set", "em.updates=30")
    assert (code, out) == (3, "")
    assert f"error: cannot write {name}: No space left on device; " in err
    left = {"mine.safetensors.work"} | ({"mine.safetensors"} if name == "mine.md" else set())
    assert {path.name for path in Path.cwd().iterdir()} == left
    code, out, err = here(*ARGUMENTS, "1", "--set", "em.updates=30", "--resume")
    assert code == 0
    assert "epoch 1/1" not in err
    assert out.strip() == Path("mine.md").read_text().strip()


# Mistakes -------------------------------------------------------------------------------------------------------------
OUT = ("--out", "x.safetensors")
DIGITS = ("--dataset", "digits", *OUT)
MISTAKES: dict[str, tuple[tuple[str, ...], str]] = {
    "recipe": (("rccn", *DIGITS), "unknown recipe 'rccn': no recipe has this name; did you mean 'rcnn'?"),
    "data set": (("cnn", *OUT, "--dataset", "mnits"), "did you mean 'mnist'?"),
    "preset": (("cnn", *DIGITS, "--preset", "papr"), "did you mean 'paper'?"),
    "classifier": (("cnn", *DIGITS, "--classifier", "vgg61"), "unknown classifier 'vgg61'"),
    "classifier by set": (("cnn", *DIGITS, "--set", "schedule.classifier=smal"), "did you mean 'small'?"),
    "no out": (("cnn", "--dataset", "digits"), "--out is missing; add --out cnn.safetensors."),
    "ending of out": (("cnn", "--dataset", "digits", "--out", "x.pt"), "its name must end in .safetensors"),
    "epochs": (("cnn", *DIGITS, "--epochs", "0"), "epochs = 0 cannot be used: it must be at least 1"),
    "lr": (("cnn", *DIGITS, "--lr", "0"), "lr = 0.0 cannot be used: it must be above 0 and finite"),
    "lr nan": (("cnn", *DIGITS, "--lr", "nan"), "lr = nan cannot be used: it must be above 0 and finite"),
    "batch": (("cnn", *DIGITS, "--batch-size", "0"), "batch = 0 cannot be used: it must be at least 1"),
    "part": (("cnn", *DIGITS, "--set", "shedule.batch=3"), "unknown part 'shedule'"),
    "part not in use": (("cnn", *DIGITS, "--set", "noise.copies=3"), "this training has no noise"),
    "filters of the source": (("rcnn+", *DIGITS, "--set", "em.wish=3"), "this training has no em"),
    "constant": (("rcnn", *DIGITS, "--set", "rbf.beta=3"), "unknown constant of rbf 'beta'"),
    "type": (("cnn", *DIGITS, "--set", "schedule.shift=a"), "Expected `int`, got `str`"),
    "em": (("rcnn", *DIGITS, "--set", "em.wish=0"), "wish = 0 cannot be used: it must be at least 1"),
    "rbf": (("rcnn", *DIGITS, "--set", "rbf.m=0"), "m = 0 cannot be used"),
    "what a recipe is": (("rcnn", *DIGITS, "--set", "recipe.rbf=false"), "only smoothing can change"),
    "the source of a recipe": (("cnn", *DIGITS, "--set", "recipe.source=rcnn"), "only smoothing can change"),
    "matched": (("rcnn+", *DIGITS, "--set", "noise.pairing=matched", "--set", "noise.flip=true"), "stay in place"),
    "too late": (
        ("rcnn+", "--preset", "paper", "--dataset", "mnist", "--epochs", "25", *OUT),
        "noise.made_at = 25 cannot be used: no copy would have adversarial noise in 25 epochs",
    ),
    "source for none": (("rcnn", *DIGITS, "--source", "y"), "--source changes nothing: rcnn has no noisy copies"),
    "source for itself": (
        ("cnn-ls-noise", *DIGITS, "--source", "y", "--set", "noise.made_at=1"),
        "--source changes nothing: cnn-ls-noise makes its noise itself (noise.made_at)",
    ),
    "start of another kind": (
        ("rcnn", *DIGITS, "--start", "cnn.safetensors"),
        "it is digits-cnn on digits without an RBF layer; give a digits-cnn on digits behind an RBF layer",
    ),
    "start of other data": (
        ("cnn", *DIGITS, "--start", "mnist.safetensors"),
        "it is digits-cnn on mnist behind an RBF layer",
    ),
    "source not shipped": (
        ("cnn-ls-noise", *DIGITS),
        "cnn-ls-noise needs a trained cnn-ls: none is shipped for digits; train one, and name it with --source.",
    ),
    "source without filters": (
        ("rcnn+", *DIGITS, "--source", "cnn.safetensors"),
        "--source cnn.safetensors cannot be used: it is no rcnn of digits; train one, and name it with --source.",
    ),
    "source with filters": (("cnn-ls-noise", *DIGITS, "--source", "rcnn.safetensors"), "it is no cnn-ls of digits"),
    "source without smoothing": (("cnn-ls-noise", *DIGITS, "--source", "cnn.safetensors"), "it is no cnn-ls of digits"),
    "source of other data": (("rcnn+", *DIGITS, "--source", "mnist.safetensors"), "it is no rcnn of digits"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_wrong_command_line_is_one_line_and_trains_nothing(name, here, monkeypatch):
    for file, rbf, dataset in (("cnn", False, "digits"), ("rcnn", True, "digits"), ("mnist", True, "mnist")):
        weights(Path(f"{file}.safetensors"), rbf=rbf, dataset=dataset, name="cnn" if file == "cnn" else None)
    before = sorted(Path.cwd().iterdir())
    if name == "source not shipped":  # whatever is shipped one day
        monkeypatch.setattr("rbfbench.cli.train.shipped_path", lambda *_: None)
    arguments, words = MISTAKES[name]
    code, out, err = here(*arguments)
    assert (code, out) == (2, "")
    assert words in err
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert sorted(Path.cwd().iterdir()) == before


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("rcnn+", *DIGITS, "--source", "nowhere.safetensors"), "there is no such file"),
        (("cnn", *DIGITS, "--classifier", "vgg16"), "it does not take images of shape (1, 8, 8)"),
        (("rcnn", *DIGITS, "--set", "em.window=9"), "9 pixels wide"),
    ],
)
def test_what_shows_only_when_files_are_open_ends_in_three(arguments, words, here):
    code, out, err = here(*arguments)
    assert (code, out) == (3, "")
    assert words in err
    assert err.startswith("error: ")
    assert err.count("\n") == 1
