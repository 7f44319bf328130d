"""The README's Python runs as it stands, and its accuracies are those of the cards."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from cards import cards

from rbfbench.defenses import SHIPPED

README = Path(__file__).parents[1] / "README.md"


def blocks() -> list[str]:
    return re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)


@pytest.mark.filterwarnings("ignore")
def test_the_lines_for_art_and_foolbox_run(capsys):
    _, art, foolbox = blocks()
    for block in (art, foolbox):
        exec(compile(block, "README.md", "exec"), {})
        left = float(re.search(r"[\d.]+", capsys.readouterr().out)[0])
        assert 0 <= left < 1  # of eight images; without attack, seven or eight are right


def test_the_five_lines_run(capsys):
    block, *_ = blocks()
    # Ten images instead of a hundred: the same code, sooner.
    assert "batch(0, 100)" in block
    exec(compile(block.replace("batch(0, 100)", "batch(0, 10)"), "README.md", "exec"), {})
    accuracy, interval = re.fullmatch(r"([\d.]+) \((.*)\)\s*", capsys.readouterr().out).groups()
    low, high = map(float, interval.split(", "))
    assert 0 <= low <= float(accuracy) <= high <= 1


DATA = {"cifar10": "CIFAR-10", "mnist": "MNIST", "digits": "digits"}


def test_the_accuracies_are_those_of_the_cards():
    """All that is shipped, and nothing else: the lines expected are the ones to put there."""
    found = cards()
    expected = [
        f"| `{model}` | {title} | {found[model, dataset].noisy} | {found[model, dataset].quiet} "
        f"| {found[model, dataset].n:,} |".replace("|  |", "| |")
        for dataset, title in DATA.items()
        for model in SHIPPED
        if (model, dataset) in found
    ]
    lines = README.read_text(encoding="utf-8").splitlines()
    start = lines.index("| model | data | clean, beta2 1.75 and m 10 | clean, beta2 0 | images |") + 2
    assert lines[start : lines.index("", start)] == expected, "\n".join(["the README should say", *expected])
