"""What --help shows: examples that can be copied line by line, and whole sentences in lists of commands."""

from __future__ import annotations

import shlex

import click
import pytest
from click.testing import CliRunner

from rbfbench.cli import cli

COMMANDS = ("attack", "compare", "figure", "sweep", "train")


def helped(*arguments: str) -> list[str]:
    done = CliRunner().invoke(cli, [*arguments, "--help"], terminal_width=78)
    assert done.exit_code == 0, done.output
    return done.output.splitlines()


@pytest.mark.parametrize("name", COMMANDS)
def test_examples_stand_on_lines_of_their_own_and_are_understood(name):
    lines = helped(name)
    examples = [line.strip() for line in lines if line.startswith("  rbfbench ")]
    assert len(examples) >= 2
    assert not [line for line in lines if "\\b" in line or len(line) > 80]
    for example in examples:
        program, command, *arguments = shlex.split(example)
        assert (program, command) == ("rbfbench", name)
        found = cli.get_command(click.Context(cli), name)
        while isinstance(found, click.Group):
            found = found.commands[arguments.pop(0)]
        assert found.make_context(name, arguments).params


def test_no_figure_is_described_by_half_a_sentence():
    text = "\n".join(helped("figure"))
    assert "..." not in text.partition("Commands:")[2]
    assert "(Fig.\n" not in f"{text}\n"
