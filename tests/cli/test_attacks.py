"""Attacks and suites from the command line, on the digits: cost, survivors, surrogates, and what is told apart."""

from __future__ import annotations

import json

import pytest
from click.testing import Result

from rbfbench.attacks import ATTACKS, AVERAGING, SUITES, load_suite
from rbfbench.errors import ModelError, UsageError

DIGITS = ("attack", "--dataset", "digits", "--device", "cpu", "--eps", "0.1", "--limit", "12")


def document(done: Result) -> dict:
    assert done.exit_code == 0, (done.output, done.exception)
    return json.loads(done.stdout)


def test_a_dry_run_says_what_the_run_would_cost_and_runs_nothing(here, tmp_path):
    done = here(*DIGITS, "--model", "cnn", "--suite", "quick", "--dry-run", "--out", "run")
    assert done.exit_code == 0, done.output
    assert "pgd/static" in done.stdout
    assert "passes" in done.stdout
    assert not (tmp_path / "run").exists()
    run = document(here(*DIGITS, "--model", "cnn", "--suite", "quick", "--json", "-"))
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("pgd/static")]
    cells = line.split()
    (row,) = [row for row in run["attacks"] if row["id"] == "pgd/static"]
    assert (int(cells[2]), int(cells[3])) == (row["forwards"], row["backwards"])


def test_survivors_only_is_the_same_worst_case_for_fewer_passes(here):
    whole, spare = (
        document(here(*DIGITS, "--model", "cnn", "--eps", "0.15", *flag, "--json", "-"))
        for flag in ((), ("--worst-case",))
    )
    assert spare["worst_case"]["k"] == whole["worst_case"]["k"]
    assert all(row["cumulative_accuracy"] is None for row in whole["attacks"])
    accuracies = [row["cumulative_accuracy"] for row in spare["attacks"]]
    assert accuracies == sorted(accuracies, reverse=True)
    assert accuracies[-1] == spare["worst_case"]["accuracy"] < spare["clean"]["accuracy"]


def test_transfer_from_an_ensemble_stays_out_of_the_worst_case_unless_let_in(here):
    named = ("--attack", "transfer", "--surrogate", "cnn", "--surrogate", "rcnn", "--json", "-", "--model", "cnn-ls")
    run = document(here(*DIGITS, *named))
    assert run["worst_case"] is None
    assert run["spec"]["surrogates"] == ["cnn", "rcnn"]
    (row,) = run["attacks"]
    assert row["category"] == "transfer"
    assert row["accuracy_of_right"] == pytest.approx(row["k"] / run["clean"]["k"])
    included = document(here(*DIGITS, *named, "--include-transfer"))
    assert included["worst_case"]["k"] == row["k"]


def test_the_default_surrogate_is_the_undefended_net_and_its_likeness_is_told(here):
    run = document(here(*DIGITS, "--attack", "transfer", "--model", "cnn", "--json", "-"))
    assert "surrogate-is-target" in {check["code"] for check in run["checks"] if check["fired"]}


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        (("--surrogate", "cnn"), UsageError, "no row transfers"),
        (("--include-transfer",), UsageError, "no row transfers"),
        (("--attack", "square", "--gradient", "eot"), UsageError, "follow no gradient"),
        (("--attack", "ead"), UsageError, "does not serve linf"),
        (("--suite", "paper-l1"), UsageError, "does not serve linf"),
        (("--attack", "pgd", "--set", "pgd.steps=0"), UsageError, "at least 1"),
        (("--attack", "pgd", "--set", "pgd.step_size=-0.1"), UsageError, "makes no sense"),
        (("--attack", "apgd-t", "--set", "apgd-t.targets=0"), UsageError, "at least 1"),
        (("--attack", "pgd", "--gradient", "eot", "--model", "cnn"), ModelError, "none of the attacks"),
        (("--suite", "autoattack-rand", "--model", "cnn"), ModelError, "none of the attacks"),
        (("--cap", "fgsm"), UsageError, "not ATTACK=N"),
        (("--cap", "fgsm=0"), UsageError, "N above 0"),
        (("--cap", "fgsm=two"), UsageError, "N above 0"),
        (("--cap", "spsa=5"), UsageError, "attack of this run"),
        (("--suite", "autoatack"), UsageError, "did you mean 'autoattack"),
        (("--attack", "autoattack"), UsageError, "write --suite autoattack"),
        (("--attack", "pgd-margin"), UsageError, "write --attack pgd --set pgd.steps=20 --set pgd.loss=margin"),
        (("--attack", "fgsm/static"), UsageError, "write --attack fgsm --gradient static"),
        (("--attack", "PGD"), UsageError, "did you mean 'pgd'"),
    ],
)
def test_what_cannot_be_is_told_and_never_another_attack(here, arguments, error, words):
    done = here(*DIGITS, *arguments)
    assert isinstance(done.exception, error)
    assert words in str(done.exception)


def test_a_cap_takes_the_first_images_for_one_row_and_is_told(here):
    capped = ("--model", "cnn", "--suite", "quick", "--cap", "pgd-margin/static=5", "--cap", "fgsm=7", "--json", "-")
    run = document(here(*DIGITS, *capped))
    assert {row["id"]: row["n"] for row in run["attacks"]} == {
        "fgsm/static": 7,
        "pgd/static": 12,
        "pgd-margin/static": 5,
        "mi-fgsm/static": 12,
    }
    assert run["worst_case"]["n"] == 12
    assert run["spec"]["suite"] == "quick (changed)"
    alone = document(here(*DIGITS, "--model", "cnn", "--attack", "fgsm", "--cap", "fgsm=7", "--json", "-"))
    assert alone["worst_case"]["n"] == alone["attacks"][0]["n"] == 7
    assert alone["attacks"][0]["k"] == run["attacks"][0]["k"]


def test_more_targets_than_classes_is_a_stated_no_op(here):
    settings = ("--set", "apgd-t.targets=50", "--set", "apgd-t.steps=5")
    run = document(here(*DIGITS, "--model", "cnn", "--attack", "apgd-t", *settings, "--json", "-"))
    (check,) = [check for check in run["checks"] if check["code"] == "few-classes"]
    assert check["fired"]
    assert "50" in check["detail"]
    assert "9" in check["detail"]


def test_a_model_without_gradients_gets_the_black_box_suite_and_a_sentence(here, tmp_path):
    (tmp_path / "blunt.py").write_text(
        "import torch\n"
        "def build():\n"
        "    return lambda x: torch.nn.functional.one_hot((x.detach().mean((1, 2, 3)) * 9).long(), 10).float()\n"
    )
    done = here(*DIGITS[:-3], "0.5", "--limit", "3", "--model", "blunt:build", "--json", "-")
    assert document(done)["spec"]["suite"] == "black-box"
    assert "no gradient reaches" in done.stderr
    named = here(*DIGITS, "--model", "blunt:build", "--attack", "pgd")
    assert isinstance(named.exception, ModelError)
    assert "black-box" in str(named.exception)


SHORT = {"steps": 4, "restarts": 1, "queries": 40, "pairs": 2, "search_steps": 2, "targets": 2, "rounds": 4}


@pytest.mark.parametrize("suite", [name for name in SUITES if name != "autoattack-rand"])
def test_every_suite_runs_under_the_norms_it_is_for(here, suite):
    """With few steps: what is run, not how strong it is."""
    norm = {"paper-l1": "l1", "paper-l2": "l2"}.get(suite, "linf")
    rows = load_suite(suite, norm)
    attacks = {row.attack for row in rows}
    settings = [
        f"--set={attack}.{name}={value}"
        for attack in sorted(attacks)
        for name, value in SHORT.items()
        if name in ATTACKS[attack].parameters
    ]
    draws = ("--eot-samples", "2") if any(row.view in AVERAGING for row in rows) else ()
    few = (*DIGITS[:-1], "4", "--norm", norm, *draws, *settings)
    run = document(here(*few, "--suite", suite, "--json", "-"))
    assert [row["id"] for row in run["attacks"]] == [row.id for row in rows]
    assert run["status"] == "complete"
    assert not any(row["invalid"] or row["unknown"] for row in run["attacks"])
