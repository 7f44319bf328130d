"""The paper's tables: every command can be typed, every number of the paper finds its row, and the page shows both."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from types import SimpleNamespace

import claims
import click
import nearest
import outcomes
import paper
import pytest
import reproduce
import results_page
import torch
import train_models
import training_time
from click.testing import CliRunner
from reproduce import MODELS

from rbfbench.attacks import load_suite
from rbfbench.cli import cli
from rbfbench.cli.plan import rows_of
from rbfbench.data import load_training
from rbfbench.defenses import PRESET_NAMES, shipped_path
from rbfbench.errors import LoadError, UsageError
from rbfbench.results.intervals import score
from rbfbench.results.store import read_run, read_samples
from rbfbench.training.recipes import DATASETS, RECIPES, noise_of, schedule_of

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
TABLES = [(t, dataset) for t in reproduce.COMMANDS if t != "quick" for dataset in ("mnist", "cifar10")]
SCALES = ("full", "small")


def jobs_of(
    table: str, dataset: str, limit: int = 10, *, scale: str = "full", weights: Path | None = None
) -> Iterator[reproduce.Job]:
    return reproduce.jobs(reproduce.Plan(table, dataset, MODELS, limit, 1000, scale, weights))


def parsed(words: tuple[str, ...]) -> tuple[str, dict]:
    command, rest = cli.get_command(click.Context(cli), words[0]), list(words[1:])
    if isinstance(command, click.Group):
        command = command.get_command(click.Context(command), rest.pop(0))
    return words[0], command.make_context(words[0], rest).params


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize(("table", "dataset"), [*TABLES, ("quick", "digits"), ("quick", "mnist")])
def test_commands_can_be_typed(table, dataset, scale):
    found = list(jobs_of(table, dataset, scale=scale))
    assert found
    assert len({job.name for job in found}) == len(found)
    for job in found:
        name, given = parsed(job.words)
        assert given["dataset"] == dataset
        if name in ("attack", "sweep"):
            assert rows_of(given)


def test_claim_1_is_measured(tmp_path):
    job, *_ = jobs_of("claim-1", "mnist", 2)
    (column,) = reproduce.run(job, tmp_path, ()).values()
    assert column["n"] == 2
    assert {(row["norm"], row["kind"]) for row in column["ratios"]} == set(
        itertools.product(("linf", "l2", "l1"), ("random", "adversarial"))
    )
    text = "\n".join(results_page.section({"table": "claim-1", "dataset": "mnist", "columns": {"rcnn": column}}))
    row = column["ratios"][0]
    assert f"| rcnn | {row['norm']} | {row['eps']:g} | {row['kind']} | {row['mean']:.3f}" in text
    assert "2 images" in text


@pytest.mark.parametrize(("table", "dataset"), list(paper.PAPER))
def test_numbers_of_the_paper_are_of_rows_that_run(table, dataset):
    norm, suite = reproduce.ATTACKED[table]
    rows = {row.id for row in load_suite(suite, norm)} | {"clean"}
    assert set(paper.PAPER[table, dataset]) <= rows
    for by_model in paper.PAPER[table, dataset].values():
        assert set(by_model) <= set(MODELS)
        assert all(value is None or 0 <= value <= 100 for value in by_model.values())


@pytest.mark.parametrize(("table", "dataset"), list(paper.TRADE_OFF))
def test_numbers_of_the_trade_off_are_of_rows_that_run(table, dataset):
    ran: dict[str, set[str]] = {}
    for job in jobs_of(table, dataset):
        rows = {row.id for row in rows_of(parsed(job.words)[1])} | {"clean"}
        ran.setdefault(job.name.rpartition("=")[2], set()).update(rows)
    assert set(ran) == set(paper.BETA2[dataset])
    for row, by_noise in paper.TRADE_OFF[table, dataset].items():
        assert set(by_noise) == set(ran)
        for beta2, number in by_noise.items():
            assert number is None or (0 <= number <= 100 and row in ran[beta2])


def test_the_page_shows_ours_and_theirs_and_leaves_empty_what_was_not_run():
    def found(k: int, n: int = 100) -> dict:
        return {"accuracy": k / n, "k": k, "n": n, "ci95": [0.1, 0.9], "wall_s": 7.0}

    column = {
        "clean": found(98),
        "rows": {"pgd/static": found(40), "spsa": found(10, 50)},
        "worst_case": found(35),
        "null_attack": None,
        "checks": {"eight-bit": "x"},
        "command": "rbfbench attack",
        "wall_s": 12.4,
        "seed": 0,
        "source": "test images",
        "environment": {"device": "cpu", "threads": 2, "torch": "2", "git": "abc"},
    }
    bare = column | {"rows": {"pgd/static": found(1)}, "checks": {}}
    text = results_page.page([{"table": "1", "dataset": "mnist", "columns": {"rcnn+": column, "cnn": bare}}])
    assert "| | cnn | rcnn+ |" in text
    assert "| clean | 98.0 (10.0 to 90.0) | 98.0 (10.0 to 90.0) paper 99.5 |" in text
    assert "| pgd/static | 1.0 (10.0 to 90.0) | 40.0 (10.0 to 90.0) paper 94.9 |" in text
    assert "| spsa |  | 20.0 (10.0 to 90.0) paper 92.9, n 50 |" in text
    assert "fired: eight-bit" in text
    assert ", 14 s on cpu" in text, "two attacks of 7 s"
    certificate = {key: part for key, part in column.items() if key != "rows"} | {
        "certified": [found(90) | {"radius": 0.5}],
        "ceiling": 1.09,
        "abstained": 3,
        "n0": 100,
        "draws": 2000,
        "alpha": 0.001,
    }
    text = results_page.page([{"table": "6", "dataset": "mnist", "columns": {"rcnn+ sigma=0.3 n=2000": certificate}}])
    assert "| rcnn+ sigma=0.3 | 90.0 (10.0 to 90.0) paper 98 | 1.09 | 3 |" in text
    assert "100 draws choose a class and 2,000 count it, alpha 0.001" in text


def passed(random: float, adversarial: float) -> dict:
    """A column of Claim 1."""
    ratios = {"random": random, "adversarial": adversarial}
    rows = [{"norm": "l2", "eps": 2.0, "beta1": 25.0, "kind": kind, "mean": r, "largest": r, "n": 4}
            for kind, r in ratios.items()]  # fmt: skip
    return {"ratios": rows, "n": 4}


@pytest.mark.parametrize(
    ("random", "adversarial", "verdict"),
    [(0.3, 0.9, "reproduced"), (0.3, 1.1, "partly"), (1.2, 0.9, "partly"), (1.2, 1.1, "not reproduced")],
)
def test_a_change_is_mitigated_where_none_passes_whole(random, adversarial, verdict):
    found = next(claims.judged("mnist", {"claim-1": {"rcnn+": passed(random, adversarial)}}))
    assert found.verdict == verdict
    assert f"adversarial under l2 {adversarial:.2f} (at most {adversarial:.2f})" in found.evidence


def scored(k: int, n: int = 200) -> dict:
    found = score(k, n)
    return {"accuracy": found.accuracy, "k": k, "n": n, "ci95": found.ci95}


def evidence_of(tables: dict, claim: str) -> str:
    return next(each.evidence for each in claims.judged("mnist", tables) if each.claim == claim)


def verdicts(dataset: str, tables: dict) -> dict[str, str]:
    return {each.claim: each.verdict for each in claims.judged(dataset, tables)}


def as_in_the_paper(dataset: str, n: int) -> dict:
    """Tables as they would be had we found on n images what the paper says, and what follows where it says nothing."""

    def found(percent: float) -> dict:
        return scored(percent * n / 100, n)

    def attacked(table: str, model: str) -> dict:
        numbers = {row: by.get(model) for row, by in paper.PAPER[table, dataset].items()}
        rows = {row: found(percent) for row, percent in numbers.items() if percent is not None}
        return {"rows": rows, "checks": {}}

    def whole(norm: str, score: dict) -> dict:
        """A worst case over all that a random model can meet."""
        suite = claims.SUITES[norm]
        return score | {"tables": [f"beyond-{norm}", *(f"{suite} (rcnn+ {kind})" for kind in reproduce.TARGETED)]}

    strongest = {model: found(percent) for model, (percent, _) in paper.STRONGEST[dataset].items()}
    traded: dict[str, dict] = {}
    for table, (_, blind) in reproduce.TRADED.items():
        columns = traded[table] = {}
        for beta2 in paper.BETA2[dataset]:
            numbers = {row: by[beta2] for row, by in paper.TRADE_OFF[table, dataset].items() if row != "clean"}
            rows = {row: found(number) for row, number in numbers.items() if number is not None}
            adaptive = {row: rows.pop(row) for row in ("pgd/bpda-eot",) if row in rows}
            columns[f"rcnn+ beta2={beta2}"] = {"rows": rows}
            columns[f"rcnn+ adaptive, beta2={beta2}"] = {"rows": adaptive}
            sharp = "apgd-ce/eot" if float(beta2) else "apgd-ce/static"
            columns[f"rcnn+ stronger, beta2={beta2}"] = {
                "rows": {sharp: rows[f"{blind}/static"]},
                "worst_case": rows[f"{blind}/static"],
            }
    under = {norm: {model: attacked(f"5-{norm}", model) for model in claims.BOTH} for norm in ("l1", "l2")}
    norms = {
        f"3-{norm}": {
            model: min(column["rows"].values(), key=lambda row: row["accuracy"]) for model, column in columns.items()
        }
        | {"madry": found(10)}
        for norm, columns in under.items()
    }
    for norm in ("l1", "l2"):
        norms[f"3-{norm}"]["rcnn+"] = whole(norm, norms[f"3-{norm}"]["rcnn+"])
    strongest["rcnn+"] = whole("linf", strongest["rcnn+"])
    every, wide = {"rcnn+": found(60), "madry": found(10)}, paper.BOUNDS[dataset][1]
    certified = {"cnn": 10, "cnn-l": 10, "rcnn": 95, "rcnn ": 95, "rcnn+": 99}
    met = {
        f"{model} {kind}": {"rows": {f"{attack}/eot": found(99)}, "command": "rbfbench attack"}
        for model in ("rcnn+", "rcnn+-authors")
        for kind, attack in reproduce.TARGETED.items()
    }
    searched = {
        model: {"rows": {"square": found(99)}, "checks": {}, "command": "rbfbench attack"}
        for model in ("rcnn+", "rcnn+-authors")
    }

    static = {"apgd-dlr/static": attacked("1", "rcnn+")["rows"]["pgd/static"]}
    exact = {"pgd/eot": attacked("1", "rcnn+")["rows"]["pgd/bpda-eot"]}
    return norms | {
        "claim-1": {"rcnn+": passed(0.3, 0.9)},
        "1": {model: attacked("1", model) for model in claims.BOTH}
        | {
            "cnn-ls-noise": {
                "rows": {own: found(2) for own in claims.ELSEWHERE.values()}
                | {elsewhere: found(50) for elsewhere in claims.ELSEWHERE}
            }
        },
        "autoattack": {"cnn-ls-noise": {"rows": {}, "worst_case": found(2)}} | met,
        **{f"autoattack-{norm}": met for norm in ("l1", "l2")},
        **{f"beyond-{norm}": searched for norm in ("l1", "l2")},
        "2": {model: timing(seconds) for model, (_, seconds, _) in paper.TRAINING[dataset].items()}
        | {"fast": timing(9)},
        "3": strongest | {"madry": strongest["rcnn+"], "cnn-ls-noise": found(2)},
        "4": {
            f"{model} eps={wide}": {"rows": {"pgd-margin/static": found(percent)}, "worst_case": found(percent)}
            for model, percent in {"rcnn+": paper.BEYOND_BOUND[dataset]["rcnn+"][wide], "madry": 5}.items()
        },
        "5-l1": under["l1"],
        "5-l2": under["l2"],
        "6": {
            f"{name} sigma={sigma:g} n=50000": {
                "certified": [found(0) | {"radius": 0.0}, found(certified[name[:5]]) | {"radius": 0.5}],
                "ceiling": 0.6,
                "draws": 50_000,
            }
            for name in (*sum(claims.LAYERED, ()), "rcnn beta2=0", "rcnn+ beta2=0")
            for sigma in claims.sigmas(dataset)
        },
        **traded,
        "beyond-linf": searched
        | {
            model: {"rows": static | exact | {"square": found(99)}, "checks": {}, "command": "rbfbench attack"}
            for model in claims.BOTH
        },
        "union": every,
    }


def unmasked(tables: dict) -> dict:
    """The same, but that examples made elsewhere are no stronger than the model's own gradient."""
    first = tables["1"]["rcnn+"]
    rows = {name: scored(198) if name.startswith("transfer") else row for name, row in first["rows"].items()}
    return tables | {"1": tables["1"] | {"rcnn+": first | {"rows": rows}}}


@pytest.mark.parametrize("dataset", ["mnist", "cifar10"])
def test_whoever_finds_what_the_paper_says_reproduces_it(dataset):
    found = verdicts(dataset, as_in_the_paper(dataset, 10_000))
    assert set(found) == {claim.text for claim in claims.CLAIMS}
    others = {claim: verdict for claim, verdict in found.items() if verdict != "reproduced"}
    # By its own numbers copies help under l1 and l2, and under linf no longer on CIFAR-10: 46.2 and 46.6.
    copies = {"training on noisy copies makes rCNN+ more robust than rCNN": "partly"}
    # By its own numbers FGSM and PGD leave less of rCNN+ on MNIST by examples that were made elsewhere.
    masked = {"the layers do not mask gradients": "partly"}
    assert others == (copies if dataset == "cifar10" else masked)
    for each in claims.judged(dataset, as_in_the_paper(dataset, 10_000)):
        if each.claim in copies:
            assert (": its own numbers do not say so" in each.evidence) is (dataset == "cifar10")


@pytest.mark.parametrize("dataset", ["mnist", "cifar10"])
def test_few_images_cannot_tell(dataset):
    found = verdicts(dataset, as_in_the_paper(dataset, 2))
    of_accuracies = {c: v for c, v in found.items() if "Claim 1" not in c and "fraction" not in c}
    assert set(of_accuracies.values()) == {"cannot tell"}


def test_claims_are_judged_by_intervals():
    tables = as_in_the_paper("mnist", 200)
    robust, alike = "rCNN+ is robust under linf without adversarial training", "under linf it does as well as"

    def judge(ours: int, madry: int, own: int) -> list[str]:
        rows = {**tables["1"]["rcnn+"]["rows"], "pgd/bpda-eot": scored(own)}
        changed = {"1": tables["1"] | {"rcnn+": {"rows": rows, "checks": {}}}}
        changed["3"] = tables["3"] | {"rcnn+": tables["3"]["rcnn+"] | scored(ours), "madry": scored(madry)}
        found = verdicts("mnist", tables | changed)
        return [verdict for claim, verdict in found.items() if claim == robust or claim.startswith(alike)]

    # The paper's 88.4 is within the interval of 170 of 200; 160 of 200 has its interval below.
    assert judge(170, 175, 170) == ["reproduced", "reproduced"]
    assert judge(160, 185, 170) == ["partly", "not reproduced"]
    assert judge(60, 175, 100) == ["not reproduced", "not reproduced"]


def test_each_claim_shows_the_papers_number_and_ours():
    tables = as_in_the_paper("mnist", 200)
    tables["3"] |= {"rcnn+": scored(2) | {"strongest": {"row": "apgd-ce/eot"}}, "madry": scored(170), "rcnn": scored(0)}
    tables["4"] |= {"rcnn+ eps=0.35": {"rows": tables["4"]["rcnn+ eps=0.35"]["rows"], "worst_case": scored(8)}}
    shown = {each.claim: (each.paper, each.here) for each in claims.judged("mnist", tables)}
    assert set(shown) == {claim.text for claim in claims.CLAIMS}
    assert all(here for _, here in shown.values())
    assert shown["the reconstruction mitigates minor perturbations in every norm (Claim 1)"] == (
        "below 1",
        "0.30 to 0.30 of random changes, 0.90 to 0.90 of changes sought to pass",
    )
    assert shown["rCNN, trained on clean images alone, is robust under linf"] == ("39.4", "rcnn 0.0 (0.0 to 1.9)")
    assert shown["under linf it does as well as adversarial training"] == (
        "88.4 and 88.6",
        "rcnn+ 1.0 (0.3 to 3.6), madry 85.0 (79.4 to 89.3)",
    )
    assert shown["beyond the bound it keeps what adversarial training loses"] == (
        "75.8, and 42.9 by PGD",
        "by all of Table IV rcnn+ 4.0 (2.0 to 7.7), madry 5.0 (2.7 to 9.0); by PGD rcnn+ 75.8 (69.4 to 81.2), "
        "madry 5.0 (2.7 to 9.0)",
    )
    said, here = shown["the same model is robust under l2, where linf adversarial training is less so"]
    assert (said, here.partition("(")[0]) == ("83.9, madry 81.9", "rcnn+ 83.9 ")
    assert here.endswith(", madry 10.0 (6.6 to 14.9)")
    assert shown["one model withstands l1, l2 and linf at once, better than linf adversarial training"] == (
        "",
        "rcnn+ 60.0 (53.1 to 66.5), madry 10.0 (6.6 to 14.9)",
    )
    noise = shown["more noise at run time (beta2) buys robustness"][1]
    assert [piece.partition(":")[0] for piece in noise.split("; ")] == ["linf", "l1", "l2"]
    theirs, gradients = shown["the layers do not mask gradients"]
    assert theirs == ("90.5 by examples made elsewhere, 91.1 by attacks that do not see the noise, 88.4 by BPDA+EoT"), (
        "of its own Table I"
    )
    assert gradients == (
        "90.5 (85.6 to 93.8) by examples made elsewhere, 94.9 (90.9 to 97.2) by PGD that does not see the noise, "
        "91.1 (86.3 to 94.3) by the strongest such attack, 88.4 (83.2 to 92.1) by gradients through it; on "
        "rcnn+ 99.0 (96.4 to 99.7) by random search, 88.4 (83.2 to 92.1) by gradients"
    )
    training = shown["training costs a fraction of adversarial training by PGD, with the steps that its authors take"]
    ours = "8.2 times, 6.1 with the rcnn that makes its noise here"
    assert training == ("4.8 times", ours), "(85 * 112 + 30) / (100 * 11 + 30 + 30), and 100 * (11 + 4)"
    said, above = shown["the layers raise certified accuracy, at equal noise"]
    assert said == "94.7 and 92.7 at sigma 0.2, radius 0.5"
    assert above == (
        "rcnn 95.0 (91.0 to 97.3), cnn 10.0 (6.6 to 14.9) there; higher in 4 of 4 comparisons, lower in 0"
    ), "rcnn over cnn, rcnn+ over its control, two sigmas"
    text = "\n".join(
        results_page.claimed([{"table": t, "dataset": "mnist", "columns": c} for t, c in tables.items()], "")
    )
    robust = "rCNN+ is robust under linf without adversarial training"
    assert f"| {robust} | 88.4 | rcnn+ 1.0 (0.3 to 3.6) | **partly** |" in text
    assert f"- **{robust}**: partly.\n  - paper 88.4 under the strongest of its attacks\n  - of those, " in text


def test_a_claim_holds_if_it_holds_with_the_authors_constants():
    tables = as_in_the_paper("mnist", 200)
    weak = {"1": tables["1"] | {"rcnn+": attacked_rows(tables, 2)}, "3": tables["3"] | {"rcnn+": scored(2)}}
    theirs = {"1": weak["1"] | {"rcnn+-authors": tables["1"]["rcnn+"]}, "3": weak["3"] | {"rcnn+-authors": scored(177)}}
    claim = "rCNN+ is robust under linf without adversarial training"
    assert verdicts("mnist", tables | weak)[claim] == "not reproduced"
    assert verdicts("mnist", tables | theirs)[claim] == "reproduced"
    found = {each.claim: each.evidence for each in claims.judged("mnist", tables | theirs)}
    assert "leaves rcnn+ 1.0" in found[claim]
    assert "leaves rcnn+-authors 88.4" in found[claim]
    assert "rcnn+-authors 88.5" in found["under linf it does as well as adversarial training"]


def attacked_rows(tables: dict, k: int) -> dict:
    """The column of rcnn+ in Table I, with k of 200 left by every row."""
    return {**tables["1"]["rcnn+"], "rows": dict.fromkeys(tables["1"]["rcnn+"]["rows"], scored(k))}


@pytest.mark.parametrize(
    ("held", "verdict"),
    [
        ((True, True), "reproduced"),
        ((True, False), "partly"),
        ((True, False, None), "partly"),
        ((False, None), "not reproduced"),
        ((True, None), "cannot tell"),
        ((None,), "cannot tell"),
        ((), "cannot tell"),
    ],
)
def test_parts_of_a_claim_make_its_verdict(held, verdict):
    assert claims.verdict(*held) == verdict


@pytest.mark.parametrize(("one", "other", "interval"), [
    ((56, 70), (48, 80), (0.0524, 0.3339)), ((9, 10), (3, 10), (0.1705, 0.8090)), ((10, 10), (0, 20), (0.6791, 1.0)),
])  # fmt: skip
def test_the_interval_of_a_difference_is_newcombes(one, other, interval):
    """Of his Table II: contrasts a, c and h, method 10."""
    found = claims.difference(scored(*one), scored(*other))
    assert found == pytest.approx(interval, abs=1e-4)


@pytest.mark.parametrize(("e", "f", "g", "h"), [
    (36, 12, 2, 0), (16, 1, 3, 0), (53, 1, 0, 0), (20, 3, 1, 26), (90, 8, 2, 100),
])  # fmt: skip
def test_of_the_same_images_the_interval_is_newcombes_for_pairs(e, f, g, h):
    """By the counts of his second paper: images right by both, by the first alone, by the second alone, by neither."""
    n, shared = e + f + g + h, e * h - f * g
    margins = (e + f) * (g + h) * (e + g) * (f + h)
    phi = (max(shared - n / 2, 0) if shared > 0 else shared) / math.sqrt(margins) if margins else 0
    ours, others = score(e + f, n), score(e + g, n)
    down, up = ours.accuracy - ours.ci95[0], ours.ci95[1] - ours.accuracy
    down_2, up_2 = others.accuracy - others.ci95[0], others.ci95[1] - others.accuracy
    wanted = (
        (f - g) / n - math.sqrt(down**2 - 2 * phi * down * up_2 + up_2**2),
        (f - g) / n + math.sqrt(up**2 - 2 * phi * up * down_2 + down_2**2),
    )
    one = {f"{i}": float(i < e + f) for i in range(n)}
    other = {f"{i}": float(i < e or e + f <= i < e + f + g) for i in range(n)}
    pair = [scored(sum(left.values()), n) | {"images": left} for left in (one, other)]
    found = claims.difference(*pair)
    assert found == pytest.approx(wanted, abs=1e-9)
    low, high = claims.difference(*(scored(each["k"], n) for each in pair))
    narrower = found[1] - found[0] < high - low - 1e-9
    assert narrower == (h >= 26), "than of different images, where both fail on the same ones"


def test_alike_is_more_than_not_shown_to_differ():
    many, fewer, few = scored(182), scored(168), scored(17, 20)
    assert claims.no_worse(fewer, many) is False, "91% against 84% of 200 differ"
    assert claims.no_worse(few, many) is None, "85% of 20 tells nothing"
    assert claims.no_worse(scored(178), many) is True
    assert claims.above(many, fewer) is True
    assert claims.above(scored(12, 20), scored(100)) is None
    assert claims.above(fewer, many) is False
    assert claims.above(scored(92, 100), scored(92, 100)) is None, "it may be 7 points"
    assert claims.above(scored(920, 1000), scored(930, 1000)) is False, "less than 5 points"
    assert claims.above(scored(0), scored(2)) is False, "less than 5 points, if next to nothing is left of both"
    assert claims.above(scored(0), scored(12)) is False


def test_worst_cases_are_compared_on_the_images_that_both_are_on():
    def left(correct: dict[str, float]) -> dict:
        return scored(sum(correct.values()), len(correct)) | {"images": correct}

    few = left({f"{i}": 1.0 for i in range(20)})
    many = left({f"{i}": float(i < 20) for i in range(200)})
    assert claims.above(few, left({image: 0.0 for image in many["images"]})) is True
    assert claims.above(few, many) is None, "on the 20 of both they are alike; the other 180 say nothing of the first"
    one, other = claims.on_common(few, many)
    assert (one["accuracy"], other["accuracy"], one["n"], other["n"]) == (1.0, 1.0, 20, 20)
    assert claims.side_by_side(few, many) == " (on the 20 images of both 100.0 against 100.0)"
    assert claims.side_by_side(few, few) == ""
    assert claims.side_by_side(few, scored(20, 200)) == " (not image by image)", "of the second nothing more is kept"
    assert claims.side_by_side(scored(9, 20), scored(9, 20)) == " (not image by image)"
    elsewhere = left({f"other {i}": 0.0 for i in range(20)})
    assert claims.above(few, elsewhere) is claims.no_worse(few, elsewhere) is None, "no image in common"


def test_worst_cases_are_compared_image_by_image():
    """Of 60 images, 8 that one holds and the other loses: by chance 2 * 2^-8; intervals of 60 each cannot tell."""

    def left(held: int, most: float = 1.0) -> dict:
        images = {f"{i}": most * (i < held) for i in range(60)}
        return scored(sum(images.values()), 60) | {"images": images}

    more, fewer = left(28), left(20)
    bare = [{name: part for name, part in each.items() if name != "images"} for each in (more, fewer)]
    assert claims.above(*bare) is None
    assert claims.above(more, fewer) is True
    assert claims.above(fewer, more) is False
    assert claims.no_worse(fewer, more) is False
    assert claims.above(left(25), fewer) is None, "5 that differ: 2 * 2^-5 is above 5%"
    assert claims.above(left(28, 0.9), left(28, 0.8)) is True, "parts of decisions count"


def test_noise_is_judged_under_every_norm_that_has_run():
    tables, claim = as_in_the_paper("mnist", 10_000), "more noise at run time (beta2) buys robustness"
    assert [norm in evidence_of(tables, claim) for norm in ("linf:", "l2:", "l1:")] == [True, True, True]
    assert "(AutoAttack) and" in evidence_of(tables, claim)
    assert verdicts("mnist", tables | {"3-l1": tables["3-l1"] | {"rcnn+": scored(5, 10_000)}})[claim] == "partly"
    through = {"rcnn+ stronger, beta2=1.75": {"rows": {"apgd-ce/eot": scored(5, 10_000)}}}
    alone = {"7-l1": tables["7-l1"] | through, "3-l1": {}}
    assert verdicts("mnist", tables | alone)[claim] == "partly", "the strongest row, where all have not run"
    part = {name: column for name, column in tables["7-l1"].items() if name != "rcnn+ adaptive, beta2=1.75"}
    assert "l1:" not in evidence_of(tables | {"7-l1": part}, claim)


def test_the_layers_are_judged_by_autoattack_without_noise():
    tables, claim = (
        as_in_the_paper("mnist", 200),
        "the RBF layer adds to what label smoothing and noisy copies do alone",
    )
    column = tables["7"]["rcnn+ stronger, beta2=0"]
    beaten = tables | {"7": tables["7"] | {"rcnn+ stronger, beta2=0": column | {"worst_case": scored(0)}}}
    held = beaten | {"autoattack": beaten["autoattack"] | {"cnn-ls-noise": {"worst_case": scored(20)}}}
    none = beaten | {"3": tables["3"] | {"rcnn+": scored(0)}}
    under = none | {"3-l2": tables["3-l2"] | {"cnn-ls-noise": scored(20)}}
    found = [verdicts("mnist", each)[claim] for each in (tables, beaten, held, none, under)]
    assert found == ["reproduced", "partly", "partly", "not reproduced", "partly"], (
        "nothing left of either is nothing added"
    )
    assert "under l2 83.9" in evidence_of(under, claim)


def test_without_noise_every_norm_counts_and_autoattack_in_each():
    tables, claim = as_in_the_paper("mnist", 200), "rCNN+ stays robust without noise at run time (beta2 0)"
    found = {each.claim: each for each in claims.judged("mnist", tables)}[claim]
    assert (found.verdict, found.paper) == ("reproduced", "linf: 77.7; l1: 80.6; l2: 80.4")
    column = {"rcnn+ stronger, beta2=0": {"rows": {}, "worst_case": scored(2)}}
    broken = tables | {"7-l2": tables["7-l2"] | column}
    found = {each.claim: each for each in claims.judged("mnist", broken)}[claim]
    assert found.verdict == "partly"
    assert found.here.endswith("l2: 1.0 (0.3 to 3.6)")
    assert "of its attacks cw-l2/static leaves 80.4" in found.evidence
    assert "l1" not in evidence_of({table: of for table, of in tables.items() if table != "7-l1"}, claim)


def test_certificates_of_two_defences_are_compared_at_equal_noise_and_both_with_and_without_their_own():
    tables, claim = as_in_the_paper("mnist", 200), "noisy copies raise certified accuracy further, at equal noise"
    for name, near in {"rcnn+": 40, "rcnn+ beta2=0": 90, "rcnn": 80, "rcnn beta2=0": 20}.items():
        tables["6"][f"{name} sigma=0.2 n=50000"] = certificate(50_000, 0.7, near, 0)
    found = {each.claim: each for each in claims.judged("mnist", tables)}[claim]
    assert found.paper == "98 (sigma 0.3) and 94.7 at sigma 0.2, radius 0.5"
    assert found.here.startswith(
        "rcnn+ without its own noise 90.0 (82.6 to 94.5), rcnn 80.0 (71.1 to 86.7) there; higher in 2 of 2"
    )
    assert (
        "rcnn at sigma 0.2, by 50,000 draws as in the paper: 80.0 (71.1 to 86.7, n 100) to radius 0.5 (paper 94.7)"
        in (found.evidence)
    )
    tables["6"]["rcnn+ beta2=0 sigma=0.2 n=50000"] = certificate(50_000, 0.7, 60, 0)
    assert verdicts("mnist", tables)[claim] == "partly", "lower at one noise"


def test_noisy_copies_are_judged_under_every_norm():
    tables, claim = as_in_the_paper("mnist", 200), "training on noisy copies makes rCNN+ more robust than rCNN"
    assert verdicts("mnist", tables)[claim] == "reproduced"
    other = tables | {"3-l1": tables["3-l1"] | {"rcnn": scored(195)}}
    assert verdicts("mnist", other)[claim] == "partly"
    assert "under l1 83.4" in evidence_of(other, claim)


def test_what_breaks_a_claim_is_named():
    tables = unmasked(as_in_the_paper("mnist", 200))
    rows = tables["1"]["rcnn+"]["rows"]
    masked = {"rows": rows | {"transfer-pgd": scored(100)}, "checks": {}}
    changed = tables | {"1": tables["1"] | {"rcnn+": masked}}
    found = {each.claim: each for each in claims.judged("mnist", changed)}["the layers do not mask gradients"]
    assert found.verdict == "not reproduced"
    assert (
        "by table: 1: transfer-pgd 50.0 on rcnn+; not judged, for the table has no control to compare with: none;"
        in (found.evidence)
    )
    chance = tables | {"1": tables["1"] | {"rcnn+": {"rows": rows | {"transfer-pgd": scored(168)}, "checks": {}}}}
    found = {each.claim: each for each in claims.judged("mnist", chance)}["the layers do not mask gradients"]
    assert "by table: none;" in found.evidence, "84% of 200 may be chance where 88.4% is the least otherwise"
    also = {"rows": {"pgd/static": scored(60), "transfer-pgd": scored(18)}, "checks": {}}
    weak = tables | {"1": tables["1"] | {"rcnn+": masked, "cnn-ls-noise": also}}
    found = {each.claim: each for each in claims.judged("mnist", weak)}["the layers do not mask gradients"]
    assert found.verdict == "reproduced", "the attacks are weak on the control too"
    assert "1: transfer-pgd 50.0 on rcnn+ (but on the control as well)" in found.evidence
    through = {"rows": masked["rows"] | {"pgd/bpda-eot": scored(8, 20)}, "checks": {}}
    one = tables | {"1": tables["1"] | {"rcnn+": through}}
    found = {each.claim: each for each in claims.judged("mnist", one)}["the layers do not mask gradients"]
    assert found.verdict == "partly", "one row with gradients does as well, but none that does not see the noise"
    assert "than all gradients that do not see the noise: transfer-pgd;" in found.evidence
    assert "which does not see the noise: transfer-pgd (the paper's own: transfer-fgsm 90.9 against 98, " in (
        found.evidence
    )
    suite = {"rcnn+ static": {"rows": {"apgd-t/static": scored(20)}, "checks": {}}}
    found = {each.claim: each for each in claims.judged("mnist", one | {"autoattack": suite})}
    found = found["the layers do not mask gradients"]
    assert found.verdict == "partly", "what the paper judges by is weak there, though another gradient is not"
    assert "than all gradients that do not see the noise: none;" in found.evidence
    assert "10.0 (6.6 to 14.9, n 200) (apgd-t/static of autoattack (rcnn+ static))" in found.evidence
    other = {"rows": {"pgd/static": scored(60), "square": scored(18)}, "checks": {}}
    weak["1"] = weak["1"] | {"cnn-ls-noise": other}
    assert verdicts("mnist", weak)["the layers do not mask gradients"] == "not reproduced", "another black box"
    part = tables["7"]["rcnn+ beta2=1.75"]["rows"] | {"transfer": scored(2)}
    alone = tables | {"7": tables["7"] | {"rcnn+ beta2=1.75": {"rows": part}}}
    assert verdicts("mnist", alone)["the layers do not mask gradients"] == "reproduced", "no model to compare with"
    (cheaper,) = (each for each in claims.judged("mnist", tables) if each.claim.startswith("training costs"))
    assert "10.2 in time an epoch (paper 10.2)" in cheaper.evidence
    assert "8.2 in all" in cheaper.evidence, "(85 * 112 + 30) / (100 * 11 + 30 + 30)"
    assert "6.1 with the training of the rcnn" in cheaper.evidence, "(85 * 112 + 30) / (100 * (11 + 4) + 30 + 30)"
    assert "until 90% of held-out images are right, 10.2 in time" in cheaper.evidence
    madry, ours, rcnn = (training_time.taken_by(name, "mnist").minutes for name in ("madry", "rcnn+", "rcnn"))
    assert results_page.cost_of("mnist") == (
        f" By the cards, training took madry {madry:.0f} thread-minutes (5 epochs of 7 steps), rcnn+ {ours:.0f}, and "
        f"the rcnn that makes its noise {rcnn:.0f}."
    )
    assert "after a model of 12 epochs" in results_page.cost_of("cifar10")


def test_of_two_trainings_the_better_is_judged_whole():
    """Parts that hold for one each do not make a claim that holds for none."""
    assert claims.best(("partly", "partly")) == "partly"
    assert claims.best(("partly", "not reproduced")) == "partly"
    assert claims.best(("not reproduced", "cannot tell")) == "cannot tell"
    tables = as_in_the_paper("mnist", 200)
    ours, theirs = {"rcnn+": attacked_rows(tables, 180)}, {"rcnn+-authors": attacked_rows(tables, 2)}
    mixed = tables | {
        "1": tables["1"] | ours | theirs,
        "3": tables["3"] | {"rcnn+": scored(2), "rcnn+-authors": scored(180)},
    }
    assert verdicts("mnist", mixed)["rCNN+ is robust under linf without adversarial training"] == "partly"


def test_the_authors_constants_count_under_every_norm():
    tables = as_in_the_paper("mnist", 200)
    claim = "the same model is robust under l2, where linf adversarial training is less so"
    own, every = tables["5-l2"]["rcnn+"], tables["3-l2"]["rcnn+"]
    beaten = {"rows": dict.fromkeys(own["rows"], scored(2)), "checks": {}}
    weak = tables | {
        "5-l2": {"rcnn+": beaten},
        "3-l2": tables["3-l2"] | {"rcnn+": scored(2), "madry-l2": scored(140)},
        "union": tables["union"] | {"rcnn+": scored(2)},
    }
    found = {each.claim: each for each in claims.judged("mnist", weak)}
    assert found[claim].verdict == "not reproduced"
    assert "trained under l2 itself 70.0" in found[claim].evidence
    theirs = weak | {
        "5-l2": weak["5-l2"] | {"rcnn+-authors": own},
        **{
            table: weak[table]
            | {
                "rcnn+-authors": every
                | {"tables": [name.replace("rcnn+ ", "rcnn+-authors ") for name in tables[table]["rcnn+"]["tables"]]}
            }
            for table in ("3", "3-l1", "3-l2")
        },
        "union": weak["union"] | {"rcnn+-authors": scored(120)},
    }
    assert verdicts("mnist", theirs)[claim] == "reproduced"
    assert [verdicts("mnist", t)[claims.CLAIMS[7].text] for t in (weak, theirs)] == ["not reproduced", "reproduced"]
    little = tables | {"union": weak["union"] | {"rcnn+": scored(80), "madry": scored(4)}}
    assert verdicts("mnist", little)[claims.CLAIMS[7].text] == "partly", "more than madry, but less than half"


def test_few_draws_certify_nothing_and_show_nothing():
    tables = as_in_the_paper("mnist", 200)
    low = {name: column | {"ceiling": 0.1} for name, column in tables["6"].items()}
    assert (
        verdicts("mnist", tables | {"6": low})["the layers raise certified accuracy, at equal noise"] == "cannot tell"
    )


def certificate(draws: int, ceiling: float, near: int, far: int) -> dict:
    """A column of certificates of 100 images: how many are right and certified to 0.5, and to 1."""
    cells = [
        scored(100, 100) | {"radius": 0.0},
        scored(near, 100) | {"radius": 0.5},
        scored(far, 100) | {"radius": 1.0},
    ]
    return {"certified": cells, "ceiling": ceiling, "draws": draws}


def test_certificates_are_compared_at_the_most_draws_that_both_had():
    text = "the layers raise certified accuracy, at equal noise"
    tables = as_in_the_paper("mnist", 200)
    others = {name: column for name, column in tables["6"].items() if "rcnn+" not in name and "noise" not in name}
    # With many draws the layers certify less than their control, with few more.
    few = {
        "rcnn+ sigma=0.3 n=2000": certificate(2000, 0.8, 90, 0),
        "cnn-ls-noise sigma=0.3 n=2000": certificate(2000, 0.8, 50, 0),
    }
    many = {
        "rcnn+ sigma=0.3 n=50000": certificate(50_000, 1.1, 60, 10),
        "rcnn+ beta2=0 sigma=0.3 n=50000": certificate(50_000, 1.1, 50, 20),
        "cnn-ls-noise sigma=0.3 n=50000": certificate(50_000, 1.1, 90, 70),
    }
    quiet = {f"{model} sigma=0.2 n=2000": certificate(2000, 0.1, 0, 0) for model in ("rcnn+", "cnn-ls-noise")}

    def judge(columns: dict) -> claims.Judged:
        found = {each.claim: each for each in claims.judged("mnist", tables | {"6": others | quiet | columns})}
        return found[text]

    assert judge(few).verdict == "reproduced"
    both = judge(few | many)
    assert both.verdict == "partly"
    assert "radius 0.5, 50,000 draws: rcnn+ 60.0" in both.evidence, "the better of two at each radius"
    assert "radius 1, 50,000 draws: rcnn+ without its own noise 20.0" in both.evidence
    assert "2,000 draws: rcnn+" not in both.evidence
    # Whose draws are different in number is not compared: such a column stands beside the paper's number alone.
    alone = judge(few | {"rcnn+ sigma=0.3 n=50000": certificate(50_000, 1.1, 0, 0)})
    assert alone.verdict == "partly"
    assert "higher in 3 of 3 comparisons" in alone.here
    assert judge(few | {"rcnn+ sigma=0.3 n=50000": certificate(50_000, 1.1, 98, 90)}).verdict == "reproduced"


def test_random_search_on_few_images_does_not_clear_gradients():
    tables = unmasked(as_in_the_paper("cifar10", 200))
    claim = "the layers do not mask gradients"
    assert verdicts("cifar10", tables)[claim] == "reproduced"
    column = tables["beyond-linf"]["rcnn+"]
    few = column | {"rows": column["rows"] | {"square": scored(5, 10)}}
    assert verdicts("cifar10", tables | {"beyond-linf": {"rcnn+": few}})[claim] == "cannot tell"
    known = {"rows": {"pgd/eot": scored(28), "square": scored(20)}, "checks": {}}
    close = tables | {"beyond-linf": tables["beyond-linf"] | {"rcnn+ with known noise": known}}
    assert verdicts("cifar10", close)[claim] == "cannot tell", "14% may be more than 10%"
    suite = {"rcnn+ with known noise": {"worst_case": scored(10), "rows": {}, "checks": {}}}
    found = {each.claim: each for each in claims.judged("cifar10", close | {"autoattack": suite})}[claim]
    assert found.verdict == "reproduced", "5% is not"
    assert "the strongest gradient 5.0 (2.7 to 9.0, n 200) (AutoAttack's gradients/eot)" in found.evidence
    known = {"rows": {"pgd/eot": scored(100), "square": scored(20)}, "checks": {}}
    control = {"rows": {"pgd-margin/static": scored(2), "square": scored(2)}, "checks": {}}
    columns = {"rcnn+ with known noise": known, "cnn-ls-noise": control}
    fired = tables | {"beyond-linf": tables["beyond-linf"] | columns}
    found = {each.claim: each for each in claims.judged("cifar10", fired)}[claim]
    assert found.verdict == "partly"
    assert "beyond-linf: square 10.0 on rcnn+ with known noise" in found.evidence


def test_random_search_is_judged_where_noise_does_not_blind_it():
    tables, claim = unmasked(as_in_the_paper("mnist", 200)), "the layers do not mask gradients"
    known = {"rows": {"pgd/eot": scored(44), "square": scored(40)}, "checks": {}}
    fixed = tables | {"beyond-linf": tables["beyond-linf"] | {"rcnn+ with known noise": known}}
    found = {each.claim: each for each in claims.judged("mnist", fixed)}[claim]
    assert found.verdict == "cannot tell", "fresh noise leaves random search 99, fixed noise as little as gradients"
    assert found.here.endswith("on rcnn+ with its noise fixed 20.0 (15.0 to 26.1) by random search, 22.0 (16.8 to "
                               "28.2) by gradients")  # fmt: skip
    led = {"rcnn+ with known noise": known | {"rows": {"pgd/eot": scored(4), "square": scored(40)}}}
    assert verdicts("mnist", fixed | {"beyond-linf": fixed["beyond-linf"] | led})[claim] == "reproduced"


def test_a_black_box_on_survivors_is_no_sign_of_masked_gradients():
    rows = {"apgd-t/static": scored(100), "square": scored(20)}
    assert claims.black_boxes({"rows": rows}) == ["square"]
    met = {"rows": {"apgd-t/static": {"alone": True}, "square": {"alone": False}}}
    assert claims.black_boxes({"rows": rows, "outcomes": met}) == [], "what the attacks before it broke is in it"


def test_signs_in_tables_without_the_control_are_told_and_not_judged():
    tables, claim = unmasked(as_in_the_paper("mnist", 200)), "the layers do not mask gradients"
    part = {"rows": tables["7"]["rcnn+ beta2=1.75"]["rows"] | {"transfer": scored(2)}}
    found = {
        each.claim: each for each in claims.judged("mnist", tables | {"7": tables["7"] | {"rcnn+ beta2=1.75": part}})
    }
    assert found[claim].verdict == "reproduced"
    assert "no control to compare with: 7: transfer 1.0 on rcnn+ beta2=1.75;" in found[claim].evidence


def test_the_strongest_gradient_is_sought_in_all_tables_of_linf():
    tables = as_in_the_paper("mnist", 200)
    suite = {"rcnn+": {"rows": {"apgd-ce/eot": scored(1)}, "worst_case": scored(1)}}
    stronger = tables | {"autoattack": tables["autoattack"] | suite}
    found = {each.claim: each for each in claims.judged("mnist", stronger)}["the layers do not mask gradients"]
    assert "0.5 (0.1 to 2.8) by gradients through it" in found.here
    assert "(apgd-ce/eot of autoattack)" in found.evidence


def test_certificates_of_other_draws_have_a_table_of_their_own():
    made = {"seed": 0, "source": "test images", "command": "rbfbench certify", "wall_s": 1.0, "n0": 100, "alpha": 0.001}
    made |= {"abstained": 0, "environment": {"device": "cpu", "threads": 2, "torch": "2", "git": "abc"}}
    columns = {
        f"{name} sigma=0.3 n={n}": certificate(n, ceiling, 90, far) | made
        for name in ("cnn", "rcnn+ beta2=0")
        for n, ceiling, far in ((2000, 0.8, 0), (50_000, 1.1, 49))
    }
    text = results_page.page([{"table": "6", "dataset": "mnist", "columns": columns}])
    many, few = text.split("100 draws choose a class and ")[1:]
    assert many.startswith("50,000 count it, alpha 0.001; one pass of the model a draw. The paper took as many")
    assert few.startswith("2,000 count it, alpha 0.001; one pass of the model a draw. The paper took 50,000 to count.")
    assert "| 49.0 (39.4 to 58.7) paper 89.2 | 1.1 |" in many
    assert "| above the ceiling paper 89.2 | 0.8 |" in few
    assert [part.count("\n| rcnn+ beta2=0 sigma=0.3 |") for part in (many, few)] == [1, 1]


def test_random_models_meet_targeted_attacks_through_their_noise_too():
    for scale, amounts in {"small": "--eot-samples 10 --set apgd-t.targets=5", "full": "--eot-samples 20"}.items():
        given = reproduce.asked(["autoattack-l2", "--dataset", "mnist", "--scale", scale, "--models", "cnn,rcnn+"])
        words = {job.name: " ".join(job.words) for job in given.jobs}
        kinds = {"static", "targeted", "nearest", "with known noise"}
        assert set(words) == {"cnn", "rcnn+", *(f"rcnn+ {kind}" for kind in kinds)}
        through = "--passes 10 --gradient eot --objective mean-of-losses"
        assert words["rcnn+ targeted"].endswith(f"{through} --attack apgd-t {amounts}")
        assert words["rcnn+ nearest"].endswith(f"{through} --attack fab-t {amounts.replace('apgd-t', 'fab-t')}")
        known = words["rcnn+ with known noise"]
        assert "--noise-scope model" in known
        assert known.endswith("--worst-case --gradient eot --attack apgd-ce --attack apgd-t --attack fab-t")


def test_columns_without_a_number_of_the_paper_have_a_page():
    column = {
        "clean": scored(198),
        "rows": {"pgd-margin/static": scored(20) | {"wall_s": 1.0}},
        "worst_case": scored(2),
        "null_attack": None,
        "command": "rbfbench sweep",
        "seed": 0,
        "source": "test images",
        "environment": {"device": "cpu", "threads": 2, "torch": "2", "git": "abc"},
    }
    for model in ("rcnn+-authors", "rcnn", "madry"):
        table = {"table": "4", "dataset": "mnist", "columns": {f"{model} eps=0.35": column}}
        assert "| worst case | 1.0 (0.3 to 3.6)" in results_page.page([table])
        assert "| images | 200 |" in results_page.page([table])
    alone = {"strongest": {"row": "square", "norm": "l2", "accuracy": 0.1}, "attacks": 3, "tables": ["5-l2"]}
    left = column | scored(20) | alone | {"wall_s": 1.0}
    text = results_page.page([{"table": "3-l2", "dataset": "mnist", "columns": {"madry": left}}])
    assert (
        "| `madry` | mnist | 97.79 |  |  | 10.0 (6.6 to 14.9), n 200, paper 81.9, without beyond-l2, autoattack-l2 |"
    ) in text


def test_the_page_says_in_short_what_is_left():
    tables = as_in_the_paper("mnist", 200)
    alone = {"strongest": {"row": "pgd/bpda-eot", "norm": "linf", "accuracy": 0.1}}
    tables["3"] = tables["3"] | {"rcnn+": scored(20) | alone, "madry": scored(170)}

    def said() -> str:
        return results_page.in_short(list(claims.judged("mnist", tables)), tables)

    assert "All attacks together leave rcnn+ 10.0 (6.6 to 14.9, n 200)" in said()
    assert "pgd/bpda-eot is the strongest alone. Under linf this rcnn+ is less robust than adversarial" in said()
    assert "Attacks that do not look through the noise" in said(), "which leave as much as the paper says"
    assert "the paper's" not in said()
    blind = {**tables["1"]["rcnn+"]["rows"], "pgd/static": scored(100)}
    weaker = tables | {"1": tables["1"] | {"rcnn+": {"rows": blind, "checks": {}}}}
    text = results_page.in_short(list(claims.judged("mnist", weaker)), weaker, "mnist")
    assert "less robust than adversarial" in text
    assert text.endswith(results_page.cost_of("mnist"))
    assert "thread-minutes" not in said(), "of models that are not the shipped ones"
    assert "do not look through" not in text, "they break it without"
    assert "less than the paper's 94.9: this rcnn+ is of 10 epochs where the paper's is of 100" in text
    tables["3"]["rcnn+"] = scored(175) | alone
    assert "less robust than adversarial training" not in said()


def test_the_readme_says_how_short_the_trainings_were():
    """Beside the number of claims that held, for a reader who stops there."""
    said = " ".join((BENCHMARKS.parent / "README.md").read_text(encoding="utf-8").split())
    taken = {dataset: training_time.taken_by("rcnn+", dataset) for dataset in results_page.DATASETS}
    epochs = {dataset: each.epochs + (each.before or 0) for dataset, each in taken.items()}
    theirs = {dataset: paper.TRAINING[dataset]["rcnn+"][0] for dataset in results_page.DATASETS}
    assert (
        f"of {epochs['mnist']} epochs on MNIST, where the paper's took {theirs['mnist']}, and on CIFAR-10 of a "
        f"smaller net and {epochs['cifar10']} epochs, where it took {theirs['cifar10']}"
    ) in said


def test_the_page_begins_with_what_is_left_under_each_norm():
    clean = {"1": {"madry": {"clean": scored(198)}}}
    left = {
        table: {"madry": scored(k) | {"tables": list(reproduce.OF_NORM[norm])}}
        for k, (table, norm) in enumerate({"3": "linf", "3-l1": "l1", "3-l2": "l2"}.items(), start=1)
    }
    found = [{"table": table, "dataset": "mnist", "columns": columns} for table, columns in (clean | left).items()]
    head, _, line = results_page.headline(found)
    cells = dict(zip(head.split(" | "), line.split(" | "), strict=True))
    assert [cells[norm].partition(" ")[0] for norm in ("linf", "l1", "l2")] == ["0.5", "1.0", "1.5"]
    assert cells["clean"].startswith("99.0")
    assert cells["l2"].endswith("n 200, paper 81.9")
    assert cells["whole test set"] == "97.79", "of its card"
    (*_, bare) = results_page.headline(found, own=True)
    assert "97.79" not in bare


def test_more_left_of_a_random_model_by_fewer_attacks_is_not_called_more():
    tables = as_in_the_paper("mnist", 200)
    claim = "the same model is robust under l2, where linf adversarial training is less so"
    full = tables["autoattack-l2"]["rcnn+ nearest"]
    few = tables["autoattack-l2"] | {"rcnn+ nearest": full | {"command": "rbfbench attack --set fab-t.targets=5"}}
    capped = tables["autoattack-l2"] | {"rcnn+ nearest": full | {"rows": {"fab-t/eot": scored(9, 10)}}}
    bare = {name: column for name, column in few.items() if name != "rcnn+ nearest"}
    search = {"rcnn+": tables["beyond-l2"]["rcnn+"] | {"rows": {"square": scored(49, 50)}}}
    quick = {"rcnn+": tables["beyond-l2"]["rcnn+"] | {"command": "rbfbench attack --set square.queries=10"}}
    elsewhere = {"rcnn+": tables["3-l2"]["rcnn+"] | {"tables": ["beyond-l2"]}, "madry": tables["3-l2"]["madry"]}
    assert verdicts("mnist", tables)[claim] == "reproduced"
    for changed in (
        *({"autoattack-l2": each} for each in (few, capped, bare)),
        *({"beyond-l2": each} for each in (search, quick, {})),
        {"3-l2": elsewhere},
    ):
        less = tables | changed
        assert verdicts("mnist", less)[claim] == "cannot tell"
        assert "under l2 rcnn+ met fewer attacks than models without noise" in evidence_of(less, claim)
        lower = less | {"3-l2": less["3-l2"] | {"rcnn+": less["3-l2"]["rcnn+"] | scored(2)}}
        assert verdicts("mnist", lower)[claim] == "partly", "less left by fewer attacks is less"
    others = {
        "one model withstands l1, l2 and linf at once, better than linf adversarial training": "cannot tell",
        "the RBF layer adds to what label smoothing and noisy copies do alone": "reproduced",
        "more noise at run time (beta2) buys robustness": "cannot tell",
    }
    found = verdicts("mnist", tables | {"beyond-l2": {}})
    assert {claim: found[claim] for claim in others} == others, "the control has not run under l2"


def test_a_control_that_has_not_run_excuses_nothing_and_proves_nothing():
    tables, claim = unmasked(as_in_the_paper("mnist", 200)), "the layers do not mask gradients"
    own, elsewhere = {"pgd/static": scored(180)}, {"transfer-pgd": scored(60)}
    alike = {"pgd/static": scored(2), "transfer-pgd": scored(100)}
    assert claims.own_is_weaker(own | elsewhere, alike)["transfer-pgd"] is True
    assert claims.own_is_weaker(own | elsewhere, own | elsewhere)["transfer-pgd"] is False
    assert claims.own_is_weaker(own | elsewhere, {})["transfer-pgd"] is None
    assert claims.own_is_weaker(alike, {})["transfer-pgd"] is False, "there is nothing to excuse"
    assert verdicts("mnist", tables)[claim] == "reproduced"


def test_more_left_beyond_the_bound_counts_where_random_search_met_all_images():
    tables = as_in_the_paper("mnist", 200)
    claim = "beyond the bound it keeps what adversarial training loses"
    column = tables["4"]["rcnn+ eps=0.35"]
    found = []
    for n in (200, 50):
        rows = column["rows"] | {"square": scored(n, n)}
        found.append(
            verdicts("mnist", tables | {"4": tables["4"] | {"rcnn+ eps=0.35": column | {"rows": rows}}})[claim]
        )
    assert found == ["reproduced", "cannot tell"]


def test_certificates_on_few_images_leave_no_number_in_doubt():
    def column(k: int, n: int) -> dict:
        cells = [scored(n, n) | {"radius": 0.0}, scored(k, n) | {"radius": 0.5}]
        return {"rcnn+ sigma=0.3 n=50000": {"certified": cells, "ceiling": 1.1, "draws": 50_000}}

    parts = [list(claims.certified_as_said("mnist", column(k, n), "rcnn+")) for k, n in ((20, 20), (5, 20), (97, 100))]
    assert parts == [[], [False], [True]]


def test_rows_on_few_images_refute_a_number_and_leave_none_in_doubt():
    tables, claim = as_in_the_paper("mnist", 200), "rCNN+ is robust under linf without adversarial training"

    def judge(k: int) -> str:
        column = tables["1"]["rcnn+"]
        rows = column["rows"] | {"spsa": scored(k, 20)}
        return verdicts("mnist", tables | {"1": tables["1"] | {"rcnn+": column | {"rows": rows}}})[claim]

    assert [judge(k) for k in (20, 18, 5)] == ["reproduced", "reproduced", "partly"]


def test_certificates_that_stay_below_the_papers_are_not_all_of_a_claim():
    tables, claim = as_in_the_paper("mnist", 200), "noisy copies raise certified accuracy further, at equal noise"
    assert verdicts("mnist", tables)[claim] == "reproduced"
    tables["6"] |= {
        f"{name} sigma=0.3 n=50000": certificate(50_000, 1.1, 90, 80) for name in ("rcnn+", "rcnn+ beta2=0")
    }
    tables["6"]["rcnn sigma=0.3 n=50000"] = certificate(50_000, 1.1, 10, 5)
    tables["6"]["rcnn beta2=0 sigma=0.3 n=50000"] = certificate(50_000, 1.1, 10, 5)
    found = {each.claim: each for each in claims.judged("mnist", tables)}[claim]
    assert found.verdict == "partly", "90 is more than 10 and less than the paper's 98"
    assert "lower in 0" in found.here


def test_the_page_begins_with_the_answer():
    def column(k: int) -> dict:
        return scored(k) | {"tables": []}

    linf = {"3": {"rcnn+": column(2), "madry": column(170)}, "3-l2": {"rcnn+": column(30)}}
    first = {"rcnn+": {"rows": {"pgd/static": scored(147)}}}
    l1 = {"madry": {"rows": {"pgd/static": scored(100), "ead/static": scored(181)}}}
    tables = linf | {"1": first, "5-l1": l1}
    found = [{"table": table, "dataset": "mnist", "columns": columns} for table, columns in tables.items()]
    said, _, limits = "\n".join(results_page.answer(found)).partition("**What this does not show.**")
    assert "keeps on mnist 1.0% under linf 0.3 (paper 88.4), 15.0% under l2 2 (paper 83.9)." in said
    assert "`madry`) keeps 85.0% on mnist under linf" in said
    assert (
        "on mnist it is of 10 epochs where the paper's is of 100, and PGD that does not see the noise already "
        in limits
    )
    assert "leaves 73.5% of it (paper 94.9)" in limits
    assert "under l1, PGD leaves 50.0 (paper 77.5)." in limits, "EAD comes to the paper's 90.4"
    assert list(results_page.answer([])) == []


def test_a_missing_column_leaves_its_claims_untested_and_no_other():
    tables = as_in_the_paper("mnist", 200)
    for table, columns in tables.items():
        for column in columns:
            rest = tables | {table: {name: found for name, found in columns.items() if name != column}}
            needed = claims.without_draws(column)
            needing = {claim.text for claim in claims.CLAIMS if needed in claim.needs("mnist").get(table, ())}
            assert {claim for claim, verdict in verdicts("mnist", rest).items() if verdict == "not tested"} == needing
    text = "\n".join(results_page.claimed([], results_page.SHIPPED))
    assert text.count("| **not tested** |") == 2 * len(claims.CLAIMS)
    assert f"Of {len(claims.CLAIMS)} claims: {len(claims.CLAIMS)} not tested." in text


def timing(*seconds: float) -> dict:
    """A column of Table II: a round of one epoch for each number, over a tenth of the images."""
    made = {"device": "cpu", "threads": 2, "torch": "2", "git": "abc"}
    return {
        "epoch_s": list(seconds),
        "besides_s": 30.0,
        "rounds": [{"seconds": [s / 10], "held_out": [0.9]} for s in seconds],
        "images": 100,
        "of": 1000,
        "environment": made,
        "command": "python benchmarks/reproduce.py 2",
        "seed": "0 to 2",
        "wall_s": 20.0,
    }


def test_times_of_training_are_shown_beside_the_papers():
    columns = {"fast": timing(9, 8, 12), "rcnn+": timing(18, 19, 17), "madry": timing(90, 90, 90)}
    for made in columns["madry"]["rounds"]:
        made["held_out"] = [0.2]
    text = "\n".join(results_page.section({"table": "2", "dataset": "mnist", "columns": columns}))
    assert "| fast | 9 (8 to 12) | 0.50 |  | 30 |  | 0.50 (90%), 3 of 3 |" in text
    assert "| rcnn+ | 18 (17 to 19) | 1.00 | 1.00 | 30 | 900 | 1.00 (90%), 3 of 3 |" in text
    assert "| madry | 90 (90 to 90) | 5.00 | 10.18 | 30 | 0 |  |" in text, "20% is no accuracy to compare at"
    for rounds, shown in {1: "", 2: "4.87 (90%), 2 of 3"}.items():
        for made in columns["madry"]["rounds"][:rounds]:
            made["held_out"] = [0.9]
        text = "\n".join(results_page.section({"table": "2", "dataset": "mnist", "columns": columns}))
        assert f"| 10.18 | 30 | 0 | {shown} |" in text, "by most rounds, or not at all"
    assert "| rcnn+ | 10 |  | 23 | cpu" in text, "of the card: 10 epochs in 11.6 minutes on 2 threads"
    assert "| madry | 5 | 7 | 27 | cpu" in text, "of the card: 5 epochs of 7 steps in 26.9 minutes on 1 thread"
    assert "20 s on cpu, 2 threads, torch 2, commit abc" in text


def test_equal_accuracy_is_what_both_trainings_reached():
    def rounds(seconds: float, *held_out: list[float]) -> dict:
        return {"rounds": [{"seconds": [seconds] * len(found), "held_out": found} for found in held_out]}

    slow = rounds(2, [0.1, 0.7, 0.6], [0.1, 0.2, 0.1], [0.1, 0.5, 0.9])
    swift = rounds(1, [0.6, 0.7, 0.9], [0.8, 0.9, 0.9], [0.9, 0.9, 0.9])
    # 70% after 4 s and 2 s, then not at all, then 90% after 6 s and 1 s.
    assert training_time.to_equal_accuracy(slow, swift, 0.5) == (4.0, 0.7, 2, 3)
    assert training_time.to_equal_accuracy(swift, slow, 0.8) == (1 / 6, 0.9, 1, 3)
    assert training_time.to_equal_accuracy(slow, swift, 0.95) is None


def test_stages_grow_with_what_they_look_at():
    recipe = RECIPES["rcnn+"]
    schedule = dataclasses.replace(schedule_of("default", "mnist", recipe), settle=5000)
    spec = SimpleNamespace(noise=noise_of("default", "mnist", recipe), schedule=schedule)
    some, everything = training_time.Amount(2000, 1000), training_time.Amount(58_000, 2000)
    grown = {
        stage: training_time.growth(spec, stage, some, everything)
        for stage in ("filters", "reconstructions", "adversarial noise", "batch norm")
    }
    assert grown == {"filters": 1, "reconstructions": 20, "adversarial noise": 3, "batch norm": 2.5}


def test_the_table_of_times_says_where_it_was_measured(monkeypatch):
    monkeypatch.setattr(reproduce, "measure", lambda *_, **__: {"rcnn+": {"epoch_s": [1.0]}})
    (column,) = reproduce.timed("mnist", 10, 4, 2).values()
    assert set(column) == {"epoch_s", "command", "seed", "wall_s", "environment"}
    assert column["command"].endswith("reproduce.py 2 --dataset mnist --limit 10 --epochs 4 --rounds 2")
    assert column["seed"] == "0 to 1"
    assert column["environment"]["torch"] == torch.__version__
    json.dumps(column)


def test_times_of_training_are_measured(monkeypatch):
    monkeypatch.setattr(training_time, "TIMED", ("cnn", "madry", "rcnn", "rcnn+"))
    columns = training_time.measure("digits", limit=60, epochs=2, rounds=2, device=torch.device("cpu"))
    assert list(columns) == ["cnn", "madry", "rcnn", "rcnn+"]
    for column in columns.values():
        assert column["images"] == 60
        assert column["of"] == len(load_training("digits")[0])
        scale = column["of"] / 60
        assert column["epoch_s"] == [scale * s for made in column["rounds"] for s in made["seconds"]]
        assert len(column["epoch_s"]) == 4
        assert all(0 <= a <= 1 for made in column["rounds"] for a in made["held_out"])
    # Ten steps up the gradient and one down cost more than the one step down; a front costs something before.
    assert median(columns["madry"]["epoch_s"]) > median(columns["cnn"]["epoch_s"])
    assert columns["rcnn"]["besides_s"] > columns["cnn"]["besides_s"] == 0


def attacked(out: Path, model: str, *more: str) -> None:
    words = ["attack", "--dataset", "digits", "--model", model, *more, "--passes", "2", "--out", str(out)]
    done = CliRunner().invoke(cli, words)
    assert done.exit_code == 0, done.output


def column_of(folder: Path) -> dict:
    """The column that a run gives, as it comes back from its result file."""
    made = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    return json.loads(json.dumps(reproduce.brief(made, folder)))


def add(results: Path, table: str, name: str, column: dict) -> None:
    """Put a column into a result file of the digits."""
    file = results / f"table-{table}-digits.json"
    columns = reproduce.columns_of(file) | {name: column}
    reproduce.write(file, {"table": table, "dataset": "digits", "columns": columns})


def together(norms: tuple[str, ...], results: Path) -> dict:
    return reproduce.together(norms, results, "digits", results / "table-union-digits.json")


def test_runs_of_other_weights_are_not_taken_together(tmp_path):
    for model in ("cnn", "cnn-ls"):
        attacked(tmp_path / model, model, "--limit", "12", "--eps", "0.1", "--attack", "fgsm")
    cnn, other = (outcomes.ran(column_of(tmp_path / model)) for model in ("cnn", "cnn-ls"))
    with pytest.raises(ValueError, match="differ in weights"):
        outcomes.worst_of([cnn, other])
    attacked(tmp_path / "fewer", "cnn", "--limit", "9", "--eps", "0.1", "--attack", "pgd")
    assert outcomes.worst_of([cnn, outcomes.ran(column_of(tmp_path / "fewer"))])["n"] == 9
    attacked(tmp_path / "wider", "cnn", "--limit", "9", "--eps", "0.2", "--attack", "pgd")
    with pytest.raises(ValueError, match="or radius"):
        outcomes.worst_of([cnn, outcomes.ran(column_of(tmp_path / "wider"))])
    attacked(tmp_path / "mnist", "cnn", "--dataset", "mnist", "--limit", "4", "--eps", "0.1", "--attack", "fgsm")
    with pytest.raises(ValueError, match="no image in common"):
        outcomes.worst_of([cnn, outcomes.ran(column_of(tmp_path / "mnist"))._replace(digest=cnn.digest)])


@pytest.mark.parametrize("more", [("--worst-case",), ("--passes", "2", "--cap", "pgd=5")])
def test_a_column_keeps_what_attacks_left_of_each_image(more, tmp_path):
    model = "cnn" if "--worst-case" in more else "rcnn"
    rows = ("--attack", "pgd", "--set", "pgd.steps=2", "--attack", "fgsm", "--attack", "null")
    attacked(tmp_path / "run", model, "--limit", "12", "--eps", "0.15", *rows, *more)
    column = column_of(tmp_path / "run")
    again = outcomes.ran(column)
    assert (again.passes, again.choosing) == (2, 2)
    assert [row.id for row in again.rows] == ["pgd/static", "fgsm/static"], "the control attacks nothing"
    assert [row.alone for row in again.rows] == [True, "--worst-case" not in more]
    of_file: dict[tuple[str, str], dict[str, float]] = {}
    for sample in read_samples(tmp_path / "run"):
        if sample.attack != "null":
            of_file[sample.attack, sample.image] = {"correct": sample.correct, "selection": sample.selection}
    of_column = {(o.attack, o.image): o for row in again.rows for o in row.outcomes}
    assert of_column.keys() == of_file.keys()
    for key, outcome in of_column.items():
        assert outcome.correct == pytest.approx(of_file[key]["correct"], rel=1e-5)
        margin = of_file[key]["selection"] if model == "rcnn" else 0  # without noise it decides nothing
        assert outcome.selection == pytest.approx(margin, rel=1e-5)
    assert sum(map(len, (row.outcomes for row in again.rows))) == (24 if model == "cnn" else 17)


def test_accuracies_come_with_the_images_behind_them(tmp_path):
    attacked(tmp_path / "run", "cnn", "--limit", "12", "--eps", "0.15", "--attack", "fgsm", "--attack", "null")
    column = column_of(tmp_path / "run")
    rows = outcomes.with_images(column)["rows"]
    left = {s.image: s.correct for s in read_samples(tmp_path / "run") if s.attack == "fgsm/static"}
    assert rows["fgsm/static"] == column["rows"]["fgsm/static"] | {"images": left}
    assert 0 < sum(left.values()) == rows["fgsm/static"]["k"] < 12
    assert rows["null"] == column["rows"]["null"], "the control attacks nothing, so that there is nothing to compare"
    bare = {name: part for name, part in column.items() if name != "outcomes"}
    assert outcomes.with_images(bare) == bare


def test_certified_accuracies_come_with_the_images_behind_them(tmp_path):
    words = [
        "certify",
        "--dataset",
        "digits",
        "--model",
        "cnn-ls-noise",
        "--limit",
        "30",
        "--out",
        str(tmp_path / "run"),
    ]
    words += ["--sigma", "0.3", "--n0", "20", "--n", "100", "--radii", "0.2,0.4"]
    done = CliRunner().invoke(cli, words)
    assert done.exit_code == 0, done.output
    made = json.loads((tmp_path / "run" / "certify.json").read_text(encoding="utf-8"))
    column = json.loads(json.dumps(reproduce.brief(made, tmp_path / "run")))
    cells = outcomes.with_images(column)["certified"]
    assert [cell["radius"] for cell in cells] == [0, 0.2, 0.4]
    for cell in cells:
        right = [c["prediction"] == c["label"] and c["radius"] >= cell["radius"] for c in made["certificates"]]
        assert list(cell["images"].values()) == right
        assert list(cell["images"]) == [c["image"] for c in made["certificates"]]
        assert sum(cell["images"].values()) == cell["k"]
    assert 0 < cells[-1]["k"] < cells[0]["k"]


def test_candidates_that_were_not_verified_come_back_as_such():
    row = {"norm": "linf", "eps": 0.1, "through": False, "alone": True, "correct": "1? 0.5 -", "selection": "-3 2 -"}
    column = {
        "model_digest": "abc",
        "seed": 0,
        "null_attack": scored(3, 3),
        "environment": {"git": "abc"},
        "rows": {"pgd/static": {"wall_s": 2.0}},
        "outcomes": {"passes": 10, "images": "0:a 1:b 2:c", "rows": {"pgd/static": row}},
    }
    (found,) = outcomes.ran(column).rows
    assert [outcome._replace(attack="") for outcome in found.outcomes] == [
        outcomes.Outcome("0:a", "", 1.0, -3.0, "unknown"),
        outcomes.Outcome("1:b", "", 0.5, 2.0, "ok"),
    ]
    verified = column | {"rows": {"fgsm/static": {"wall_s": 2.0}}}
    other = {"passes": 10, "images": "0:a 1:b", "rows": {"fgsm/static": row | {"correct": "0.2 1", "selection": "9 9"}}}
    both = outcomes.worst_of([outcomes.ran(column), outcomes.ran(verified | {"outcomes": other})])
    assert both["images"] == {"0:a": 0.2, "1:b": 0.5}, "verified first, then what selection says"
    assert both["choosing"] == [1], "what files of before do not say"
    chosen = outcomes.ran(column | {"outcomes": column["outcomes"] | {"choosing": 10}})
    both = outcomes.worst_of([chosen, outcomes.ran(verified | {"outcomes": other})])
    assert both["choosing"] == [1, 10]
    assert both["images"] == {"0:a": 0.2, "1:b": 1.0}, "1.2 of the second run in all, 1.5 of the first: no mixture"
    lucky = {"farther": ("0 0", "-0.5 -0.4"), "lucky once": ("1 1", "-0.6 0.9")}
    rows = {id: row | {"correct": left, "selection": leaning} for id, (left, leaning) in lucky.items()}
    for id, (left, _) in lucky.items():
        one = {"passes": 10, "images": "0:a 1:b", "rows": {id: rows[id]}}
        assert outcomes.worst_of([outcomes.ran(column | {"rows": {id: {"wall_s": 2.0}}, "outcomes": one})])[
            "accuracy"
        ] == float(left.split()[0])
    two, walls = {"passes": 10, "images": "0:a 1:b", "rows": rows}, {id: {"wall_s": 2.0} for id in rows}
    found = outcomes.worst_of([outcomes.ran(column | {"rows": walls, "outcomes": two})])
    assert found["images"] == {"0:a": 0.0, "1:b": 0.0}, "for all images the attack that leans farther over all of them"
    plain = outcomes.ran(column | {"null_attack": None})
    assert outcomes.worst_of([plain])["choosing"] == [], "without noise there is no choice"


def test_a_random_model_is_judged_where_attacks_through_its_noise_ran(tmp_path):
    """By hand from the samples: of 12 images 5 met the attack through the noise, and transfer counts."""
    rows = ("--attack", "pgd", "--gradient", "eot", "--eot-samples", "2", "--set", "pgd.steps=2", "--cap", "pgd=5")
    attacked(tmp_path / "eot", "rcnn", "--limit", "12", "--eps", "0.1", *rows)
    attacked(tmp_path / "static", "rcnn", "--limit", "12", "--eps", "0.1", "--attack", "fgsm", "--attack", "transfer",
             "--set", "transfer.steps=3")  # fmt: skip
    runs = [outcomes.ran(column_of(tmp_path / name)) for name in ("eot", "static")]
    found = outcomes.worst_of(runs)
    assert (found["n"], found["attacks"]) == (5, 3)
    samples = [sample for name in ("eot", "static") for sample in read_samples(tmp_path / name)]
    samples = [sample for sample in samples if sample.attack != "null"]
    met = {sample.image for sample in samples if sample.attack == "pgd/eot"}
    assert len(met) == 5
    expected = [min((s for s in samples if s.image == image), key=lambda s: s.selection).correct for image in met]
    assert found["k"] == pytest.approx(sum(expected))
    alone = {row: sum(s.correct for s in samples if s.attack == row and s.image in met) / 5
             for row in {s.attack for s in samples}}  # fmt: skip
    assert found["strongest"]["accuracy"] == pytest.approx(min(alone.values()))
    assert alone[found["strongest"]["row"]] == pytest.approx(min(alone.values()))
    assert outcomes.worst_of(runs[1:])["n"] == 12, "no attack through the noise in that run"


def test_a_table_over_tables_names_every_machine_behind_it(tmp_path):
    attacked(tmp_path / "run", "cnn", "--limit", "5", "--eps", "0.1", "--attack", "fgsm")
    column = column_of(tmp_path / "run")
    elsewhere = column | {"environment": column["environment"] | {"device": "cuda (a card)", "torch": "9"}}
    made = reproduce.joined("cnn", {"1": column, "beyond-linf": elsewhere})["environment"]
    assert made["device"] == ", ".join(sorted([column["environment"]["device"], "cuda (a card)"]))
    assert made["torch"] == ", ".join(sorted([column["environment"]["torch"], "9"]))
    assert made["git"] == str(column["environment"]["git"]), "the same"


def test_a_row_on_survivors_is_not_called_the_strongest_alone(tmp_path):
    rows = ("--attack", "pgd", "--attack", "apgd-dlr", "--set", "apgd-dlr.steps=9", "--eps", "0.15", "--limit", "20")
    attacked(tmp_path / "survivors", "cnn", *rows, "--worst-case")
    attacked(tmp_path / "all", "cnn", "--attack", "fgsm", "--eps", "0.15", "--limit", "20")
    survivors, every = (read_run(tmp_path / name) for name in ("survivors", "all"))
    together = outcomes.worst_of([outcomes.ran(column_of(tmp_path / name)) for name in ("survivors", "all")])
    first, last = survivors.attacks
    assert last.attacked < first.attacked
    assert together["strongest"]["row"] == first.id == "pgd/static", "the first row met all images, as fgsm did"
    assert together["k"] <= survivors.worst_case.k < every.worst_case.k
    assert sum(together["images"].values()) == together["k"]
    assert len(together["images"]) == together["n"] == 20


def test_what_has_not_run_is_named_and_nothing_is_lost(tmp_path, capsys):
    with pytest.raises(SystemExit, match="no model is in all of the tables above"):
        together(("linf",), tmp_path)
    assert "cnn is left out: table 1, beyond-linf, autoattack has not run for it" in capsys.readouterr().err
    attacked(tmp_path / "run", "cnn", "--limit", "5", "--eps", "0.1", "--attack", "fgsm")
    column = column_of(tmp_path / "run")
    assert column["wall_s"] == column["rows"]["fgsm/static"]["wall_s"] > 0, "however often it was killed"
    for table in reproduce.OF_NORM["linf"]:
        add(tmp_path, table, "cnn", column)
    found = together(("linf",), tmp_path)
    assert found["cnn"]["k"] == column["worst_case"]["k"]
    bare = {name: part for name, part in column.items() if name != "outcomes"}
    add(tmp_path, "beyond-linf", "cnn", bare)
    with pytest.raises(SystemExit, match="run them first"):
        together(("linf",), tmp_path)
    assert "cnn is left out: table beyond-linf keeps no outcomes of it" in capsys.readouterr().err
    add(tmp_path, "union", "cnn", found["cnn"])
    assert together(("linf",), tmp_path) == found, "nothing newer is there to say of it"
    assert "cnn stands as it was: table beyond-linf keeps no outcomes of it" in capsys.readouterr().err
    less = column | {"worst_case": column["worst_case"] | {"accuracy": found["cnn"]["accuracy"] - 0.1}}
    add(tmp_path, "beyond-linf", "cnn static", less)
    with pytest.raises(SystemExit, match="run them first"):
        together(("linf",), tmp_path)
    assert "cnn is left out" in capsys.readouterr().err, "a table that it is not made of found less"
    for other in ({"model_digest": "of other weights"}, {"environment": {"git": "of another commit"}}):
        add(tmp_path, "beyond-linf", "cnn", bare | other)
        with pytest.raises(SystemExit, match="run them first"):
            together(("linf",), tmp_path)


def test_the_union_over_norms_is_of_what_result_files_keep(tmp_path, capsys):
    names = {table: norm for norm, tables in reproduce.OF_NORM.items() for table in tables}
    eps = {"linf": "0.1", "l1": "3", "l2": "0.5"}
    for model in ("cnn", "rcnn+"):
        for norm in reproduce.NORMS:
            rows = ("--limit", "15", "--norm", norm, "--eps", eps[norm], "--attack", "pgd", "--set", "pgd.steps=4")
            attacked(tmp_path / f"{norm}-{model}", model, *rows)
        for table, norm in names.items():
            add(tmp_path, table, model, column_of(tmp_path / f"{norm}-{model}"))
    union = together(reproduce.NORMS, tmp_path)
    samples = [read_samples(tmp_path / f"{norm}-cnn") for norm in reproduce.NORMS]
    robust = {s.image for s in samples[0]}
    for of_norm in samples:
        robust -= {s.image for s in of_norm if s.correct == 0}
    assert union["cnn"]["k"] == len(robust)
    assert union["cnn"]["n"] == 15
    assert union["cnn"]["attacks"] == len(names) == 9
    assert set(union) == {"cnn", "rcnn+"}
    linf = together(("linf",), tmp_path)
    assert union["cnn"]["k"] <= linf["cnn"]["k"]
    attacked(tmp_path / "by", "rcnn+", "--limit", "15", "--eps", "0.1", "--attack", "transfer", "--include-transfer",
             "--set", "transfer.steps=2")  # fmt: skip
    add(tmp_path, "beyond-linf", "rcnn+ by its reconstructions", column_of(tmp_path / "by"))
    assert together(("linf",), tmp_path)["rcnn+"]["attacks"] == linf["rcnn+"]["attacks"] + 1
    assert set(union["cnn"]["tables"]) == set(names)
    add(tmp_path, "autoattack-l2", "rcnn+ static", column_of(tmp_path / "l2-rcnn+"))
    l2 = together(("l2",), tmp_path)
    assert [l2[name]["attacks"] for name in ("cnn", "rcnn+")] == [3, 4]
    assert l2["rcnn+"]["tables"] == ["5-l2", "beyond-l2", "autoattack-l2", "autoattack-l2 (rcnn+ static)"]
    add(tmp_path, "autoattack-l2", "rcnn+ targeted", column_of(tmp_path / "l2-rcnn+"))
    assert together(("l2",), tmp_path)["rcnn+"]["tables"][-1] == "autoattack-l2 (rcnn+ targeted)"
    file = tmp_path / "table-autoattack-l2-digits.json"
    columns = {name: column for name, column in reproduce.columns_of(file).items() if name != "cnn"}
    reproduce.write(file, {"table": "autoattack-l2", "dataset": "digits", "columns": columns})
    capsys.readouterr()
    assert set(together(("l2",), tmp_path)) == {"rcnn+"}, "models must meet the same attacks"
    assert "cnn is left out: table autoattack-l2 has not run for it" in capsys.readouterr().err


@pytest.mark.parametrize("dataset", ["mnist", "cifar10"])
@pytest.mark.parametrize("table", list(reproduce.COMPUTED))
def test_tables_over_tables_are_what_their_files_say(table, dataset):
    """What is shipped can be made again from what is shipped, wherever it was run."""
    target = BENCHMARKS / "results" / f"table-{table}-{dataset}.json"
    found = reproduce.together(reproduce.COMPUTED[table], target.parent, dataset, target)
    shipped = reproduce.columns_of(target)
    assert found.keys() == shipped.keys()
    for model, column in found.items():
        assert json.loads(json.dumps(column)) == {name: part for name, part in shipped[model].items() if name in column}


ORIGIN = {"command", "seed", "environment", "wall_s"}


def test_what_is_compared_with_other_libraries_says_where_it_comes_from():
    found = json.loads((BENCHMARKS / "results" / "parity.json").read_text(encoding="utf-8"))
    assert set(found) == {"iterates", "distances", "autoattack"}
    for part in found.values():
        assert set(part) >= ORIGIN
        assert set(part["environment"]) >= {"rbfbench", "torch", "git", "device", "threads"}
        assert "dirty" not in part["environment"]["git"]


def test_every_result_says_where_it_comes_from():
    files = sorted((BENCHMARKS / "results").glob("table-*.json"))
    assert files
    for file in files:
        for name, column in json.loads(file.read_text(encoding="utf-8"))["columns"].items():
            assert set(column) >= ORIGIN, (file.name, name)
            assert {"git", "torch", "python", "rbfbench", "device", "threads"} <= set(column["environment"])
            assert "dirty" not in column["environment"]["git"], (file.name, name)
            paths = [word for word in column["command"].split() if word.startswith(("/", "~"))]
            assert not paths, f"{file.name}, {name}: a path of the machine that made it"


def test_the_nearest_reconstruction_decides():
    """Against distances in float64, and on the references, whose own class is at distance 0."""
    surrogate = nearest.of("digits")
    images, _ = load_training("digits")
    x, y = images.batch(0, 300)
    with torch.no_grad():
        logits = surrogate(x)
        flat = surrogate.defence.front_static(x).flatten(1)
    assert surrogate.references.shape == (len(images), 64), "digits has fewer images than are wanted"
    assert (logits.argmax(1) == y).all()
    away = torch.cdist(flat.double(), surrogate.references.double()).square()
    for label in range(10):
        expected = -away[:, surrogate.classes == label].amin(1)
        # Squares of up to 64 pixels are added and subtracted in float32.
        torch.testing.assert_close(logits[:, label].double(), expected, rtol=0, atol=64 * 4 * 2**-23 * 4)


@pytest.mark.parametrize("dataset", ["digits", "mnist"])
def test_the_quick_table_runs_and_goes_on_where_it_was_killed(dataset, tmp_path):
    words = ["quick", "--dataset", dataset, "--limit", "4", "--work", tmp_path / "work", "--results", tmp_path]
    environment = os.environ | {"RBFBENCH_DATA_ROOT": str(tmp_path / "no-data")}
    command = [sys.executable, BENCHMARKS / "reproduce.py", *words]
    subprocess.run(command, env=environment, check=True, capture_output=True)
    file = tmp_path / f"table-quick-{dataset}.json"
    result = json.loads(file.read_text())
    models = [model for model in MODELS if shipped_path(model, dataset)]
    more = [
        f"{model} {what}"
        for model in ("cnn-ls-noise", "rcnn+")
        for what in (*(f"eps={eps}" for eps in paper.BOUNDS[dataset]), "sigma=0.25")
    ]
    assert list(result["columns"]) == [*models, *more]
    assert {result["columns"][f"{model} sigma=0.25"]["draws"] for model in ("cnn-ls-noise", "rcnn+")} == {200}
    for model, column in result["columns"].items():
        if model not in models:
            continue
        rows = {row.id for row in load_suite("quick")}
        assert set(column["rows"]) == (rows if model in reproduce.RANDOM else rows - {"pgd-margin/eot"})
        assert column["clean"]["n"] == 4
        assert column["command"].startswith(f"rbfbench attack --model {model} --dataset {dataset}")
        assert column["seed"] == 0
    stamps = {path: path.stat().st_mtime_ns for path in (tmp_path / "work").rglob("cells/*.gz")}
    assert len(stamps) > len(result["columns"])
    # As a kill leaves it: one cell is not there, one model has no result, and the file ends before the last column.
    lost = next(iter(stamps))
    lost.unlink()
    (tmp_path / "work" / f"quick-{dataset}-4" / "rcnn+" / "run.json").unlink()
    part = {**result, "columns": {name: c for name, c in result["columns"].items() if name != "rcnn+"}}
    file.write_text(json.dumps(part))
    subprocess.run(command, env=environment, check=True, capture_output=True)
    again = json.loads(file.read_text())["columns"]
    kept = {path: stamp for path, stamp in stamps.items() if path != lost}
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert lost.is_file()
    for model, column in result["columns"].items():
        kind = "certified" if "certified" in column else "worst_case"
        assert again[model][kind] == column[kind]


@pytest.mark.parametrize("preset", PRESET_NAMES)
@pytest.mark.parametrize("dataset", DATASETS)
def test_every_model_can_be_trained_by_one_command(dataset, preset, tmp_path):
    made = []
    for words in train_models.commands(tmp_path, dataset, preset):
        assert CliRunner().invoke(cli, [*words, "--show"]).exit_code == 0
        _, given = parsed(words)
        if given["source"]:
            assert Path(given["source"]).name in made
        made.append(given["out"].name)
    assert made == [f"{dataset}-{name}.safetensors" for name in train_models.TRAINED]


def test_a_rate_that_trains_no_net_goes_on_from_a_trained_one():
    """The authors' script for noisy copies on CIFAR-10 has 1e-5, and loads nothing."""
    started = {}
    for words in train_models.commands(Path("folder"), "cifar10", "authors"):
        if "--start" in words:
            started[Path(words[words.index("--out") + 1]).stem] = Path(words[words.index("--start") + 1]).stem
    assert started == {"cifar10-rcnn+": "cifar10-rcnn", "cifar10-cnn-ls-noise": "cifar10-cnn-ls"}
    others = [
        (dataset, preset)
        for dataset in DATASETS
        for preset in PRESET_NAMES
        if (dataset, preset) != ("cifar10", "authors")
    ]
    assert not any("--start" in words for each in others for words in train_models.commands(Path("folder"), *each))


def test_models_that_are_there_whole_are_not_trained_again(tmp_path, monkeypatch, capsys):
    ran = []
    monkeypatch.setattr(train_models, "called", lambda words: ran.append(Path(words[words.index("--out") + 1]).stem))
    monkeypatch.setattr(sys, "argv", ["train_models.py", str(tmp_path)])
    (tmp_path / "mnist-cnn.safetensors").touch()
    (tmp_path / "mnist-rcnn.safetensors").touch()
    (tmp_path / "mnist-rcnn.safetensors.work").mkdir()  # which goes on, or is found to be done
    train_models.main()
    assert [f"mnist-{name}" for name in train_models.TRAINED if name != "cnn"] == ran
    assert "mnist-cnn.safetensors is there" in capsys.readouterr().out


def test_adversarial_training_takes_the_papers_epochs():
    shown = {}
    for words in train_models.commands(Path("folder"), "cifar10", "paper"):
        lines = CliRunner().invoke(cli, [*words, "--show"]).output.splitlines()
        name = Path(words[words.index("--out") + 1]).stem.removeprefix("cifar10-")
        shown[name] = dict(line.split("=", 1) for line in lines)
    epochs = {name: shown[name]["schedule.epochs"] for name in ("madry", "madry-l2", "rcnn", "rcnn+")}
    assert epochs == {"madry": "205", "madry-l2": "205", "rcnn": "600", "rcnn+": "600"}
    norms = {name: shown[name]["adversary.norm"] for name in ("madry", "madry-l2", "madry-l1")}
    assert norms == {"madry": "linf", "madry-l2": "l2", "madry-l1": "l1"}
    assert {constants["schedule.classifier"] for constants in shown.values()} == {"vgg16"}
    assert shown["madry"]["schedule.halve_every"] == "41"  # four halvings, as in 600 epochs with 120


def test_own_weights_take_the_place_of_the_shipped_ones(tmp_path):
    for name in ("cnn", "rcnn+"):
        (tmp_path / f"mnist-{name}.safetensors").touch()
    for table in ("1", "4", "6", "7", "claim-1", "beyond-linf", "autoattack"):
        found = list(jobs_of(table, "mnist", weights=tmp_path))
        assert {job.name.partition(" ")[0] for job in found} <= {"cnn", "rcnn+"}
        for job in found:
            _, given = parsed(job.words)
            named = given["model"]
            if "rcnn+" in job.name and "known noise" not in job.name and "noise_scope" in given:
                assert given["noise_scope"] == "image", "the scripts fix the noise; the paper draws it anew"
            assert named == str(tmp_path / f"mnist-{job.name.partition(' ')[0]}.safetensors")
            # What is transferred is made on the cnn of the same training, not on the shipped one.
            transfers = table == "1" or "transfer" in given.get("attacks", ())
            surrogates = [str(tmp_path / "mnist-cnn.safetensors")] if transfers else []
            assert list(given.get("surrogates", ())) == surrogates


@pytest.mark.parametrize(
    ("table", "there", "said"),
    [
        ("1", "rcnn+", "transfers from mnist-cnn.safetensors"),
        ("7", "rcnn+", "transfers from"),
        ("4", "cnn", "nothing to run"),
        ("7", "cnn", "nothing"),
    ],
)
def test_weights_that_a_table_cannot_use_are_told(table, there, said, tmp_path, capsys):
    (tmp_path / f"mnist-{there}.safetensors").touch()
    with pytest.raises(SystemExit) as stopped:
        reproduce.asked([table, "--weights", str(tmp_path)])
    assert stopped.value.code == 2
    assert said in capsys.readouterr().err


def test_a_folder_without_weights_is_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["reproduce.py", "1", "--weights", str(tmp_path)])
    with pytest.raises(SystemExit) as stopped:
        reproduce.main()
    assert stopped.value.code == 2
    assert "there is no mnist-cnn.safetensors" in capsys.readouterr().err


def test_models_are_trained_attacked_and_put_on_a_page(tmp_path):
    environment = os.environ | {"OMP_NUM_THREADS": "1"}

    def script(*words: str) -> str:
        command = [sys.executable, str(BENCHMARKS / words[0]), *words[1:]]
        return subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout

    few = ("--", "--epochs", "1")
    script("train_models.py", str(tmp_path), "--dataset", "digits", "--preset", "default", *few)
    assert sorted(path.stem for path in tmp_path.glob("*.safetensors")) == sorted(
        f"digits-{name}" for name in train_models.TRAINED
    )
    assert sorted(path.stem for path in tmp_path.glob("*.md")) == sorted(
        f"digits-{name}" for name in train_models.TRAINED
    )
    script("reproduce.py", "quick", "--dataset", "digits", "--limit", "4", "--weights", str(tmp_path))
    columns = json.loads((tmp_path / "results" / "table-quick-digits.json").read_text())["columns"]
    assert [name for name in columns if " " not in name] == list(train_models.TRAINED)
    assert str(tmp_path / "digits-rcnn+.safetensors") in columns["rcnn+"]["command"]
    script("results_page.py", str(tmp_path / "results"))
    text = (tmp_path / "RESULTS.md").read_text()
    assert "Quick run" in text
    assert "20 draws choose a class and 200 count it" in text
    assert "run again\nwith models trained by" in text
    assert "shipped" not in text


@pytest.mark.parametrize(("option", "value"), [("--epochs", "3"), ("--rounds", "2")])
def test_epochs_are_of_the_table_of_times(option, value, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["reproduce.py", "1", "--results", str(tmp_path), option, value])
    with pytest.raises(SystemExit) as stopped:
        reproduce.main()
    assert stopped.value.code == 2
    assert "are of table 2" in capsys.readouterr().err


@pytest.mark.parametrize("table", ["2", "3", "union", "all"])
@pytest.mark.parametrize("more", [["--models", "cnn"], ["--", "--device", "cpu"]])
def test_what_a_table_would_not_heed_is_refused(table, more, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["reproduce.py", table, "--results", str(tmp_path), *more])
    with pytest.raises(SystemExit) as stopped:
        reproduce.main()
    assert stopped.value.code == 2
    assert "takes all models at once" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_command_that_fails_ends_the_table_with_its_exit_code(tmp_path, capfd):
    job = reproduce.Job("cnn", ("attack", "--model", "no-such-model", "--dataset", "digits", "--eps", "0.1"))
    with pytest.raises(SystemExit) as stopped:
        reproduce.run(job, tmp_path, ())
    assert stopped.value.code == 2
    assert "no-such-model" in capfd.readouterr().err


def test_the_page_is_of_as_many_images_as_the_small_scale_takes_or_more():
    """Of every table with the small scale: images of its columns, and draws of its certificates.

    The authors' constants stand beside the paper's text on as many as a number of the paper is judged by.
    """
    for file in sorted((BENCHMARKS / "results").glob("table-*.json")):
        found = json.loads(file.read_text(encoding="utf-8"))
        table, dataset = found["table"], found["dataset"]
        if table in ("2", *reproduce.COMPUTED):
            continue
        given = reproduce.asked([table, "--dataset", dataset, "--scale", "small"])
        for name, column in found["columns"].items():
            n = column.get("n") or (column.get("clean") or column["certified"][0])["n"]
            least = min(given.limit, claims.ENOUGH) if name.startswith(reproduce.AUTHORS) else given.limit
            assert n >= least, (file.name, name)
            if "draws" in column and table == "6":
                assert column["draws"] >= given.draws, (file.name, name)
    full = reproduce.asked(["6"])
    assert (full.limit, full.draws) == (1000, 50_000)


def test_all_runs_every_table_but_that_of_times_and_stops_at_the_first_that_fails(tmp_path, monkeypatch):
    ran = []

    def called(words):
        ran.append(words[2])
        assert words[3:] == ["--dataset", "mnist", "--scale", "small", "--results", str(tmp_path)]
        if len(ran) == len(names):
            raise SystemExit(3)

    names = [name for name in (*reproduce.COMMANDS, *reproduce.COMPUTED) if name != "quick"]
    monkeypatch.setattr(reproduce, "called", called)
    words = ["all", "--dataset", "mnist", "--scale", "small", "--results", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", ["reproduce.py", *words])
    with pytest.raises(SystemExit) as stopped:
        reproduce.main()
    assert stopped.value.code == 3
    assert ran == names
    assert {"1", "beyond-l1", "autoattack", "7-l2", "union"} < set(ran)
    assert ran.index("3") > ran.index("autoattack"), "of what those left"


@pytest.mark.parametrize("words", [["all", "--limit", "5"], ["all", "--limit", "0"], ["1", "--limit", "0"],
                                   ["6", "--draws", "-1"], ["2", "--epochs", "-1"], ["2", "--epochs", "0"],
                                   ["2", "--rounds", "-1"], ["2", "--rounds", "0"]])  # fmt: skip
def test_amounts_that_cannot_be_are_refused(words, capsys):
    with pytest.raises(SystemExit) as stopped:
        reproduce.asked(words)
    assert stopped.value.code == 2
    assert "--limit" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--results", "--work", "FOLDER"])
@pytest.mark.parametrize("below", ["", "/below"])
def test_a_file_in_place_of_a_folder_is_refused_before_anything_runs(option, below, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    words = {option: f"{tmp_path}/file{below}"} if option == "FOLDER" else {
        "--results": str(tmp_path), "--work": str(tmp_path), option: f"{tmp_path}/file{below}"
    }  # fmt: skip
    script, module = ("train_models.py", train_models) if option == "FOLDER" else ("reproduce.py", reproduce)
    argv = list(words.values()) if option == "FOLDER" else ["quick", *itertools.chain(*words.items())]
    monkeypatch.setattr(sys, "argv", [script, *argv])
    monkeypatch.setattr(module, "called", lambda words: pytest.fail(f"ran {words}"))
    with pytest.raises(UsageError, match=f"{option} {tmp_path}/file{below} is no folder to write into"):
        module.main()


@pytest.mark.parametrize("text", ["", "{", "{}", "[]", '{"table": "9", "dataset": "mnist", "columns": {}}', "\xff"])
def test_a_broken_result_file_is_named(text, tmp_path):
    file = tmp_path / "table-1-mnist.json"
    file.write_bytes(text.encode("latin-1"))
    with pytest.raises(LoadError, match=f"cannot (read|use) {file}: ") as caught:
        results_page.results(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("folder", [".", "benchmarks", None])
def test_surrogates_are_found_from_anywhere_and_recorded_from_the_root(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(BENCHMARKS.parent / folder if folder else tmp_path)
    ran = []

    def called(program):
        ran.extend(program)
        raise SystemExit(0)

    monkeypatch.setattr(reproduce, "called", called)
    for job in jobs_of("beyond-linf", "mnist"):
        if job.name in reproduce.BY:
            with pytest.raises(SystemExit):
                reproduce.run(job, tmp_path, ())
    files = [word.removesuffix(":mnist") for word in ran if word.endswith(".py:mnist")]
    assert [Path(file).resolve() for file in files] == [BENCHMARKS / "smoothed.py", BENCHMARKS / "nearest.py"]
    if folder == ".":
        assert files == ["benchmarks/smoothed.py", "benchmarks/nearest.py"], "runs of before go on"


@pytest.mark.parametrize("everyone", [True, False], ids=["Ctrl-C", "kill -INT"])
@pytest.mark.parametrize("heeds", [True, False])
def test_an_interrupt_ends_the_command_too_and_is_one_word(heeds, everyone, tmp_path):
    """A terminal interrupts all processes, `kill` ours alone; a command may end before it can say that it does."""
    says = (
        "except KeyboardInterrupt: print('interrupted', file=sys.stderr); sys.exit(130)" if heeds else "finally: pass"
    )
    command = f"""
import pathlib, signal, sys, time
signal.signal(signal.SIGTERM, signal.getsignal(signal.SIGINT))
sys.excepthook = lambda *_: None
try:
    pathlib.Path({str(tmp_path / "ready")!r}).touch()
    time.sleep(60)
{says}
"""
    script = (
        "import scripts, sys; scripts.PATIENCE = 0.5; scripts.ended(lambda: scripts.called([sys.executable, '-c', "
        f"{command!r}]))"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, (BENCHMARKS, BENCHMARKS.parent)))}
    process = subprocess.Popen(
        [sys.executable, "-c", script],
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # Jobs in the background of a shell ignore the signal, and so would their children.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    while not (tmp_path / "ready").exists():
        assert process.poll() is None
        time.sleep(0.05)
    (os.killpg if everyone else os.kill)(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=30)  # ends only once the command has ended too: it holds the pipe
    assert (process.returncode, said) == (130, "interrupted\n")


def test_columns_of_other_images_are_not_put_beside_each_other(tmp_path):
    columns = {"cnn": {"data_digest": "a"}, "madry": {"data_digest": "a"}}
    assert reproduce.merged(columns, {"madry": {"data_digest": "a", "n": 1}}, tmp_path)["madry"]["n"] == 1
    with pytest.raises(SystemExit, match="other images"):
        reproduce.merged(columns, {"rcnn": {"data_digest": "b"}}, tmp_path)
    assert reproduce.merged({"rcnn": {}}, {"rcnn+": {}}, tmp_path) == {"rcnn": {}, "rcnn+": {}}


def test_columns_of_a_table_are_of_the_same_images_or_of_the_first_of_them(tmp_path):
    def column(digest, images=None):
        return {"data_digest": digest} | ({"outcomes": {"images": images}} if images else {})

    more, fewer, others = column("a", "0:x 1:y 2:z"), column("b", "0:x 1:y"), column("c", "0:x 1:yy")
    assert reproduce.merged({"cnn": more, "cnn-ls": column("a")}, {"fast": fewer}, tmp_path)["fast"] == fewer
    assert reproduce.merged({"cnn": fewer}, {"fast": more}, tmp_path)["fast"] == more
    capped = column("a", "0:x")  # every row took one image of the three
    assert reproduce.merged({"cnn": more, "fast": fewer}, {"rcnn": capped}, tmp_path)["rcnn"] == capped
    for stranger in (others, column("d"), column("d", "1:y")):
        with pytest.raises(SystemExit, match="other images"):
            reproduce.merged({"cnn": more, "fast": fewer}, {"rcnn": stranger}, tmp_path)


def test_models_that_run_at_once_keep_each_others_columns(tmp_path, monkeypatch):
    target = tmp_path / "table-quick-mnist.json"
    ran, of = iter(("cnn", "madry")), {"table": "quick", "dataset": "mnist"}

    def run(job, folder, extra):
        other = next(ran)  # meanwhile another process has written its model
        found = json.loads(target.read_text()) if target.is_file() else {**of, "columns": {}}
        reproduce.write(target, {**found, "columns": found["columns"] | {f"other {other}": {}}})
        return {job.name: {"wall_s": 1.0}}

    monkeypatch.setattr(reproduce, "run", run)
    words = ["quick", "--dataset", "mnist", "--models", "cnn,madry", "--results", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", ["reproduce.py", *words])
    reproduce.main()
    assert set(json.loads(target.read_text())["columns"]) == {"cnn", "madry", "other cnn", "other madry"}


def test_what_is_run_again_takes_the_place_of_its_column_alone(tmp_path, monkeypatch):
    """With all models too: some columns were hours of work, or have names that the command line does not make."""
    target = tmp_path / "table-quick-mnist.json"
    before = {"cnn": {"wall_s": 2.0}, "cnn sigma=0.3 n=50000": {"wall_s": 3.0}}
    reproduce.write(target, {"table": "quick", "dataset": "mnist", "columns": before})
    monkeypatch.setattr(reproduce, "run", lambda job, folder, extra: {job.name: {"wall_s": 1.0}})
    monkeypatch.setattr(sys, "argv", ["reproduce.py", "quick", "--dataset", "mnist", "--results", str(tmp_path)])
    reproduce.main()
    columns = json.loads(target.read_text())["columns"]
    assert set(columns) > {"cnn", "madry", "rcnn+", "cnn sigma=0.3 n=50000"}
    assert (columns["cnn"]["wall_s"], columns["cnn sigma=0.3 n=50000"]["wall_s"]) == (1.0, 3.0)


def test_words_after_two_dashes_are_for_the_commands():
    ours, extra = reproduce.split(["1", "--limit", "5", "--work", "a folder", "--", "--device", "cuda"])
    assert ours == ["1", "--limit", "5", "--work", "a folder"]
    assert extra == ["--device", "cuda"]
    assert reproduce.split(["1"]) == (["1"], [])


def test_the_page_is_made_of_the_files():
    made = (BENCHMARKS / "RESULTS.md").read_text(encoding="utf-8")
    assert made == results_page.page(results_page.results()), "run python benchmarks/results_page.py"
