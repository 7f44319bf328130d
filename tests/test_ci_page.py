"""docs/ci.md does what it says: its commands run in their order, and its numbers are those of the test."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from click.testing import CliRunner

from rbfbench.cli import cli
from rbfbench.results.gate import visible
from rbfbench.results.paired import mcnemar

PAGE = (Path(__file__).parents[1] / "docs" / "ci.md").read_text(encoding="utf-8")
SPOKEN = " ".join(PAGE.split())


def test_the_commands_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RBFBENCH_DATA_ROOT", str(tmp_path / "none"))
    blocks = re.findall(r"```(\w*)\n(.*?)```", PAGE, re.DOTALL)
    commands = [shlex.split(line) for language, block in blocks if not language for line in block.splitlines()]
    assert [command[1] for command in commands] == ["attack", "baseline", "baseline", "check", "check"]
    (settings,) = [block for language, block in blocks if language == "toml"]
    for command in commands:
        if "--gate" in command:
            Path("rbfbench.toml").write_text(settings)
        done = CliRunner().invoke(cli, command[1:])
        assert done.exit_code == 0, (command, done.output, done.exception)
    assert (tmp_path / "gate.xml").is_file()
    assert "PASSED" in done.stdout


def test_the_worked_example_is_right():
    assert f"2^-6 = {mcnemar(6, 0):.3f}" in SPOKEN
    assert f"in {mcnemar(30, 24):.3f} of all cases" in SPOKEN
    assert pytest.approx(0.012) == (231 - 225) / 500
    assert f"0.05 / 3 = {0.05 / 3:.4f}" in SPOKEN
    assert mcnemar(6, 0) < 0.05 / 3
    assert [visible(n, 0, 0.05) for n in (100, 500, 10_000)] == [0.05, 0.01, 0.0005]
    assert "5 points of 100 images, 1 of 500 and 0.05 of 10,000" in SPOKEN


def test_the_yaml_blocks_name_options_that_there_are():
    command = cli.get_command(None, "check")
    options = {opt for parameter in command.params for opt in parameter.opts}
    for line in re.findall(r"rbfbench check (.*)", PAGE):
        assert set(re.findall(r"--[a-z-]+", line)) <= options
