"""The printed table: its text at two widths, in a pipe, with and without noise, and when something went wrong."""

from __future__ import annotations

import io
import subprocess
import sys

import msgspec
import pytest
from rich.console import Console

from rbfbench.reporting.table import attack_table
from rbfbench.reporting.words import duration
from rbfbench.results.intervals import score
from rbfbench.results.records import AttackRow, Category, Check, Environment, Run, View, WorstCase

N = 100


def make_row(
    id: str, category: Category, k: float, passes: tuple[int, int], wall_s: float, *, decisions: int
) -> AttackRow:
    name, _, view = id.partition("/")
    total = score(k, N)
    return AttackRow(
        accuracy=total.accuracy,
        k=k,
        n=N,
        ci95=total.ci95,
        id=id,
        name=name,
        view=msgspec.convert(view or "none", View),
        category=category,
        norm="linf",
        eps=0.031,
        decisions=decisions,
        invalid=0,
        unknown=0,
        forwards=passes[0],
        backwards=passes[1],
        wall_s=wall_s,
        params={"steps": 10},
        accuracy_8bit=min(1.0, total.accuracy + 0.004),
        wrong_any=round(N - k) + 3 if decisions > 1 else None,
    )


def make_run(kind: str) -> Run:
    """A run as the engine would make it: "stochastic", "deterministic" or "partial"."""
    decisions = 1 if kind == "deterministic" else 3
    third = 0 if decisions == 1 else 1 / 3
    rows = [
        make_row("fgsm/static", "static", 61, (3, 1), 0.64, decisions=decisions),
        make_row("pgd/static", "static", 52 + 2 * third, (42, 40), 12.3, decisions=decisions),
        make_row("pgd/eot", "white-box", 38 + third, (340, 320), 71, decisions=decisions),
        make_row("mi-fgsm/eot", "white-box", 40, (170, 160), 38, decisions=decisions),
        make_row("noise", "black-box", 80, (4, 0), 0.9, decisions=decisions),
    ]
    checks = []
    if kind == "partial":
        rows[1] = msgspec.structs.replace(rows[1], unknown=12)
        rows[2] = msgspec.structs.replace(rows[2], invalid=1)
        checks = [
            Check(code="D3", fired=True, detail="fgsm/static beats pgd/static: the gradient may be masked"),
            Check(code="D4", fired=False, detail="more steps change nothing"),
        ]
    clean, worst = score(82 + third, N), score(36 + third, N)
    return Run(
        status="partial" if kind == "partial" else "complete",
        spec={
            "model": "rcnn",
            "dataset": "cifar10",
            "source": "embedded sample: test images 0-999",
            "available": 1000,
            "norm": "linf",
            "eps": 0.031,
            "eps_text": "0.031",
            "suite": "quick",
            "limit": N,
            "seed": 0,
        },
        spec_digest="0" * 64,
        model_digest="1" * 64,
        data_digest="2" * 64,
        model={"name": "cnn" if decisions == 1 else "rcnn", "stochastic": decisions > 1, "n_classes": 10},
        environment=Environment(rbfbench="0.1.0", python="3.11.9", torch="2.10.0", device="cpu", threads=2, git=None),
        clean=clean,
        attacks=rows,
        worst_case=WorstCase(accuracy=worst.accuracy, k=worst.k, n=N, ci95=worst.ci95, strongest="pgd/eot"),
        null_attack=score(81 + third, N) if decisions > 1 else None,
        checks=checks,
    )


def printed(run: Run, width: int, encoding: str = "utf-8") -> str:
    """What a pipe receives."""
    raw = io.BytesIO()
    file = io.TextIOWrapper(raw, encoding=encoding, write_through=True)
    Console(file=file, width=width).print(attack_table(run))
    return raw.getvalue().decode(encoding)


def line_of(text: str, label: str) -> str:
    (line,) = (line for line in text.splitlines() if line.startswith(label + " ") and "%" in line)
    return line


@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize("kind", ["stochastic", "deterministic", "partial"])
def test_fits_the_width_and_carries_no_escape_codes(kind: str, width: int) -> None:
    text = printed(make_run(kind), width)
    assert "\x1b" not in text
    assert max(map(len, text.splitlines())) <= width
    assert "…" not in text, "nothing may be cut"


@pytest.mark.parametrize("width", [80, 120])
def test_every_number_stands_in_its_row(width: int) -> None:
    text = printed(make_run("stochastic"), width)
    assert "rcnn on cifar10, linf eps 0.031, 100 images, seed 0" in text
    assert "embedded sample: test images 0-999" in text
    for word in ("82.3%", "73.7-88.6", "82.3/100"):
        assert word in line_of(text, "clean")
    for word in ("white-box", "38.3%", "29.4-48.1", "38.3/100", "38.7%", "1m 11s", "660" if width == 80 else "340+320"):
        assert word in line_of(text, "pgd/eot")
    for word in ("36.3%", "27.6-46.1", "36.3/100"):
        assert word in line_of(text, "WORST CASE")
    assert "81.3%" in line_of(text, "null control")


def test_rows_come_as_clean_attacks_worst_case_controls() -> None:
    lines = printed(make_run("stochastic"), 80).splitlines()
    order = ["clean", "fgsm/static", "pgd/static", "pgd/eot", "mi-fgsm/eot", "WORST CASE", "null control", "noise"]
    at = [next(i for i, line in enumerate(lines) if line.startswith(label)) for label in order]
    assert at == sorted(at)


def test_footnotes_say_what_the_numbers_do_not() -> None:
    text = " ".join(printed(make_run("stochastic"), 80).split())
    assert "not the strength of the attack" in text
    assert "upper bound" in text
    assert "scored on 3 fresh decisions" in text
    assert "Strongest alone: pgd/eot" in text
    assert "--limit 1000 takes about 20m 28s" in text


@pytest.mark.parametrize(("accuracy", "n", "said"), [(0.39, 100, True), (0.37, 100, False), (0.39, 200, False)])
def test_a_worst_case_above_its_strongest_row_is_explained(accuracy: float, n: int, said: bool) -> None:
    """Only where both are over the same images."""
    run = make_run("stochastic")
    row = next(row for row in run.attacks if row.id == "pgd/eot")
    assert 0.37 < row.accuracy < 0.39
    worst = msgspec.structs.replace(run.worst_case, accuracy=accuracy, n=n)
    text = " ".join(printed(msgspec.structs.replace(run, worst_case=worst), 80).split())
    assert ("stands above that row" in text) == said


def test_a_deterministic_run_says_nothing_about_luck() -> None:
    text = " ".join(printed(make_run("deterministic"), 120).split())
    assert "only if none of the attacks broke it" in text
    for absent in ("null", "fresh", "wrong in", "any of", "fraction", "transfer", "PARTIAL"):
        assert absent not in text


def test_a_partial_run_says_so_first_and_names_the_cause() -> None:
    text = printed(make_run("partial"), 120)
    assert text.splitlines()[2].startswith("PARTIAL RUN")
    assert "! pgd/static: 12 images undecided after an error, counted as robust" in text
    assert "! pgd/eot: 1 candidate outside the budget, counted as robust" in text
    assert "! check D3: fgsm/static beats pgd/static" in text
    assert "D4" not in text, "a check that did not fire is no news"


def test_a_run_without_attacks_or_optional_fields_still_prints() -> None:
    full = make_run("stochastic")
    bare = msgspec.structs.replace(full, status="started", spec={}, model={}, attacks=[], worst_case=None)
    text = printed(msgspec.structs.replace(bare, null_attack=None), 80)
    assert "82.3%" in line_of(text, "clean")
    assert "UNFINISHED RUN" in text
    assert "--limit" not in text


def test_all_images_used_suggests_no_more() -> None:
    run = make_run("stochastic")
    assert "--limit" not in printed(msgspec.structs.replace(run, spec={**run.spec, "available": N}), 120)


def test_what_more_images_take_is_not_told_from_a_part_of_the_attacks() -> None:
    run = make_run("stochastic")
    assert "--limit" in printed(run, 120)
    assert "--limit" not in printed(msgspec.structs.replace(run, status="started"), 120)


def test_a_terminal_without_unicode_gets_ascii() -> None:
    text = printed(make_run("stochastic"), 120, encoding="ascii")
    assert "--o--" in line_of(text, "pgd/eot")


def test_names_are_text_not_markup() -> None:
    run = make_run("stochastic")
    model = {**run.model, "name": "my[red].nets:build[/]"}
    assert "my[red].nets:build[/] on cifar10" in printed(msgspec.structs.replace(run, model=model), 120)


def test_colour_only_where_there_is_a_terminal() -> None:
    file = io.StringIO()
    Console(file=file, width=120, force_terminal=True, color_system="standard").print(attack_table(make_run("partial")))
    assert "\x1b[1;31m" in file.getvalue(), "the worst case stands out"


def test_ten_thousand_images_fit_80_columns() -> None:
    run = make_run("stochastic")
    total = score(8123.4, 10_000)
    rows = [msgspec.structs.replace(r, k=total.k, n=total.n, forwards=12_000.0, wall_s=7300.0) for r in run.attacks]
    text = printed(msgspec.structs.replace(run, clean=total, attacks=rows), 80)
    assert max(map(len, text.splitlines())) <= 80
    assert "8123/10000" in line_of(text, "pgd/static")
    assert "2h 02m" in line_of(text, "mi-fgsm/eot")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0.0s"), (9.94, "9.9s"), (9.96, "10s"), (59.6, "1m 00s"), (3599.7, "1h 00m"), (7290, "2h 02m")],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_printing_loads_nothing_heavy() -> None:
    code = "import rbfbench.reporting.table, sys; print(sorted({'torch', 'numpy', 'scipy'} & set(sys.modules)))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout == "[]\n"


@pytest.mark.parametrize("width", [40, 50, 60, 76])
def test_narrow_screens_keep_every_name_and_number_whole(width):
    run = make_run("stochastic")
    lines = printed(run, width).splitlines()
    assert max(map(len, lines)) <= width
    for row in run.attacks:
        (line,) = [line for line in lines if line.startswith(f"{row.id} ")]
        assert f"{100 * row.accuracy:.1f}%" in line
        assert f"{100 * row.ci95[0]:.1f}-{100 * row.ci95[1]:.1f}" in line
    assert any(line.startswith("WORST CASE ") for line in lines)
