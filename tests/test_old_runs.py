"""Runs of earlier versions of run.json stay readable, by every command that takes a run.

`fixtures/runs/` holds folders as those versions wrote them: rcnn on 6 images of the digits, linf eps 0.1.
"""

from __future__ import annotations

import gzip
import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from rbfbench.cli import cli
from rbfbench.errors import IncomparableError, LoadError
from rbfbench.results.store import SCHEMA_VERSION, read_run, read_samples

RUNS = sorted((Path(__file__).parent / "fixtures" / "runs").iterdir())
by_name = pytest.mark.parametrize("folder", RUNS, ids=lambda path: path.name)


def rbfbench(*words: object) -> str:
    done = CliRunner().invoke(cli, [str(word) for word in words])
    assert done.exit_code == 0, (words, done.output, done.exception)
    return done.stdout


def test_there_is_a_run_of_every_version():
    versions = {json.loads((folder / "run.json").read_text())["schema_version"] for folder in RUNS}
    assert versions == set(range(1, SCHEMA_VERSION + 1))


@by_name
def test_its_numbers_are_those_that_were_written(folder):
    written = json.loads((folder / "run.json").read_text())
    run, samples = read_run(folder), read_samples(folder)
    assert run.clean.accuracy == written["clean"]["accuracy"] == 5 / 6
    assert [row.accuracy for row in run.attacks] == [row["accuracy"] for row in written["attacks"]]
    assert run.worst_case is not None
    assert run.worst_case.accuracy == written["worst_case"]["accuracy"]
    for row in run.attacks:
        mine = [sample.correct for sample in samples if sample.attack == row.id]
        assert len(mine) == row.n
        assert sum(mine) / row.n == pytest.approx(row.accuracy)


@by_name
def test_it_is_reported_judged_and_compared(folder, tmp_path):
    worst = read_run(folder).worst_case
    assert worst is not None
    for ending in ("html", "md", "csv", "tex"):
        rbfbench("report", folder, "--out", tmp_path / f"r.{ending}")
        shown = f"{100 * worst.accuracy:.1f}" if ending != "csv" else str(worst.accuracy)
        assert shown in (tmp_path / f"r.{ending}").read_text(encoding="utf-8")
    rbfbench("baseline", "save", folder, tmp_path / "b.json")
    assert "PASSED" in rbfbench("check", folder, "--baseline", tmp_path / "b.json")
    twin = shutil.copytree(folder, tmp_path / "twin")
    document = json.loads((twin / "run.json").read_text())
    (twin / "run.json").write_text(json.dumps(document | {"model_digest": "another"}))
    assert "WORST CASE" in rbfbench("compare", folder, twin)


@pytest.mark.parametrize("kept", [0, 0.5, 2])
def test_a_run_whose_images_are_not_those_it_counts_is_refused(tmp_path, kept):
    folder = shutil.copytree(RUNS[-1], tmp_path / "run")
    lines = gzip.decompress((folder / "samples.jsonl.gz").read_bytes()).splitlines(keepends=True)
    lines = (2 * lines)[: int(kept * len(lines))]
    (folder / "samples.jsonl.gz").write_bytes(gzip.compress(b"".join(lines)))
    for words in (
        ("compare", folder, RUNS[-1]),
        ("check", folder, "--min-accuracy", "0.1"),
        ("check", RUNS[-1], "--baseline", folder),
        ("baseline", "save", folder, tmp_path / "b.json"),
    ):
        done = CliRunner().invoke(cli, [str(word) for word in words])
        assert isinstance(done.exception, LoadError), (words, done.output, done.exception)
        assert done.exception.exit_code == 3
        assert str(folder / "samples.jsonl.gz") in str(done.exception)
        assert "and run.json counts 6" in str(done.exception)


def test_what_an_earlier_version_measured_otherwise_is_not_compared(tmp_path):
    """The first did not say for what its draws were averaged: the attacks need not be the same."""
    first, second = RUNS
    done = CliRunner().invoke(cli, ["compare", str(first), str(second)])
    assert isinstance(done.exception, IncomparableError)
    assert "pgd-margin/eot" in str(done.exception)
