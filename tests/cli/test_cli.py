"""The real command line in a subprocess: what users type, what they read, and the exit codes."""

from __future__ import annotations

import json
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from rbfbench.cli import COMMANDS
from rbfbench.results.schema import run_schema

RBFBENCH = Path(sys.executable).with_name("rbfbench")
HEAVY = ("torch", "scipy", "numpy", "art", "foolbox", "torchvision", "matplotlib")


@pytest.fixture
def cli(tmp_path):
    """Run rbfbench in an empty folder, offline data only, one thread."""

    def run(*arguments: str, cwd: Path = tmp_path, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [RBFBENCH, *arguments],
            cwd=cwd,
            env=env(tmp_path) | environment,
            capture_output=True,
            text=True,
            check=False,
        )

    return run


def env(home: Path) -> dict[str, str]:
    return os.environ | {"RBFBENCH_DATA_ROOT": str(home / "no-data"), "OMP_NUM_THREADS": "1", "COLUMNS": "120"}


DIGITS = ("attack", "--dataset", "digits", "--eps", "0.1", "--limit", "30", "--device", "cpu")


# Start-up -------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("command", [(), *[(name,) for name in COMMANDS]], ids=lambda c: " ".join(c) or "rbfbench")
def test_help_is_quick_and_loads_nothing_heavy(command):
    code = (
        "import sys, rbfbench.cli as c\n"
        f"try: c.cli.main([*{command!r}, '--help'], standalone_mode=False)\n"
        "finally: print(sorted(set(sys.modules) & set(sys.argv[1:])), file=sys.stderr)"
    )
    times = []
    for _ in range(3):
        began = os.times()
        done = subprocess.run([sys.executable, "-c", code, *HEAVY], capture_output=True, text=True, check=True)
        ended = os.times()  # of the processor, whatever else it does
        times.append(ended.children_user + ended.children_system - began.children_user - began.children_system)
    assert done.stderr.strip() == "[]"
    assert "Usage:" in done.stdout
    assert min(times) < 0.4


# The main job ---------------------------------------------------------------------------------------------------------
def test_attack_on_digits_prints_a_table_and_writes_a_run(cli, tmp_path):
    done = cli(*DIGITS, "--out", "run", "--json", "copy.json")
    assert done.returncode == 0, done.stderr
    for word in ("clean", "fgsm/static", "pgd-margin/eot", "WORST CASE", "null", "95%", "--limit"):
        assert word in done.stdout
    run = json.loads((tmp_path / "run" / "run.json").read_text())
    assert run == json.loads((tmp_path / "copy.json").read_text())
    jsonschema = pytest.importorskip("jsonschema")
    jsonschema.validate(run, json.loads(run_schema()))
    assert run["status"] == "complete"
    assert run["worst_case"]["n"] == 30
    assert (tmp_path / "run" / "samples.jsonl.gz").is_file()
    again = cli(*DIGITS, "--out", "run", "--json", "-")
    resumed = json.loads(again.stdout)
    assert resumed["attacks"] == run["attacks"]  # wall times too: nothing was computed again


def test_json_to_stdout_is_one_document(cli):
    done = cli(*DIGITS, "--attack", "fgsm", "--model", "cnn", "--json", "-")
    assert done.returncode == 0, done.stderr
    run = json.loads(done.stdout)
    assert [row["id"] for row in run["attacks"]] == ["fgsm/static"]
    assert run["spec"]["eps_text"] == "0.1"


def test_same_seed_same_numbers_whatever_the_batch(cli):
    runs = [
        json.loads(
            cli(
                *DIGITS,
                "--attack",
                "pgd",
                "--gradient",
                "eot",
                "--set",
                "pgd.steps=8",
                "--batch-size",
                size,
                "--json",
                "-",
            ).stdout
        )
        for size in ("25", "64")
    ]
    first, second = (run["attacks"][0] for run in runs)
    # Three fresh decisions an image: a single image on the fence may differ by rounding.
    assert abs(first["k"] - second["k"]) <= 1
    assert (first["forwards"], first["backwards"]) == (second["forwards"], second["backwards"])


def test_set_changes_a_parameter_and_the_run_says_so(cli):
    run = json.loads(cli(*DIGITS, "--set", "pgd.steps=2", "--set", "pgd-margin.steps=3", "--json", "-").stdout)
    steps = {row["id"]: row["params"].get("steps") for row in run["attacks"]}
    assert steps["pgd/static"] == 2
    assert steps["pgd-margin/static"] == 3
    assert run["spec"]["suite"] == "quick (changed)"


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_every_norm_on_real_cifar_images(cli, norm):
    done = cli("attack", "--norm", norm, "--limit", "4", "--attack", "fgsm", "--json", "-")
    assert done.returncode == 0, done.stderr
    run = json.loads(done.stdout)
    assert run["spec"]["source"].startswith("embedded sample")
    assert run["spec"]["eps"] == {"linf": 0.031, "l2": 1.0, "l1": 20.0}[norm]
    assert run["attacks"][0]["invalid"] == 0


def test_a_user_model_in_the_working_folder(cli, tmp_path):
    (tmp_path / "mine.py").write_text(
        "from torch import nn\ndef build():\n    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))\n"
    )
    done = cli(*DIGITS, "--model", "mine:build", "--attack", "pgd", "--json", "-")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["model"]["stochastic"] is False


def test_a_two_class_model(cli, tmp_path):
    generator = np.random.default_rng(0)
    y = np.arange(20) % 2
    x = (generator.random((20, 1, 8, 8)) * 0.4 + 0.5 * y[:, None, None, None]).astype(np.float32)
    np.savez(tmp_path / "two.npz", x=x, y=y)
    (tmp_path / "mine.py").write_text(
        "import torch\nfrom torch import nn\nclass M(nn.Module):\n"
        "    def forward(self, x):\n        b = x.mean((1, 2, 3)) - 0.45\n        return torch.stack([-b, b], 1)\n"
        "def build():\n    return M()\n"
    )
    done = cli("attack", "--model", "mine:build", "--dataset", "npz:two.npz", "--eps", "0.4", "--json", "-")
    assert done.returncode == 0, done.stderr
    run = json.loads(done.stdout)
    assert run["clean"]["accuracy"] == 1.0
    assert run["worst_case"]["accuracy"] == 0.0


def test_more_images_than_there_are_is_said(cli):
    done = cli(*DIGITS[:-4], "--limit", "5000", "--model", "cnn", "--attack", "fgsm", "--json", "-")
    assert json.loads(done.stdout)["clean"]["n"] == 597
    assert "597" in done.stderr


def test_lists(cli):
    done = cli("ls")
    assert done.returncode == 0
    for word in ("mi-fgsm", "quick", "eot", "rcnn"):
        assert word in done.stdout


# Bad input ------------------------------------------------------------------------------------------------------------
USAGE = {
    "unknown command": (["atack"], "attack"),
    "unknown attack": ([*DIGITS, "--attack", "pdg"], "pgd"),
    "unknown suite": ([*DIGITS, "--suite", "quik"], "quick"),
    "unknown model": ([*DIGITS, "--model", "rcn"], "rcnn"),
    "unknown data": (["attack", "--dataset", "cifar"], "cifar10"),
    "unknown norm": ([*DIGITS, "--norm", "linff"], "linf"),
    "unknown view": ([*DIGITS, "--attack", "pgd", "--gradient", "eott"], "eot"),
    "negative eps": (["attack", "--dataset", "digits", "--eps", "-0.1"], "-0.1"),
    "eps in words": (["attack", "--dataset", "digits", "--eps", "small"], "small"),
    "eps over zero": (["attack", "--dataset", "digits", "--eps", "8/0"], "8/0"),
    "infinite eps": (["attack", "--dataset", "digits", "--eps", "inf"], "inf"),
    "no default eps": (["attack", "--dataset", "digits"], "--eps"),
    "no steps": ([*DIGITS, "--set", "pgd.steps=0"], "pgd.steps=0"),
    "steps in words": ([*DIGITS, "--set", "pgd.steps=many"], "many"),
    "negative step": ([*DIGITS, "--set", "pgd.step_size=-1"], "step_size"),
    "unknown parameter": ([*DIGITS, "--set", "pgd.step=3"], "steps"),
    "unknown loss": ([*DIGITS, "--set", "pgd.loss=cce"], "ce"),
    "setting of another attack": ([*DIGITS, "--attack", "fgsm", "--set", "pgd.steps=3"], "pgd"),
    "limit 0": ([*DIGITS, "--limit", "0"], "--limit"),
    "m 0": ([*DIGITS, "--model", "rcnn", "--m", "0"], "--m"),
    "negative beta2": ([*DIGITS, "--beta2", "-1"], "beta2"),
    "knob of another model": ([*DIGITS, "--model", "cnn", "--beta2", "1"], "beta2"),
    "no such device": ([*DIGITS, "--device", "tpu"], "tpu"),
    "examples nowhere": ([*DIGITS, "--save-examples"], "--out"),
    "no view": ([*DIGITS, "--attack", "pgd", "--gradient", "none"], "none"),
    "negative m": ([*DIGITS, "--m", "-3"], "--m"),
    "m of a plain model": ([*DIGITS, "--model", "cnn", "--m", "7"], "--m"),
    "negative seed": (["train", "rcnn", "--dataset", "digits", "--out", "a.safetensors", "--seed", "-1"], "--seed"),
    "no learning": (["train", "rcnn", "--dataset", "digits", "--out", "a.safetensors", "--lr", "0"], "lr = 0"),
    "unknown recipe": (["train", "rcn", "--out", "a.safetensors"], "rcnn"),
    "weights name": (["train", "rcnn", "--out", "a.pt"], "safetensors"),
}


@pytest.mark.parametrize("case", USAGE, ids=str)
def test_a_wrong_command_line_gets_one_line_and_exit_2(cli, case):
    arguments, named = USAGE[case]
    done = cli(*arguments)
    assert done.returncode == 2, done.stderr
    assert named in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    assert len([line for line in done.stderr.splitlines() if line.startswith(("error", "Error"))]) == 1


class Bomb:
    """Writes a file when it is unpickled."""

    def __reduce__(self):
        return (Path.write_text, (Path("exploded"), "boom"))


def write_bad_files(folder: Path) -> None:
    (folder / "pickle.pt").write_bytes(pickle.dumps(Bomb()))
    (folder / "cut.safetensors").write_bytes(b"\x10\x00\x00\x00\x00\x00\x00\x00{}")
    (folder / "broken.py").write_text("def build():\n    raise RuntimeError('no weights here')\n")
    (folder / "nans.py").write_text(
        "import torch\ndef build():\n    return lambda x: torch.full((len(x), 10), float('nan'))\n"
    )
    (folder / "shapes.py").write_text("import torch\ndef build():\n    return lambda x: torch.zeros(len(x), 3, 3)\n")
    (folder / "three.py").write_text("import torch\ndef build():\n    return lambda x: torch.zeros(len(x), 3)\n")
    (folder / "exits.py").write_text("import sys\ndef build():\n    sys.exit(0)\n")
    (folder / "ints.py").write_text(
        "import torch\ndef build():\n    return lambda x: torch.zeros(len(x), 10, dtype=torch.int64)\n"
    )
    x, y = np.full((4, 8, 8, 1), 0.5, np.float32), np.array([0, 1, 2, 3])
    np.savez(folder / "labels.npz", x=x, y=np.array([0, 1, 2, -3]))
    np.savez(folder / "bright.npz", x=x * 255, y=y)
    np.savez(folder / "empty.npz", x=x[:0], y=y[:0])
    np.savez(folder / "pickle.npz", x=np.array([Bomb()] * 4, object), y=y)
    np.savez(folder / "eleven.npz", x=x, y=np.array([0, 1, 2, 10]))


UNANSWERABLE = {
    "missing weights": (["--model", "none.safetensors"], "none.safetensors"),
    "truncated weights": (["--model", "cut.safetensors"], "cut.safetensors"),
    "pickled weights": (["--model", "pickle.pt"], "pickled"),
    "missing module": (["--model", "nowhere:build"], "nowhere"),
    "missing factory": (["--model", "broken:make"], "make"),
    "failing factory": (["--model", "broken:build"], "no weights here"),
    "NaN logits": (["--model", "nans:build"], "NaN"),
    "wrong output": (["--model", "shapes:build"], "(4, 3, 3)"),
    "too few classes": (["--model", "three:build"], "3 outputs"),
    "missing data": (["--dataset", "npz:none.npz"], "none.npz"),
    "label out of range": (["--dataset", "npz:labels.npz"], "labels.npz"),
    "pixels outside the box": (["--dataset", "npz:bright.npz"], "[0,1]"),
    "empty data": (["--dataset", "npz:empty.npz"], "empty.npz"),
    "pickled data": (["--dataset", "npz:pickle.npz"], "pickle.npz"),
    "more labels than outputs": (["--dataset", "npz:eleven.npz", "--model", "tens:build"], "10 outputs"),
    "a module that exits": (["--model", "exits:build"], "SystemExit"),
    "whole-number logits": (["--model", "ints:build"], "int64"),
    "json nowhere": (["--json", "nowhere/run.json"], "nowhere"),
    "json to a folder": (["--json", "."], "--json"),
    "json without a name": (["--json", ""], "--json"),
    "missing folder": (["--dataset", "folder:nowhere"], "nowhere"),
}


@pytest.mark.parametrize("case", UNANSWERABLE, ids=str)
def test_what_cannot_be_answered_gets_one_line_and_exit_3(cli, tmp_path, case):
    write_bad_files(tmp_path)
    (tmp_path / "tens.py").write_text("import torch\ndef build():\n    return lambda x: torch.zeros(len(x), 10)\n")
    arguments, named = UNANSWERABLE[case]
    done = cli("attack", "--dataset", "digits", "--model", "rcnn", "--eps", "0.1", "--limit", "4", *arguments)
    assert done.returncode == 3, done.stderr
    assert named in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "exploded").exists()


def test_weights_of_another_data_set(cli, tmp_path):
    from rbfbench.defenses import shipped_path

    done = cli(*DIGITS, "--model", str(shipped_path("rcnn", "mnist")))
    assert done.returncode == 3
    assert "Traceback" not in done.stderr


def test_a_run_folder_that_holds_something_else_is_refused(cli, tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.png").write_bytes(b"meow")
    done = cli(*DIGITS, "--out", "photos")
    assert done.returncode == 3
    assert (tmp_path / "photos" / "cat.png").read_bytes() == b"meow"


@pytest.mark.parametrize("code", ["0", "1", "'out of licences'"])
@pytest.mark.parametrize("command", ["attack", "certify", "check"])
def test_a_model_that_exits_while_it_answers_is_no_verdict(cli, tmp_path, command, code):
    (tmp_path / "exits.py").write_text(
        "import sys, torch\nclass Model(torch.nn.Module):\n    calls = 0\n"
        "    def forward(self, x):\n"
        "        self.calls += 1\n"
        f"        if self.calls > 3:\n            sys.exit({code})\n"
        "        return x.flatten(1)[:, :10]\n"
    )
    more = {
        "attack": ("--eps", "0.1", "--attack", "fgsm"),
        "certify": ("--n", "20"),
        "check": ("--eps", "0.1", "--attack", "fgsm", "--min-accuracy", "linf=0.99"),
    }[command]
    asked = ("--model", "exits:Model", "--dataset", "digits", "--limit", "4", "--device", "cpu", "--json", "found.json")
    done = cli(command, *asked, *more)
    assert done.returncode == 3, done.stderr
    assert done.stdout == ""
    described, error = done.stderr.strip().splitlines()
    assert described.startswith("exits:Model: ")
    assert error.startswith("error: ")
    assert f"SystemExit: {code.strip(chr(39))}" in error
    assert not (tmp_path / "found.json").exists()


@pytest.mark.parametrize(
    "words", [("ls",), ("--help",), ("attack", "--help"), (*DIGITS, "--attack", "fgsm", "--json", "-")]
)
def test_a_reader_that_goes_away_is_no_verdict(tmp_path, words):
    listing = subprocess.Popen([RBFBENCH, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=env(tmp_path))
    listing.stdout.close()
    assert listing.wait(timeout=60) == 0
    err = listing.stderr.read()
    assert b"Traceback" not in err
    assert b"error" not in err


@pytest.mark.parametrize("form", [(), ("--json", "-"), ("--json", "gate.json", "--github")])
@pytest.mark.parametrize(
    ("least", "gradient", "code"), [("0.99", "eot", 1), ("0", "eot", 0), ("0", "static", 3), ("0.99", "static", 1)]
)
def test_a_gate_stands_though_the_reader_of_its_table_went_away(tmp_path, form, least, gradient, code):
    attacked = ("--attack", "fgsm", "--gradient", gradient)
    asked = ["check", *DIGITS[1:], *attacked, "--min-accuracy", f"linf={least}", "--junit", "gate.xml"]
    gate = subprocess.Popen(
        [RBFBENCH, *asked, *form], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=env(tmp_path)
    )
    gate.stdout.close()
    _, err = gate.communicate(timeout=120)
    assert gate.returncode == code, err
    assert b"Traceback" not in err
    assert "<testsuite" in (tmp_path / "gate.xml").read_text()
    assert (tmp_path / "gate.json").exists() == ("gate.json" in form)


def test_a_foreign_random_model_is_attacked_through_its_noise(cli, tmp_path):
    (tmp_path / "mine.py").write_text(
        "import torch\nfrom torch import nn\nclass M(nn.Module):\n"
        "    def __init__(self):\n        super().__init__()\n        self.f = nn.Linear(64, 10)\n"
        "    def forward(self, x):\n        return self.f(x.flatten(1) + 0.1 * torch.randn(len(x), 64))\n"
        "def build():\n    torch.manual_seed(0)\n    return M()\n"
    )
    done = cli(*DIGITS, "--model", "mine:build", "--attack", "pgd", "--set", "pgd.steps=2", "--json", "-")
    assert done.returncode == 0, done.stderr
    assert [row["id"] for row in json.loads(done.stdout)["attacks"]] == ["pgd/eot"]


# Interrupts -----------------------------------------------------------------------------------------------------------
def test_ctrl_c_keeps_what_is_done_and_exits_130(tmp_path):
    arguments = ["attack", "--dataset", "digits", "--eps", "0.1", "--limit", "all", "--out", "run"]
    process = subprocess.Popen(
        [RBFBENCH, *arguments, "--set", "pgd-margin.steps=100000"],
        cwd=tmp_path,
        env=env(tmp_path),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # Jobs in the background of a shell ignore the signal, and so would their children.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    cells = tmp_path / "run" / "cells"
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not (cells.is_dir() and len(list(cells.glob("[!.]*"))) >= 2):
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "Traceback" not in err
    assert "fgsm/static" in out
    run = json.loads((tmp_path / "run" / "run.json").read_text())
    assert run["status"] == "started"
    assert len(run["attacks"]) >= 2
