"""rbfbench.toml: what it may hold, what beats it, and that nothing in it is overlooked."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from click.testing import CliRunner

from rbfbench.cli import COMMANDS, cli
from rbfbench.cli.configuration import read_configuration
from rbfbench.errors import IncomparableError, UsageError

DIGITS = """
[options]
dataset = "digits"
device = "cpu"
limit = 8

[attack]
model = "cnn"
eps = 0.1
suite = "quick"
passes = 2
set = { "pgd.steps" = 2, "pgd-margin.steps" = 3 }
"""


@pytest.fixture
def run(here, tmp_path):
    def with_file(text: str, *words: str, env: dict[str, str] | None = None):
        (tmp_path / "rbfbench.toml").write_text(text)
        return CliRunner().invoke(cli, list(words), env=env, auto_envvar_prefix="RBFBENCH")

    return with_file


def spec(done) -> dict:
    assert done.exit_code == 0, (done.output, done.exception)
    return json.loads(done.stdout)["spec"]


def test_the_file_speaks_where_nothing_else_does(run):
    found = spec(run(DIGITS, "attack", "--json", "-"))
    assert (found["dataset"], found["limit"], found["model"], found["eps_text"]) == ("digits", 8, "cnn", "0.1")
    assert (found["suite"], found["passes"]) == ("quick (changed)", 2)
    steps = {row["attack"] + row["label"]: row["parameters"].get("steps") for row in found["rows"]}
    assert (steps["pgd"], steps["pgdmargin"]) == (2, 3)


def test_a_gate_of_the_file_takes_no_nan(run):
    done = run(
        '[gate.x]\nmax-drop = nan\nmin-accuracy = 0.1\ndataset = "digits"\nmodel = "cnn"\neps = 0.1\n',
        "check",
        "--gate",
        "x",
    )
    assert done.exit_code == 2, (done.output, done.exception)
    assert "Invalid value for '--max-drop': nan is no finite number" in done.output


def test_a_flag_beats_the_environment_which_beats_the_file(run):
    environment = {"RBFBENCH_ATTACK_LIMIT": "6", "RBFBENCH_ATTACK_SEED": "5"}
    found = spec(run(DIGITS, "attack", "--limit", "4", "--json", "-", env=environment))
    assert (found["limit"], found["seed"]) == (4, 5)
    assert spec(run(DIGITS, "attack", "--json", "-", env=environment))["limit"] == 6
    assert spec(run(DIGITS + "seed = 7\n", "attack", "--json", "-"))["seed"] == 7


def test_attacks_that_are_typed_beat_a_suite_of_the_environment(run):
    found = spec(run(DIGITS, "attack", "--attack", "fgsm", "--json", "-", env={"RBFBENCH_ATTACK_SUITE": "adaptive"}))
    assert [row["attack"] for row in found["rows"]] == ["fgsm"]


def test_a_suite_of_the_environment_beats_attacks_of_the_file(run):
    text = '[options]\ndataset = "digits"\neps = 0.1\nlimit = 3\nmodel = "cnn"\nattack = ["fgsm"]\n'
    found = spec(run(text, "attack", "--json", "-", env={"RBFBENCH_ATTACK_SUITE": "quick"}))
    assert found["suite"] == "quick"


def test_the_section_of_a_command_beats_that_of_all(run):
    assert spec(run(DIGITS + "limit = 3\n", "attack", "--json", "-"))["limit"] == 3


def test_attacks_that_were_typed_replace_the_suite_of_the_file_with_its_settings(run):
    found = spec(run(DIGITS + 'cap = ["mi-fgsm=3"]\n', "attack", "--attack", "fgsm", "--json", "-"))
    assert [row["attack"] for row in found["rows"]] == ["fgsm"]
    assert found["suite"] == ""
    text = DIGITS.replace('set = { "pgd.steps" = 2, "pgd-margin.steps" = 3 }', "")
    text = text.replace('suite = "quick"', 'attack = ["fgsm", "pgd"]')
    assert spec(run(text, "attack", "--json", "-"))["suite"] == ""
    found = spec(run(text, "attack", "--suite", "quick", "--json", "-"))
    assert found["suite"] == "quick"
    both = run(text + 'suite = "quick"\n', "attack", "--json", "-")
    assert "exclude each other" in str(both.exception)


def test_attacks_of_a_special_section_replace_the_suite_of_a_general_one(run):
    general = '[options]\nsuite = "quick"\ndataset = "digits"\nlimit = 4\ndevice = "cpu"\n'
    special = 'attack = ["fgsm"]\nmodel = "cnn"\neps = 0.1\n'
    found = spec(run(f"{general}[attack]\n{special}", "attack", "--json", "-"))
    assert [row["attack"] for row in found["rows"]] == ["fgsm"]
    gate = run(f"{general}[gate.a]\n{special}min-accuracy = 0.0\n", "check", "--gate", "a")
    assert gate.exit_code == 0, (gate.output, gate.exception)


def test_another_file_can_be_named(here, tmp_path):
    (tmp_path / "other.toml").write_text(DIGITS)
    assert spec(here("--config", "other.toml", "attack", "--json", "-"))["limit"] == 8
    assert "none.toml" in str(here("--config", "none.toml", "ls").exception)
    (tmp_path / "rbfbench.toml").mkdir()
    assert "cannot read rbfbench.toml" in str(here("ls", "attacks").exception)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[options]\nlimitt = 3\n", ("limitt", "did you mean 'limit'")),
        ("[attack]\nepss = 3\n", ("epss", "[attack]", "did you mean 'eps'")),
        ("[atack]\neps = 3\n", ("section", "did you mean 'attack'")),
        ("limit = 3\n", ("section", "limit")),
        ("[gate.a]\nbase = 3\n", ("[gate.a]", "did you mean 'baseline'")),
        ("[attack]\neps = [1, 2]\n", ("takes one value",)),
        ("attack = 3\n", ("attack", "no table")),
        ("[attack]\ndry-run = 7\n", ("dry-run = 7", "true or false")),
        ("[attack]\nclip = 0\n", ("clip = 0", "true or false")),
        ("[attack]\nseed = 2.7\n", ("seed = 2.7", "a whole number")),
        ("[attack]\npasses = true\n", ("passes = True", "a whole number")),
        ("[attack]\neps = true\n", ("eps = True", "a number or a text")),
        ("[attack]\neps = 2026-01-01\n", ("eps = 2026-01-01", "a number or a text")),
        ("[figure.filter]\nout = 'a.png'\n", ("filter", "[figure]", "did you mean")),
        ("[attack\n", ("rbfbench.toml",)),
        ("[train]\nsource = 3\nmodel = 'x'\n", ("model", "[train]")),
    ],
)
def test_what_cannot_be_is_told_whatever_command_runs(run, text, words):
    done = run(text, "ls", "attacks")
    assert isinstance(done.exception, UsageError), done.output
    assert all(word in str(done.exception) for word in words), str(done.exception)


def test_values_are_read_as_those_of_flags(run):
    done = run("[attack]\nlimit = 'many'\n", "attack")
    assert "--limit many" in str(done.exception)
    assert run("[attack]\npasses = 0\n", "attack").exit_code == 2


def test_options_reach_commands_of_commands(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rbfbench.toml").write_text("[options]\nseed = 4\n[figure.gallery]\nnorm = 'l1'\n")
    found = read_configuration(None, cli).commands
    assert found["figure"]["gallery"] == {"seed": 4, "norm": "l1"}
    assert found["figure"]["saliency"] == {"seed": 4}
    assert found["attack"] == {"seed": 4}
    assert set(found) == set(COMMANDS)


def test_a_gate_of_the_file_is_judged(run, tmp_path):
    made = run(DIGITS, "attack", "--out", "run")
    assert made.exit_code == 0
    assert run(DIGITS, "baseline", "save", "run", "b.json").exit_code == 0
    gates = """
[gate.small]
model = "cnn"
eps = 0.1
passes = 2
set = { "pgd.steps" = 2, "pgd-margin.steps" = 3 }
suite = "quick"
baseline = "b.json"

[gate.floor]
model = "cnn"
eps = 0.2
attack = ["fgsm"]
min-accuracy = { linf = 1.0 }
"""
    passed = run(DIGITS + gates, "check", "--gate", "small")
    assert passed.exit_code == 0, (passed.output, passed.exception)
    assert "PASSED" in passed.output
    failed = run(DIGITS + gates, "check", "--gate", "floor")
    assert failed.exit_code == 1, (failed.output, failed.exception)
    typed = run(DIGITS + gates, "check", "--gate", "floor", "--min-accuracy", "linf=0")
    assert typed.exit_code == 0, "a flag beats the gate"
    assert run(DIGITS + gates, "check", "run", "--gate", "small").exit_code == 0
    other = run(DIGITS + gates, "check", "run", "--gate", "floor")
    assert isinstance(other.exception, IncomparableError), "a run at eps 0.1 says nothing of a gate at 0.2"
    assert "eps is 0.1 in the run and 0.2 in the gate" in str(other.exception)
    assert "did you mean 'small'" in str(run(DIGITS + gates, "check", "--gate", "smal").exception)
    assert "[gate.small]" in str(run(DIGITS, "check", "--gate", "small").exception)


def test_reading_a_file_imports_every_command_and_no_torch(tmp_path):
    (tmp_path / "rbfbench.toml").write_text(DIGITS)
    code = (
        "import sys\nfrom rbfbench.cli import cli\nfrom rbfbench.cli.configuration import read_configuration\n"
        "assert read_configuration(None, cli).commands['attack']['limit'] == 8\n"
        "assert not {'torch', 'numpy', 'matplotlib', 'rich.table'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
