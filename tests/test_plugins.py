"""Other packages' attacks, defences and data sets, announced as entry points by a package made for the test."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

MODULE = """
import numpy as np
import rbfbench
from rbfbench.attacks import ATTACKS, AttackInfo, Parameter


def build():
    return rbfbench.load_model("cnn", "digits")


def data():
    images = rbfbench.load_data("digits")
    return images.pixels[:20], images.labels[:20], [f"digit {i}" for i in range(10)]


def broken_data():
    raise OSError("the disk is gone")


def step(oracle, x, y, *, norm, eps, rng, scale):
    return (x + scale * eps).clamp(0, 1)


attack = AttackInfo(
    function="their_package:step",
    norms=("linf",),
    gradient=False,
    parameters={"scale": Parameter(0.5, "float", 0.0, most=1.0)},
    passes=lambda p: (0, 0),
    reference="none",
    about="brighter",
)
not_an_attack = 3
"""

ENTRIES = """
[rbfbench.defenses]
theirs = their_package:build
gone = their_package:missing
[rbfbench.attacks]
brighter = their_package:attack
bad-attack = their_package:not_an_attack
[rbfbench.datasets]
twenty = their_package:data
bad-data = their_package:broken_data
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """A folder on the path with an installed package in it."""
    folder = tmp_path_factory.mktemp("site")
    (folder / "their_package.py").write_text(MODULE)
    info = folder / "their_package-1.2.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: their-package\nVersion: 1.2\n")
    (info / "entry_points.txt").write_text(ENTRIES)
    return folder


def run(site: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", "from rbfbench.cli import main; main()", *arguments],
        env=os.environ | {"PYTHONPATH": str(site), "RBFBENCH_DATA_ROOT": str(site / "none")},
        capture_output=True,
        text=True,
        check=False,
    )


def test_plugins_work_by_name_alone_and_are_recorded(site):
    asked = ("--model", "theirs", "--dataset", "twenty", "--attack", "brighter", "--set", "brighter.scale=1")
    done = run(site, "attack", *asked, "--eps", "0.3", "--device", "cpu", "--json", "-")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["clean"]["n"] == 20
    assert document["spec"]["source"] == "images of their-package 1.2"
    (row,) = document["attacks"]
    assert row["id"] == "brighter"
    assert row["params"] == {"scale": 1.0}
    assert row["unmoved"] == 0


def test_plugins_are_listed_without_importing_them(site):
    done = run(site, "ls", "plugins")
    assert done.returncode == 0, done.stderr
    for name in ("theirs", "brighter", "twenty", "their-package 1.2"):
        assert name in done.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("--model", "gone"), 3, "cannot load the plugin gone: importing their_package:missing raised AttributeError"),
        (("--attack", "bad-attack"), 3, "the plugin bad-attack is no attack: their_package:not_an_attack is int"),
        (("--dataset", "bad-data"), 3, "their_package:broken_data() raised OSError: the disk is gone"),
        (("--attack", "brigther"), 2, "did you mean 'brighter'?"),
        (("--model", "their"), 2, "did you mean 'theirs'?"),
        (("--dataset", "twentyy"), 2, "did you mean 'twenty'?"),
    ],
)
def test_plugins_that_fail_are_told_in_one_line(site, arguments, code, words):
    given = {"--model": "cnn", "--dataset": "digits", "--attack": "noise"} | {arguments[0]: arguments[1]}
    done = run(site, "attack", *(part for pair in given.items() for part in pair), "--eps", "0.1", "--device", "cpu")
    assert done.returncode == code, done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error")]
    assert words in line


def test_two_packages_with_one_name_are_told_apart(site, tmp_path):
    (tmp_path / "other.py").write_text("")
    info = tmp_path / "other-3.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: other\nVersion: 3\n")
    (info / "entry_points.txt").write_text("[rbfbench.attacks]\nbrighter = other:attack\n")
    done = run(
        Path(f"{site}{os.pathsep}{tmp_path}"), "attack", "--dataset", "digits", "--attack", "brighter", "--eps", "0"
    )
    assert done.returncode == 2
    assert "two packages announce 'brighter'" in done.stderr
