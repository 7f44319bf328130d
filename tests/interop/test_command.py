"""Models that are commands: their answers are the model's, and whatever goes wrong is one line and exit code 3."""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from centroids import answers, write_server
from click.testing import CliRunner, Result

import rbfbench
from rbfbench.cli import cli
from rbfbench.errors import LoadError, ModelError, UsageError
from rbfbench.interop.command import CommandModel

ASKED = ("attack", "--dataset", "digits", "--eps", "0.2", "--limit", "12", "--device", "cpu")


@pytest.fixture
def served(tmp_path, monkeypatch) -> Path:
    write_server(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def command(*arguments: object) -> str:
    return " ".join(map(str, (sys.executable, "serve.py", "parameters.npz", *arguments)))


def run(*arguments: str) -> Result:
    return CliRunner().invoke(cli, list(arguments))


def test_the_answers_of_a_command_are_its_logits(served):
    model = CommandModel(command(), 60)
    images = rbfbench.load_data("digits")
    for start, n in ((0, 5), (5, 1), (6, 30)):  # one process, batches of any size
        logits = model(images.batch(start, start + n)[0])
        assert np.allclose(logits.numpy(), answers(n, start), atol=1e-4)
    assert logits.dtype == torch.float32
    assert model._process.poll() is None


def test_a_command_that_prints_something_else_is_quoted(served):
    chatty = CommandModel(f"{sys.executable} -uc \"while True: print('yes:', len(input()) > 0)\"", 2)
    with pytest.raises(
        ModelError, match="2 s passed on a batch; it printed 'yes: True', not the path; print the second"
    ):
        chatty(rbfbench.load_data("digits").batch(0, 1)[0])


def test_a_command_ends_with_its_model(served):
    model = CommandModel(command(), 60)
    model(rbfbench.load_data("digits").batch(0, 1)[0])
    process = model._process
    del model
    gc.collect()
    assert process.wait(10) != 0


def test_a_command_is_attacked_as_a_black_box(served):
    done = run(
        *ASKED, "--model", f"cmd:{command()}", "--attack", "square", "--set", "square.queries=200", "--json", "-"
    )
    assert done.exit_code == 0, done.output
    document = json.loads(done.stdout)
    assert document["model"]["differentiable"] is False
    assert document["clean"]["k"] == (answers(12).argmax(1) == labels(12)).sum()
    (row,) = document["attacks"]
    assert row["accuracy"] < document["clean"]["accuracy"]
    assert "no gradient reaches its input" in done.stderr


def labels(n: int) -> np.ndarray:
    return rbfbench.load_data("digits").batch(0, n)[1].numpy()


def test_gradient_attacks_on_a_command_are_refused_with_what_to_do(served):
    done = run(*ASKED, "--model", f"cmd:{command()}", "--attack", "pgd")
    assert isinstance(done.exception, ModelError)
    assert "no gradient reaches the image" in str(done.exception)
    assert "--suite black-box" in str(done.exception)


@pytest.mark.parametrize(
    ("mode", "words"),
    [
        ("crash", "has ended: exit code 1, after 30 answers; it said: RuntimeError: the lights went out;"),
        ("sleep", "did not answer: 2 s passed on a batch; print the second path and flush, raise --timeout"),
        ("nothing", "it wrote no file"),
        ("text", "it wrote no npz file"),
        ("name", "no array 'logits'"),
        ("shape", "it wrote float32 (1, 2) for"),
        ("integers", "it wrote int64"),
        ("nan", "NaN or infinite"),
    ],
)
def test_a_command_that_fails_keeps_the_attacks_that_are_done(served, mode, words):
    asked = (*ASKED, "--attack", "noise", "--attack", "square", "--set", "square.queries=60", "--out", "run")
    done = run(*asked, "--timeout", "2", "--model", f"cmd:{command(mode, 30)}")
    assert isinstance(done.exception, ModelError)
    assert done.exception.exit_code == 3
    assert words in str(done.exception)
    assert "\n" not in str(done.exception)
    assert "UNFINISHED RUN" in done.stdout
    document = json.loads((served / "run" / "run.json").read_text())
    assert document["status"] == "started"
    assert [row["id"] for row in document["attacks"]] == ["noise"]
    assert len(list((served / "run" / "cells").iterdir())) == 1


def test_a_command_that_never_works_is_an_error_before_the_run(served):
    for text, error, words in (
        ("cmd:no-such-program", LoadError, "cannot start"),
        ("cmd:", LoadError, "no command follows it"),
        ("cmd:'unbalanced", LoadError, "No closing quotation"),
        (f"cmd:{sys.executable} -c 1", ModelError, "exit code 0, after 0 answers"),
        (f"cmd:{command('text', 0)}", ModelError, "no npz file"),
    ):
        done = run(*ASKED, "--model", text, "--attack", "noise", "--out", "run")
        assert isinstance(done.exception, error)
        assert words in str(done.exception)
        assert not (served / "run" / "run.json").exists()


def test_a_command_that_closes_its_output_and_lives_on_is_ended(served):
    (served / "half.py").write_text("import os, sys, time\nsys.stdin.readline()\nos.close(1)\ntime.sleep(300)\n")
    model = CommandModel(f"{sys.executable} half.py", 60)
    began = time.monotonic()
    with pytest.raises(ModelError, match="has ended"):
        model(rbfbench.load_data("digits").batch(0, 1)[0])
    assert time.monotonic() - began < 30
    assert model._process.poll() is not None


def test_sigterm_ends_the_command_and_removes_its_files(served):
    """As schedulers do; the server is in a session of its own and would outlive us."""
    (served / "slow.py").write_text(
        "import os, pathlib, time\npathlib.Path('pid').write_text(str(os.getpid()))\ntime.sleep(300)\n"
    )
    environment = os.environ | {"TMPDIR": str(served)}
    asked = [*ASKED, "--attack", "noise", "--model", f"cmd:{sys.executable} slow.py"]
    ours = subprocess.Popen([sys.executable, "-c", "from rbfbench.cli import main; main()", *asked], env=environment)
    until = time.monotonic() + 120
    while not (served / "pid").exists() or not (served / "pid").read_text():
        assert time.monotonic() < until
        time.sleep(0.1)
    ours.terminate()
    assert ours.wait(60) == 130
    with pytest.raises(ProcessLookupError):
        os.kill(int((served / "pid").read_text()), 0)
    assert not list(served.glob("rbfbench-*"))


def test_a_malformed_answer_is_no_gradient(served):
    """The probe for gradients asks as the others do, and what goes wrong in it is an error."""
    model, asked = CommandModel(command(), 60), []

    def fails_third(x: torch.Tensor) -> torch.Tensor:
        asked.append(1)
        if len(asked) == 3:
            raise ModelError("it", "broke", "mend it")
        return model(x)

    from rbfbench.evaluation.target import inspect

    with pytest.raises(ModelError, match="broke"):
        inspect(fails_third, "m", rbfbench.load_data("digits").head(8), torch.device("cpu"))


def test_options_of_other_rows_are_refused_when_the_suite_becomes_black_box(served):
    done = run(*ASKED, "--model", f"cmd:{command()}", "--set", "pgd.steps=3")
    assert isinstance(done.exception, UsageError)
    assert "unknown attack of this run 'pgd'" in str(done.exception)
    done = run(*ASKED, "--model", f"cmd:{command()}", "--eot-samples", "3")
    assert isinstance(done.exception, UsageError)
    assert "--eot-samples changes nothing" in str(done.exception)


def test_comparing_with_a_command_takes_black_boxes_for_all(served):
    asked = ("compare", *ASKED[1:5], "--device", "cpu", "--limit", "2", "--format", "json")
    done = run(*asked, "--model", "cnn-ls", "--model", f"cmd:{command()}")
    assert done.exit_code == 0, (done.output, done.exception)
    document = json.loads(done.stdout)
    assert document["suite"] == "black-box"
    lines = {line["name"]: line for line in document["lines"]}
    assert all(lines["square"]["scores"])
    assert "the suite is black-box for all" in done.stderr


def test_a_slow_start_is_not_a_slow_answer(served):
    began = time.monotonic()
    with pytest.raises(ModelError, match=r"0\.3 s passed"):
        CommandModel(command("sleep", 0), 0.3)(rbfbench.load_data("digits").batch(0, 1)[0])
    assert time.monotonic() - began < 30
