"""The paper's tables: every command can be typed, every number of the paper finds its row, and the page shows both."""

from __future__ import annotations

import json
from pathlib import Path

import click
import paper
import pytest
import reproduce
import results_page

from rbfbench.attacks import load_suite
from rbfbench.cli import cli
from rbfbench.cli.plan import rows_of

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
TABLES = [(table, dataset) for table in (*reproduce.ATTACKED, "6", "7") for dataset in ("mnist", "cifar10")]


def parsed(words: tuple[str, ...]) -> tuple[str, dict]:
    command = cli.get_command(click.Context(cli), words[0])
    return words[0], command.make_context(words[0], list(words[1:])).params


@pytest.mark.parametrize(("table", "dataset"), [*TABLES, ("quick", "digits")])
def test_commands_can_be_typed(table, dataset):
    found = list(reproduce.jobs(table, dataset, 10, 1000))
    assert found
    assert len({job.name for job in found}) == len(found)
    for job in found:
        name, given = parsed(job.words)
        assert given["dataset"] == dataset
        if name == "attack":
            assert rows_of(given)


@pytest.mark.parametrize(("table", "dataset"), list(paper.PAPER))
def test_numbers_of_the_paper_are_of_rows_that_run(table, dataset):
    norm, suite = reproduce.ATTACKED[table]
    rows = {row.id for row in load_suite(suite, norm)} | {"clean"}
    assert set(paper.PAPER[table, dataset]) <= rows
    for by_model in paper.PAPER[table, dataset].values():
        assert set(by_model) <= set(reproduce.MODELS)
        assert all(value is None or 0 <= value <= 100 for value in by_model.values())


@pytest.mark.parametrize("dataset", list(paper.TRADE_OFF))
def test_numbers_of_the_trade_off_are_of_rows_that_run(dataset):
    ran: dict[str, set[str]] = {}
    for job in reproduce.jobs("7", dataset, 10, 1000):
        rows = {row.id for row in rows_of(parsed(job.words)[1])} | {"clean"}
        ran.setdefault(job.name.rpartition("=")[2], set()).update(rows)
    for beta2, numbers in paper.TRADE_OFF[dataset].items():
        assert set(numbers) <= ran[beta2]


def test_the_page_shows_ours_and_theirs_and_leaves_empty_what_was_not_run():
    def found(k: int, n: int = 100) -> dict:
        return {"accuracy": k / n, "k": k, "n": n, "ci95": [0.1, 0.9]}

    column = {
        "clean": found(98),
        "rows": {"pgd/static": found(40), "spsa": found(10, 50)},
        "worst_case": found(35),
        "null_attack": None,
        "checks": {"eight-bit": "x"},
        "command": "rbfbench attack",
        "wall_s": 12.4,
        "source": "test images",
        "environment": {"device": "cpu", "threads": 2, "torch": "2", "git": "abc"},
    }
    bare = column | {"rows": {"pgd/static": found(1)}, "checks": {}}
    text = results_page.page([{"table": "1", "dataset": "mnist", "columns": {"rcnn+": column, "cnn": bare}}])
    assert "| clean | 98.0 (10.0 to 90.0) paper 99.5 | 98.0 (10.0 to 90.0) |" in text
    assert "| pgd/static | 40.0 (10.0 to 90.0) paper 94.9 | 1.0 (10.0 to 90.0) |" in text
    assert "| spsa | 20.0 (10.0 to 90.0) paper 92.9, n 50 |  |" in text
    assert "fired: eight-bit" in text
    certificate = column | {"certified": [found(90) | {"radius": 0.5}], "ceiling": 1.09, "abstained": 3}
    text = results_page.page([{"table": "6", "dataset": "mnist", "columns": {"rcnn+ sigma=0.3": certificate}}])
    assert "| rcnn+ sigma=0.3 | 90.0 (10.0 to 90.0) paper 98 | 1.09 | 3 |" in text


def test_the_page_is_made_of_the_files():
    files = sorted((BENCHMARKS / "results").glob("table-*.json"))
    order = list(results_page.TITLES)
    results = [json.loads(path.read_text(encoding="utf-8")) for path in files]
    results.sort(key=lambda result: (order.index(result["table"]), result["dataset"]))
    made = (BENCHMARKS / "RESULTS.md").read_text(encoding="utf-8")
    assert made == results_page.page(results), "run python benchmarks/results_page.py"
