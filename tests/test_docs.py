"""What docs/ says about the code is true of the code: quoted lines, links, constants, commands, figures."""

from __future__ import annotations

import ast
import dataclasses
import math
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from cards import cards
from safetensors import safe_open

import rbfbench
from rbfbench.cli import cli
from rbfbench.cli.options import KNOBS
from rbfbench.cli.plan import rows_of
from rbfbench.defenses import shipped_path
from rbfbench.defenses.em import EM_PRESETS, REJECT_SCORE, STEP_DOWN
from rbfbench.defenses.rbf import PRESETS, RBFConfig
from rbfbench.training.recipes import DATASETS, NOISES, RECIPES, SCHEDULES, noise_of, schedule_of

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "rbf-cnn.md"
TEXT = PAGE.read_text(encoding="utf-8")
LINES = TEXT.splitlines()
SPOKEN = " ".join(TEXT.split())

# Clean accuracies that the paper reports in Tables I and VII; every other percentage must be on a card.
PAPER = {"85.0%", "85.1%", "89.2%", "99.5%", "99.6%"}


# Quoted code ----------------------------------------------------------------------------------------------------------
def blocks(language: str) -> Iterator[tuple[str, list[str]]]:
    """(the line above, the lines inside) of each fenced block."""
    above, inside = "", None
    for i, line in enumerate(LINES):
        if inside is None and line.strip() == f"```{language}":
            above, inside = LINES[i - 1], []
        elif inside is not None and line.strip() == "```":
            yield above, inside
            inside = None
        elif inside is not None:
            inside.append(line)
    assert inside is None, "a block is not closed"


REFERENCE = re.compile(r"\[(?P<file>[\w/]+\.py): (?P<name>[\w.]+)\]\(\.\./(?P<link>[\w/]+\.py)\)")


def quotes() -> list[tuple[str, str, list[str]]]:
    """(file, name, quoted lines) of each quotation; a Python block that says neither is an error."""
    found = []
    for above, inside in blocks("python"):
        match = REFERENCE.fullmatch(above)
        if inside[0].startswith("model ="):  # to be typed, not quoted
            continue
        assert match, f"nothing says where this is from: {inside[0]}"
        assert match["file"] == match["link"]
        found.append((match["file"], match["name"], inside))
    return found


def named(source: str, name: str) -> str:
    """The text of a function, method, class or module-level assignment."""
    body: list[ast.stmt] = ast.parse(source).body
    node: ast.AST | None = None
    for part in name.split("."):
        node = next((stmt for stmt in body if part in names_of(stmt)), None)
        assert node is not None, f"there is no {name}"
        body = getattr(node, "body", [])
    segment = ast.get_source_segment(source, node)
    assert segment
    return segment


def names_of(stmt: ast.stmt) -> list[str]:
    if isinstance(stmt, ast.FunctionDef | ast.ClassDef):
        return [stmt.name]
    targets = stmt.targets if isinstance(stmt, ast.Assign) else [stmt.target] if isinstance(stmt, ast.AnnAssign) else []
    return [target.id for target in targets if isinstance(target, ast.Name)]


def normal(line: str) -> str:
    return " ".join(line.split())


def missing(source: str, name: str, quoted: list[str]) -> str | None:
    """The first quoted line that is not in `name`, in the order of the quotation."""
    code = iter([normal(line) for line in named(source, name).splitlines()])
    return next((line for line in quoted if line.strip() and normal(line) not in code), None)


def test_the_page_quotes_code():
    assert len(quotes()) > 25


@pytest.mark.parametrize(("file", "name", "quoted"), quotes(), ids=[f"{file}:{name}" for file, name, _ in quotes()])
def test_quoted_lines_are_in_the_code(file, name, quoted):
    assert missing((ROOT / file).read_text(encoding="utf-8"), name, quoted) is None


DISC = "class Disc:\n    def area(self):\n        r = self.radius\n        return 2 * self.radius\n"


def test_a_line_that_is_not_in_the_code_is_noticed():
    quoted = ["r = self.radius", "    return 2  * self.radius"]
    assert missing(DISC, "Disc.area", quoted) is None
    assert missing(DISC.replace("2 *", "3 *"), "Disc.area", quoted) == quoted[1]
    assert missing(DISC, "Disc.area", quoted[::-1]) == quoted[0]
    with pytest.raises(AssertionError, match=r"there is no Disc\.area"):
        missing(DISC.replace("area", "surface"), "Disc.area", quoted)


# Links ----------------------------------------------------------------------------------------------------------------
def anchor(heading: str) -> str:
    """As GitHub makes them."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


@pytest.mark.parametrize("page", sorted(PAGE.parent.glob("**/*.md")), ids=lambda page: page.name)
def test_relative_links_resolve(page):
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    anchors = {anchor(line.lstrip("#").strip()) for line in text.splitlines() if line.startswith("#")}
    links = re.findall(r"\]\(([^)\s]+)\)", text)
    assert links
    for link in links:
        place, _, part = link.partition("#")
        if ":" in place:
            assert place.startswith("https://")
        elif place:
            assert (page.parent / place).resolve().is_file(), link
            assert (page.parent / place).resolve().is_relative_to(ROOT), link
        else:
            assert part in anchors, link


# Constants ------------------------------------------------------------------------------------------------------------
def tables() -> Iterator[tuple[list[str], dict[str, list[str]]]]:
    """(heads, first cell -> other cells) of each table."""
    for group in re.findall(r"(?:^\|.*\|$\n)+", TEXT, re.MULTILINE):
        rows = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in group.splitlines()]
        assert len({len(row) for row in rows}) == 1, rows[0]
        yield rows[0], {row[0]: row[1:] for row in rows[2:]}


def table(head: str) -> tuple[list[str], dict[str, list[str]]]:
    (found,) = [(heads[1:], rows) for heads, rows in tables() if heads[0] == head]
    return found


def shown(value: object) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return "e" if value == math.e else f"{value:g}"
    return str(value)


def differing(columns: dict[str, object]) -> tuple[list[str], dict[str, list[str]]]:
    """The table of all fields whose value is not the same in all columns."""
    fields = [field.name for field in dataclasses.fields(next(iter(columns.values())))]  # type: ignore[arg-type]
    rows = {name: [getattr(constants, name) for constants in columns.values()] for name in fields}
    kept = {f"`{name}`": list(map(shown, values)) for name, values in rows.items() if len(set(values)) > 1}
    return list(columns), kept


@pytest.mark.parametrize("dataset", ["cifar10", "mnist"])
def test_preset_tables_are_the_constants(dataset):
    assert list(PRESETS) == ["default", "paper", "authors"]
    assert table("`RBFConfig`") == differing(PRESETS)
    assert table(f"`Noise`, {dataset}") == differing({preset: NOISES[preset, dataset] for preset in PRESETS})
    clean, noisy = RECIPES["rcnn"], RECIPES["rcnn+"]
    columns = {preset: schedule_of(preset, dataset, clean) for preset in PRESETS}
    for preset in PRESETS:
        if schedule_of(preset, dataset, noisy) != columns[preset]:
            columns |= {f"{preset}, with copies": schedule_of(preset, dataset, noisy)}
    assert table(f"`Schedule`, {dataset}") == differing(columns)


def test_every_field_that_differs_somewhere_is_in_a_table():
    """Also those of data sets that have no table of their own: there must be none to show."""
    assert {dataset for _, dataset, _ in SCHEDULES} == {dataset for _, dataset in NOISES} == set(DATASETS)
    for preset in PRESETS:
        for recipe in RECIPES.values():
            assert schedule_of(preset, "digits", recipe) == SCHEDULES["default", "digits", False]
            assert noise_of(preset, "digits", recipe) in (None, NOISES["default", "digits"])


def test_what_is_the_same_in_all_presets():
    (sentence,) = re.findall(r"The same in all: (.*)\.", TEXT)
    same = {field.name: getattr(RBFConfig(), field.name) for field in dataclasses.fields(RBFConfig)}
    varying = {name.strip("`") for name in differing(PRESETS)[1]}
    assert sentence == ", ".join(f"`{k}` {shown(v)}" for k, v in same.items() if k not in varying)


def test_em_table_is_the_constants():
    assert table("`EMConfig`") == differing(EM_PRESETS)
    assert {config.updates for config in EM_PRESETS.values()} == {501}
    assert {config.images_per_update for config in EM_PRESETS.values()} == {750}
    assert f"{REJECT_SCORE} + \\ln\\alpha & \\alpha > 0" in SPOKEN
    assert f"\\alpha + {STEP_DOWN}\\left(" in SPOKEN
    assert {config.min_share for config in EM_PRESETS.values()} == {0.001}
    assert {config.min_count for config in EM_PRESETS.values()} == {1}


def test_recipe_table_is_the_recipes():
    _, rows = table("recipe")
    assert list(rows) == [f"`{name}`" for name in RECIPES]
    for name, recipe in RECIPES.items():
        front, smoothing, copies, _ = rows[f"`{name}`"]
        assert front == shown(recipe.rbf)
        assert smoothing == (shown(recipe.smoothing) if recipe.smoothing else "no")
        assert copies.startswith("yes" if recipe.source else "no")
        assert f"`{recipe.source}`" in copies or recipe.source is None


def test_shipped_filters_are_as_described():
    heads, rows = table("filters")
    for dataset, count in zip(heads, rows["shipped here"], strict=True):
        with safe_open(shipped_path("rcnn", dataset), framework="pt") as file:
            means = file.get_tensor("reconstruction.means")
            variances = file.get_tensor("reconstruction.variances")
        assert len(means) == int(count)
        flattest = variances.argmin()
        assert variances[flattest] < 1e-19
        assert (means[flattest] == (1 if dataset == "cifar10" else 0)).all()  # white, or black


# Figures --------------------------------------------------------------------------------------------------------------
def test_percentages_are_recorded():
    cards = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "rbfbench/defenses/weights").glob("*.md"))
    figures = set(re.findall(r"\d+\.\d+%", TEXT))
    assert figures - PAPER
    for figure in figures - PAPER:
        assert figure in cards, figure
        assert len(figure.partition(".")[2]) == 3, f"{figure}: the paper's figures have one decimal, ours two"


def test_clean_accuracies_are_those_of_the_cards():
    found = cards()
    _, rows = table("clean accuracy")
    for row, (noisy, quiet, *paper) in rows.items():
        model, dataset = row.replace("`", "").split(", ")
        assert found[model, dataset].noisy.startswith(f"{noisy} ")
        assert found[model, dataset].quiet.startswith(f"{quiet} ")
        assert set(paper) <= PAPER | {"not stated"}
    for dataset in ("mnist", "cifar10"):
        assert re.search(rf"{found['rcnn+', dataset].training} on {dataset.replace('cifar', 'cifar-')}", SPOKEN, re.I)


def test_arithmetic():
    """Numbers that follow from the equations."""
    flat = 1e-20
    for text in (
        f"= {0.5 * math.log(2 * math.pi):.3f}$",
        f"lambda = {25 * math.log(2):.1f}$",
        f"lambda = {125 * math.log(2):.1f}$",
        f"this is {2 ** (25 * 0.05):.1f} at",
        f"and {2 ** (125 * 0.05):.0f} at",
        f"ln 81 = {math.log(0.9 / (0.1 / 9)):.2f}$",
        f"gives {-0.5 * math.log(flat):.1f} for",
        f"is {-0.5 * math.log(RBFConfig().var_floor):.2f}, and",
        f"moves it by {(1 / 255) ** 2 / (2 * RBFConfig().var_floor):.3f}.",
    ):
        assert text in SPOKEN, text
    assert -((1 / 255) ** 2) / (2 * flat) - 0.5 * math.log(flat) < -1e14


# Commands -------------------------------------------------------------------------------------------------------------
def commands() -> list[str]:
    return [line for _, inside in blocks("sh") for line in inside]


@pytest.mark.parametrize("line", commands())
def test_commands_are_understood(line, tmp_path, monkeypatch):
    """Parsed, not run; trainings print their constants."""
    monkeypatch.chdir(tmp_path)
    program, name, *arguments = shlex.split(line)
    assert program == "rbfbench"
    if name == "train":
        assert cli.main([name, *arguments, "--show"], standalone_mode=False) is None
        return
    command: click.Command = cli.get_command(click.Context(cli), name)
    while isinstance(command, click.Group):
        command = command.commands[arguments.pop(0)]
    parameters = command.make_context(name, arguments).params
    if name == "attack":
        assert rows_of(parameters)


def test_probes_change_what_they_say():
    """Each probe of the last chapter is a model of its own."""
    probes = {line for line in commands() if "--model rcnn -" in line}
    for option, change in {
        "--noise-scope model": {"noise_scope": "model"},
        "--var-floor 1e-20": {"var_floor": 1e-20},
        "--no-clip": {"clip": False},
    }.items():
        assert [line for line in probes if option in line], option
        assert rbfbench.load_model("rcnn", "mnist").config != rbfbench.load_model("rcnn", "mnist", **change).config
    assert not rbfbench.load_model("rcnn", "mnist", noise_scope="model").stochastic


def test_knobs_are_those_of_the_command_line_and_their_python_runs():
    (sentence,) = re.findall(r"in every command that takes a model: (.*?)\.", SPOKEN)
    assert sentence == ", ".join(f"`--{knob.replace('_', '-')}`" for knob in KNOBS)
    namespace = {"rbfbench": rbfbench, "dataclasses": dataclasses}
    ((_, source),) = [block for block in blocks("python") if not REFERENCE.fullmatch(block[0])]
    exec(compile("\n".join(source), "page", "exec"), namespace)
    assert (namespace["model"].config.noise_scope, namespace["model"].config.beta2) == ("patch", 1.0)


# Form -----------------------------------------------------------------------------------------------------------------
def test_github_can_typeset_the_formulas():
    r"""Markdown takes the backslash from `\,` and its like in $...$; in a fenced block it does not."""
    prose = re.sub(r"^```.*?^```", "", TEXT, flags=re.DOTALL | re.MULTILINE)
    for line in prose.splitlines():
        assert line.count("$") % 2 == 0, line
        for formula in line.split("$")[1::2]:
            assert formula == formula.strip(), formula
            assert not re.search(r"\\[^a-zA-Z]", formula), formula
    for _, inside in blocks("math"):
        formula = "\n".join(inside)
        assert formula.count("{") == formula.count("}")
        assert sorted(re.findall(r"\\begin\{(\w+)", formula)) == sorted(re.findall(r"\\end\{(\w+)", formula))
        assert len(re.findall(r"\\left\b", formula)) == len(re.findall(r"\\right\b", formula))
