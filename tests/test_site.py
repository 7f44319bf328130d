"""The site: pages that are made hold what the tables hold, and the commands of the tutorials do as told."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import generate
import pytest
from click.testing import CliRunner

from rbfbench.attacks import ATTACKS, SUITES, Parameter, load_suite
from rbfbench.cli import cli
from rbfbench.cli.plan import rows_of
from rbfbench.defenses import SHIPPED, shipped_for
from rbfbench.errors import RbfbenchError
from rbfbench.interop.preprocessings import PREPROCESSINGS

DOCS = Path(__file__).parents[1] / "docs"
BLOCK = re.compile(r"^```([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


# Pages that are made --------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def pages() -> dict[str, str]:
    return generate.pages()


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_has_a_page_with_all_its_parameters(name, pages):
    page, info = pages[f"attacks/{name}.md"], ATTACKS[name]
    assert page.startswith(f"# {name}\n")
    assert f"- **Norms**: {', '.join(info.norms)}\n" in page
    assert f"- **Kind**: {info.kind}: " in page
    forwards, backwards = info.passes({key: p.default for key, p in info.parameters.items()})
    assert f"draw: {forwards:,} forward, {backwards:,} backward\n" in page
    found = dict(re.findall(r"^\| `(\w+)` \| `(.*?)` \| .* \| .+ \|$", page, re.MULTILINE))
    assert found == {key: generate.shown(p) for key, p in info.parameters.items()}
    for suite in SUITES:
        assert (f"`{suite}` (" in page) == any(row.attack == name for row in load_suite(suite))
    for number in re.findall(r"\d{4}\.\d{4,5}", info.reference):
        assert f"{number}](https://arxiv.org/abs/{number})" in page


def test_a_value_is_shown_as_it_is_set():
    assert generate.shown(Parameter(True, "bool")) == "true"
    assert generate.shown(Parameter(None, "float")) == "none"
    assert generate.bounds(Parameter(0.5, "float", 0.0, most=1.0)) == "at least 0, at most 1"
    assert generate.bounds(ATTACKS["pgd"].parameters["step_size"]) == "above 0"
    assert generate.bounds(ATTACKS["pgd"].parameters["loss"]) == "ce, margin"


def test_a_docstring_is_taken_apart():
    arguments = "Args:\n    a: First,\n        in two lines.\n    b_c: Second."
    assert generate.sections(f"One line.\n\nMore: of it.\n\n{arguments}\n\nReturns:\n    It.") == (
        "One line.\n\nMore: of it.",
        {"a": "First, in two lines.", "b_c": "Second."},
        "It.",
    )


@pytest.mark.parametrize("name", SHIPPED)
def test_a_model_has_a_page_with_all_its_cards(name, pages):
    page = pages[f"defences/{generate.stem(name)}.md"]
    assert page.startswith(f"# {name}\n")
    assert re.findall(r"^## On (\w+)$", page, re.MULTILINE) == shipped_for(name)
    assert page.count("| test: ") >= len(shipped_for(name))
    assert page.count("<details>") == page.count("\n\n</details>\n") == len(shipped_for(name))


def test_lists_name_all_there_is(pages):
    attacks, defences = pages["attacks/index.md"], pages["defences/index.md"]
    assert all(f"[{name}]({name}.md)" in attacks for name in ATTACKS)
    assert all(f"| `{name}` |" in attacks for name in SUITES)
    assert all(f"[{name}]({generate.stem(name)}.md)" in defences for name in SHIPPED)
    assert all(f"| `{name}` |" in defences for name in PREPROCESSINGS)


def test_commands_of_made_pages_are_understood(pages):
    """Parsed, not run."""
    blocks = [block for page in pages.values() for language, block in BLOCK.findall(page) if not language]
    lines = "".join(blocks).splitlines()
    assert len(lines) == len(ATTACKS) + len(SHIPPED) + len(PREPROCESSINGS)
    for line in lines:
        _, name, *arguments = shlex.split(line)
        command = cli.get_command(click.Context(cli), name)
        assert rows_of(command.make_context(name, arguments).params)


def test_old_pages_do_not_stay(tmp_path):
    (tmp_path / "attacks").mkdir()
    (tmp_path / "attacks" / "gone.md").write_text("# gone\n")
    generate.write(tmp_path)
    assert {str(file.relative_to(tmp_path)) for file in tmp_path.glob("*/*")} == set(generate.pages())


# Tutorials ------------------------------------------------------------------------------------------------------------
def run(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """What each command of a page printed: its files are written and its commands run in their order."""
    monkeypatch.chdir(folder)
    printed = {}
    for language, block in BLOCK.findall((DOCS / name).read_text(encoding="utf-8")):
        if language == "python":
            Path(re.match(r"# (\w+\.py)\n", block)[1]).write_text(block)
        elif language == "toml":
            Path("rbfbench.toml").write_text(block)
        for line in block.splitlines() if not language else ():
            command, _, code = line.partition("  # exit ")
            program, *arguments = shlex.split(command)
            assert program == "rbfbench"
            done = CliRunner().invoke(cli, arguments)
            ended = done.exception.exit_code if isinstance(done.exception, RbfbenchError) else done.exit_code
            assert ended == int(code or 0), (command, done.output, done.exception)
            printed[command] = f"{done.output}{done.exception or ''}"
    return printed


def accuracy(printed: str, row: str) -> float:
    return float(re.search(rf"^{re.escape(row)} .*?([\d.]+)%", printed, re.MULTILINE)[1])


def test_the_first_page_runs(tmp_path, monkeypatch):
    (printed,) = run("index.md", tmp_path, monkeypatch).values()
    assert "rcnn+ on digits, linf eps 0.1, 20 images" in printed


def test_the_researcher_finds_what_the_page_says(tmp_path, monkeypatch):
    printed = run("tutorial-researcher.md", tmp_path, monkeypatch)
    first, without_gradient, adaptive, compared, strongest, _ = printed.values()
    assert accuracy(first, "clean") - accuracy(first, "WORST CASE") < 5
    assert "! check zero-gradient" in first
    assert "! check black-box-stronger" in without_gradient
    assert accuracy(without_gradient, "square") < accuracy(without_gradient, "pgd/static")
    assert accuracy(adaptive, "clean") == accuracy(first, "clean")
    assert accuracy(adaptive, "WORST CASE") < accuracy(first, "WORST CASE")
    assert "WORST CASE" in compared
    assert "square" in strongest
    assert "mydefence:adaptive" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_the_build_fails_when_the_page_says_so(tmp_path, monkeypatch):
    _, _, same, fell, other_radius, typo, gate, too_low, _, _ = run("tutorial-ci.md", tmp_path, monkeypatch).values()
    assert "PASSED" in same
    assert "FAILED" in fell
    assert "newly broken" in fell
    assert "visible" in fell
    assert (tmp_path / "gate.xml").is_file()
    assert "eps differs" in other_radius
    assert "--esp" in typo
    assert "PASSED" in gate
    assert "FAILED" in too_low


def test_the_comparison_runs(tmp_path, monkeypatch):
    models, _, _, _, compared, over_eps, over_beta2, _, _ = run("tutorial-compare.md", tmp_path, monkeypatch).values()
    assert all(name in models for name in SHIPPED)
    assert "madry" in (tmp_path / "table.md").read_text(encoding="utf-8")
    assert "pgd/static" in compared
    assert all(radius in over_eps for radius in ("0.05", "0.1", "0.2"))
    assert "pgd-margin/eot" in over_beta2
    assert all((tmp_path / name).stat().st_size for name in ("eps.svg", "comparison.html", "curve.tex"))
