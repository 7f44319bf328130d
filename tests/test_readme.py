"""The README's Python runs as it stands, and its accuracies are those of the cards."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path

import claims
import pytest
import results_page
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
        assert 0 <= left < 1  # of eight images


def test_the_five_lines_run(capsys):
    block, *_ = blocks()
    # Ten images instead of a hundred: the same code, sooner.
    assert "batch(0, 100)" in block
    exec(compile(block.replace("batch(0, 100)", "batch(0, 10)"), "README.md", "exec"), {})
    accuracy, interval, doubts = re.fullmatch(r"([\d.]+) \((.*?)\) (\[.*\])\n", capsys.readouterr().out).groups()
    assert all(isinstance(doubt, str) for doubt in ast.literal_eval(doubts))
    low, high = map(float, interval.split(", "))
    assert 0 <= low <= float(accuracy) <= high <= 1


def test_the_ratios_are_those_of_the_result_file():
    measured = json.loads((README.parent / "benchmarks" / "results" / "speed.json").read_text(encoding="utf-8"))
    expected = []
    for attack, row in measured["fixed"].items():
        ratio = row["ours_over"][row["fastest_peer"]]
        expected.append(
            f"| {attack} | {ratio['median']:.2f} ({ratio['low']:.2f} to {ratio['high']:.2f}) of {row['fastest_peer']} |"
        )
    lines = README.read_text(encoding="utf-8").splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("| attack, the same work")) + 2
    assert lines[start : lines.index("", start)] == expected, "\n".join(["the README should say", *expected])
    spent = measured["restarts"]["passes_per_image"]
    says = (
        f"5 restarts cost {spent['ours']:.0f} passes an image, {spent['foolbox']:.0f} in foolbox, {spent['ART']:.0f} in"
    )
    assert says in " ".join(lines)


def test_the_survivors_and_distances_are_those_of_the_result_file():
    measured = json.loads((README.parent / "benchmarks" / "results" / "parity.json").read_text(encoding="utf-8"))
    expected = [
        f"- AutoAttack standard, {measured['autoattack']['model']}, {row['norm']} {row['eps']:g}: of {row['n']} images "
        f"{row['ours']} survive ours and {row['pyautoattack']} pyautoattack's; "
        f"{row['only_ours_breaks'] + row['only_theirs_breaks']} are broken by one alone."
        for row in measured["autoattack"]["rows"]
    ]
    expected += [
        f"- {row['attack']}: median distance {row['ours']['median']:.4f}, foolbox {row['foolbox']['median']:.4f}, for "
        f"{row['ours']['forwards_per_image']:.0f} and {row['foolbox']['forwards_per_image']:.0f} forward passes an "
        "image."
        for row in measured["distances"]["rows"]
    ]
    lines = README.read_text(encoding="utf-8").splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("- AutoAttack standard"))
    assert lines[start : lines.index("", start)] == expected, "\n".join(["the README should say", *expected])


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


def test_what_suites_miss_is_of_the_result_files():
    tables = {result["table"]: result["columns"] for result in results_page.results() if result["dataset"] == "mnist"}
    some, more = tables["beyond-l2"]["madry"], tables["autoattack-l2"]["madry"]
    rows = {row: found["k"] for row, found in more["rows"].items()}
    assert some["clean"]["n"] == more["clean"]["n"] == some["rows"]["square"]["n"] == 100
    left = f"`madry` {some['worst_case']['k']:g}, and `autoattack` {more['worst_case']['k']:g}"
    assert (
        f"{left}, where FAB takes it from {rows['apgd-t/static']:g} to {rows['fab-t/static']:g}." in README.read_text()
    )


def test_the_verdicts_are_counted_from_the_result_files():
    found = results_page.results()
    for dataset in results_page.DATASETS:
        tables = {result["table"]: result["columns"] for result in found if result["dataset"] == dataset}
        counted = results_page.in_short(list(claims.judged(dataset, tables)), {}).removeprefix("Of")
        assert f"\n- {dataset}, of{counted}\n" in README.read_text(encoding="utf-8"), counted


def test_the_headline_table_is_of_the_result_files():
    expected = list(results_page.headline(results_page.results()))
    lines = README.read_text(encoding="utf-8").splitlines()
    start = lines.index(expected[0])
    assert lines[start : lines.index("", start)] == expected, "\n".join(["the README should say", *expected])
