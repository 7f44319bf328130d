"""docs/models.md does what it says: its files are written, its commands run, its Python executes, in its order."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import rbfbench
from rbfbench.cli.models import FORMS
from rbfbench.interop.preprocessings import PREPROCESSINGS
from rbfbench.plugins import GROUPS

PAGE = (Path(__file__).parents[1] / "docs" / "models.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"```(python|)\n(.*?)```", re.DOTALL)


@pytest.fixture(scope="module")
def ran(tmp_path_factory) -> dict[str, str]:
    """What each command, and each piece of Python by its last line, printed on stdout."""
    folder = tmp_path_factory.mktemp("page")
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
    environment = os.environ | {"PATH": path, "PYTHONWARNINGS": "ignore"}
    printed = {}
    for language, text in BLOCK.findall(PAGE):
        if named := re.match(r"# (\w+\.py)\n", text):
            (folder / named[1]).write_text(text)
            continue
        commands = [shlex.split(line) for line in text.splitlines()] if not language else [["python", "-c", text]]
        for command in commands:
            done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
            assert done.returncode == 0, (command, done.stderr)
            printed[" ".join(command) if not language else text] = done.stdout
    return printed


def accuracy(printed: str, row: str) -> float:
    return float(re.search(rf"^{re.escape(row)} .*?([\d.]+)%", printed, re.MULTILINE)[1])


def test_models_and_commands_of_the_page_are_attacked(ran):
    tables = {command: text for command, text in ran.items() if command.startswith("rbfbench attack")}
    assert len(tables) == 5
    assert "pgd/static" in ran["rbfbench compare plain jpeg"]
    by_file, by_art, served, jpeg, plain = tables.values()
    assert accuracy(by_file, "clean") == accuracy(by_art, "clean") > 80  # one net, normalised by flags and by ART
    assert accuracy(by_file, "WORST CASE") == pytest.approx(accuracy(by_art, "WORST CASE"), abs=2.1)  # of 50 images
    assert "noise" in served
    assert accuracy(jpeg, "pgd/bpda") < accuracy(jpeg, "clean")
    assert "art:jpeg 50 + cnn" in jpeg
    assert accuracy(plain, "pgd/static") < accuracy(plain, "clean")


def test_the_lines_for_estimators_print_accuracies(ran):
    said = [float(re.search(r"[\d.]+", text)[0]) for piece, text in ran.items() if "Linf" in piece or "Proj" in piece]
    assert len(said) == 2
    y = rbfbench.load_data("digits").batch(0, 8)[1]
    assert all(share * len(y) == pytest.approx(round(share * len(y)), abs=1e-3) for share in said)
    assert all(0 <= share < 1 for share in said)


def test_the_page_names_all_there_is():
    for name in (*PREPROCESSINGS, *(f"rbfbench.{group}" for group in GROUPS)):
        assert name in PAGE
    for form in (".onnx", "timm:NAME", "cmd:COMMAND", ".safetensors"):
        assert form in FORMS
        assert form in PAGE
