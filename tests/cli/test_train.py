"""`rbfbench train` in a subprocess: weights, card, refusal to lose a checkpoint, resuming after a kill."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

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
    assert "rbfbench train rcnn --dataset digits --epochs 3" in card
    recipe = json.loads(card.split("```json")[1].split("```")[0])
    assert recipe["schedule"]["epochs"] == 3
    assert recipe["rbf"]["beta2"] == 1.75
    attacked = subprocess.run(
        command("attack", "--model", "mine.safetensors", "--dataset", "digits", "--eps", "0.1", "--json", "-"),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(attacked.stdout)["model"]["stochastic"] is True


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
