"""Runs that are killed, share a folder, or find no room: the end is the same, and nothing half-done is believed."""

from __future__ import annotations

import errno
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rbfbench.errors import LoadError
from rbfbench.results.store import read_run, read_samples

RBFBENCH = Path(sys.executable).with_name("rbfbench")
QUESTION = (
    *("attack", "--dataset", "digits", "--model", "rcnn", "--eps", "0.1", "--limit", "40", "--device", "cpu"),
    *("--suite", "quick", "--set", "pgd.steps=40"),
)
posix = pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals")


def begin(place: Path, out: str) -> subprocess.Popen[str]:
    environment = os.environ | {"RBFBENCH_DATA_ROOT": str(place / "no-data"), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [RBFBENCH, *QUESTION, "--out", out],
        cwd=place,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def numbers(folder: Path) -> tuple:
    """All that must not depend on how the run came to its end; times and the machine's state do."""
    run = json.loads((folder / "run.json").read_text())
    for row in run["attacks"]:
        del row["wall_s"]
    return run["status"], run["clean"], run["attacks"], run["worst_case"], run["null_attack"], read_samples(folder)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> tuple[float, tuple]:
    """Seconds of a run, and what it finds."""
    place = tmp_path_factory.mktemp("undisturbed")
    began = time.monotonic()
    process = begin(place, "run")
    _, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    return time.monotonic() - began, numbers(place / "run")


@posix
@pytest.mark.parametrize("seed", [0, 1])
def test_killed_at_random_moments_it_comes_to_the_same_end(undisturbed, tmp_path, seed):
    seconds, expected = undisturbed
    rng, killed = random.Random(seed), 0
    for _ in range(4):
        process = begin(tmp_path, "run")
        try:
            process.communicate(timeout=rng.uniform(0.1, 0.7) * seconds)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.communicate()
            killed += 1
    assert killed
    process = begin(tmp_path, "run")
    _, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert numbers(tmp_path / "run") == expected


def test_two_processes_in_one_folder_come_to_the_same_end(undisturbed, tmp_path):
    processes = [begin(tmp_path, "run") for _ in range(2)]
    for process in processes:
        _, err = process.communicate(timeout=300)
        assert process.returncode == 0, err
    assert numbers(tmp_path / "run") == undisturbed[1]


def test_a_full_disk_is_one_line_and_loses_no_finished_attack(here, monkeypatch):
    fsync, calls = os.fsync, []

    def full(handle: int) -> None:
        calls.append(handle)
        if len(calls) > 12:
            raise OSError(errno.ENOSPC, "No space left on device")
        fsync(handle)

    small = ("attack", "--dataset", "digits", "--model", "cnn", "--eps", "0.1", "--limit", "10", "--device", "cpu")
    expected = here(*small, "--out", "whole")
    assert expected.exit_code == 0, expected.output
    monkeypatch.setattr(os, "fsync", full)
    stopped = here(*small, "--out", "run")
    assert isinstance(stopped.exception, LoadError)
    assert stopped.exception.exit_code == 3
    assert "No space left on device" in str(stopped.exception)
    assert "\n" not in str(stopped.exception)
    monkeypatch.setattr(os, "fsync", fsync)
    kept = [path for path in Path("run/cells").iterdir() if not path.name.startswith(".")]
    assert kept, "what was finished before is kept"
    stamps = {path: path.stat().st_mtime_ns for path in kept}
    assert here(*small, "--out", "run").exit_code == 0
    assert {path: path.stat().st_mtime_ns for path in kept} == stamps, "and is not computed again"
    assert numbers(Path("run")) == numbers(Path("whole"))


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_may_not_be_written_is_one_line(here, tmp_path):
    (tmp_path / "locked").mkdir(mode=0o500)
    done = here(
        "attack", "--dataset", "digits", "--model", "cnn", "--eps", "0.1", "--limit", "3", "--out", "locked/run"
    )
    assert isinstance(done.exception, LoadError)
    assert "locked" in str(done.exception)


def test_a_damaged_cell_is_named_and_made_again(here, tmp_path, capfd):
    small = ("attack", "--dataset", "digits", "--model", "cnn", "--eps", "0.1", "--limit", "10", "--device", "cpu")
    assert here(*small, "--out", "run").exit_code == 0
    expected = numbers(tmp_path / "run")
    cell = sorted((tmp_path / "run" / "cells").iterdir())[0]
    cell.write_bytes(cell.read_bytes()[:40])
    again = here(*small, "--out", "run")
    assert again.exit_code == 0
    assert cell.name in again.stderr + capfd.readouterr().err
    assert numbers(tmp_path / "run") == expected


def test_no_time_is_taken_from_a_clock_that_can_be_set_back():
    """Only `time.monotonic` is used: neither resuming nor durations depend on the time of day."""
    package = Path(__file__).parents[2] / "rbfbench"
    text = {path: path.read_text(encoding="utf-8") for path in package.rglob("*.py")}
    assert [path for path, source in text.items() if re.search(r"time\.time\(|datetime\.now|\.st_mtime", source)] == []


def test_an_unfinished_folder_is_no_result(here, tmp_path):
    small = ("attack", "--dataset", "digits", "--model", "cnn", "--eps", "0.1", "--limit", "10", "--device", "cpu")
    assert here(*small, "--out", "run").exit_code == 0
    (tmp_path / "run" / "run.json").unlink()
    for words in (("check", "run", "--min-accuracy", "0.1"), ("report", "run"), ("compare", "run", "run")):
        done = here(*words)
        assert getattr(done.exception, "exit_code", None) == 3, words
    assert here(*small, "--out", "run").exit_code == 0
    assert read_run(tmp_path / "run").status == "complete"
