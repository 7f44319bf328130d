"""Run folders: kills, damage, several writers, foreign files, and what a file may hold."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jsonschema
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rbfbench.cli.options import check_writable
from rbfbench.errors import IncompleteError, LoadError
from rbfbench.results.atomic import write_atomic
from rbfbench.results.intervals import score
from rbfbench.results.records import AttackRow, Cell, Environment, Run, Sample, WorstCase, encode_run
from rbfbench.results.schema import SCHEMA_FILE, run_schema
from rbfbench.results.store import RunFolder, cell_key, read_run, read_samples

KEY = cell_key({"attack": "pgd"})
HALF = score(1, 2)
posix = pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals or permissions")


def make_sample(image: int = 0, **changes: Any) -> Sample:
    fields: dict[str, Any] = {"attack": "pgd/eot", "image": f"{image}:abc", "label": 3, "clean_prediction": 3}
    fields |= {"adversarial_prediction": 5, "clean_correct": 1.0, "correct": 1 / 3, "correct_8bit": 0.5}
    fields |= {"wrong_any": True, "selection": -0.25, "status": "ok", "forwards": 10, "backwards": 9}
    return Sample(**{**fields, "linf": 0.031, "l2": 1.0, "l1": None, **changes})


def make_row(**changes: Any) -> AttackRow:
    fields: dict[str, Any] = {"accuracy": 0.5, "k": 1.0, "n": 2, "ci95": HALF.ci95, "id": "pgd/eot", "name": "pgd"}
    fields |= {"view": "eot", "category": "white-box", "norm": "linf", "eps": 0.031, "decisions": 3, "invalid": 0}
    fields |= {"unknown": 0, "forwards": 10.5, "backwards": 9.0, "wall_s": 1.5, "params": {"steps": 10, "loss": "ce"}}
    return AttackRow(**{**fields, "accuracy_8bit": 0.5, "wrong_any": 2, **changes})


def make_cell(images: int = 2) -> Cell:
    return Cell(row=make_row(), samples=[make_sample(i) for i in range(images)])


def make_run(**changes: Any) -> Run:
    fields: dict[str, Any] = {
        "status": "complete",
        "spec": {"model": "rcnn", "eps": 0.031, "nested": {"steps": [1, 2]}},
        "spec_digest": "0",
        "model_digest": "1",
        "data_digest": "2",
        "model": {"name": "rcnn"},
        "environment": Environment(rbfbench="0.1.0", python="3.11", torch="2.10", device="cpu", threads=2, git=None),
        "clean": score(2, 2),
        "attacks": [make_row()],
        "worst_case": WorstCase(accuracy=0.5, k=1, n=2, ci95=HALF.ci95, strongest="pgd/eot"),
        "null_attack": score(1.5, 2),
        "checks": [],
    }
    return Run(**{**fields, **changes})


def test_what_is_written_is_read(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "deep" / "run")
    assert folder.read_cell(KEY) is None
    folder.write_cell(KEY, make_cell())
    samples = [make_sample(i) for i in range(3)]
    folder.finish(make_run(), samples)
    again = RunFolder(folder.path)
    assert again.read_cell(KEY) == make_cell()
    assert read_run(folder.path) == read_run(folder.path / "run.json") == make_run()
    assert read_samples(folder.path) == samples
    assert sorted(p.name for p in folder.path.iterdir()) == ["cells", "run.json", "samples.jsonl.gz"]


def test_the_same_results_are_the_same_bytes(tmp_path: Path) -> None:
    contents = []
    for name in ("a", "b"):
        folder = RunFolder(tmp_path / name)
        folder.write_cell(KEY, make_cell())
        folder.finish(make_run(), [make_sample()])
        contents.append([p.read_bytes() for p in sorted(folder.path.rglob("*")) if p.is_file()])
    assert contents[0] == contents[1]
    compressed = [data for data in contents[0] if data.startswith(b"\x1f\x8b")]
    assert [data[4:8] for data in compressed] == [bytes(4)] * 2, "no clock in the header"


@posix
def test_files_follow_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        folder = RunFolder(tmp_path / "run")
        folder.finish(make_run(), [])
    finally:
        os.umask(before)
    assert (folder.path / "run.json").stat().st_mode & 0o777 == 0o644


KEY_SPECS = st.dictionaries(st.text(), st.integers() | st.text() | st.floats(allow_nan=False, allow_infinity=False))


@given(KEY_SPECS)
def test_keys_do_not_depend_on_order(spec: dict[str, Any]) -> None:
    backwards = dict(reversed(spec.items()))
    assert cell_key(spec) == cell_key(backwards) == cell_key({**backwards})
    assert cell_key(spec) != cell_key({**spec, "one more": [1]})
    assert len(cell_key(spec)) == 64


def test_keys_are_stable_between_versions_and_refuse_what_is_no_json() -> None:
    assert hashlib.sha256(b'{"attack":"pgd"}').hexdigest() == KEY
    for bad in (float("nan"), float("inf"), Path("x"), {1, 2}):
        with pytest.raises((ValueError, TypeError)):
            cell_key({"x": bad})


WRITER = """
import os, signal, sys
sys.path.insert(0, {tests!r})
from pathlib import Path
from test_store import KEY, make_cell, make_run, make_sample
from rbfbench.results import atomic
from rbfbench.results.store import RunFolder, cell_key
folder = RunFolder(Path({folder!r}))
cell = make_cell(800)
"""


def start(code: str, folder: Path) -> subprocess.Popen[str]:
    code = WRITER.format(tests=str(Path(__file__).parent), folder=str(folder)) + code
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=environment)


@posix
def test_sigkill_in_the_middle_of_writes_leaves_a_readable_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    loop = """
print("ready", flush=True)
while True:
    for i in range(4):
        folder.write_cell(cell_key({"i": i}), cell)
    folder.finish(make_run(), cell.samples)
"""
    for attempt in range(4):
        with start(loop, tmp_path) as writer:
            assert writer.stdout is not None
            writer.stdout.readline()
            time.sleep(0.15 + 0.013 * attempt)
            writer.kill()
        assert writer.returncode == -signal.SIGKILL
        folder = RunFolder(tmp_path)
        cells = [folder.read_cell(cell_key({"i": i})) for i in range(4)]
        assert any(cells)
        assert all(cell in (None, make_cell(800)) for cell in cells)
        with contextlib.suppress(IncompleteError):  # killed between the two files: said so, not half there
            assert read_run(tmp_path) == make_run()
            assert len(read_samples(tmp_path)) == 800
    assert capsys.readouterr().err == "", "nothing may be damaged"


@posix
@pytest.mark.parametrize("moment", ["os.fsync", "Path.replace"])
def test_sigkill_between_the_steps_of_one_write(tmp_path: Path, moment: str) -> None:
    """Killed with the new file half done, the old one is still there and whole."""
    RunFolder(tmp_path).write_cell(KEY, make_cell(2))
    kill = f"{moment} = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\nfolder.write_cell(KEY, cell)\n"
    with start(kill, tmp_path) as writer:
        pass
    assert writer.returncode == -signal.SIGKILL
    folder = RunFolder(tmp_path)
    assert folder.read_cell(KEY) == make_cell(2)
    folder.finish(make_run(), [make_sample()])
    assert read_run(tmp_path) == make_run()


@posix
def test_a_symlink_stays_and_its_target_is_replaced_whole(tmp_path: Path) -> None:
    for target in ("there", "not there"):
        link = tmp_path / f"link to {target}"
        link.symlink_to(tmp_path / "folder" / target)
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "there").write_bytes(b"old")
    for target in ("there", "not there"):
        write_atomic(tmp_path / f"link to {target}", b"new")
        assert (tmp_path / f"link to {target}").is_symlink()
        assert (tmp_path / "folder" / target).read_bytes() == b"new"
    assert not list(tmp_path.rglob("*.tmp"))


@posix
@pytest.mark.parametrize("name", ["pipe", "link"])
def test_a_pipe_is_written_to_and_stays_one(name: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("pipe")
    with subprocess.Popen(["cat", tmp_path / "pipe"], stdout=subprocess.PIPE) as reader:  # noqa: S607
        write_atomic(tmp_path / name, b"new")
        assert reader.communicate(timeout=30)[0] == b"new"
    assert (tmp_path / "pipe").is_fifo()
    assert (tmp_path / "link").is_symlink()


@posix
def test_an_open_file_can_be_named_by_its_number(tmp_path: Path) -> None:
    """As `--json >(jq .)` does: a name that lies in no folder that could hold another file."""
    reader, writer = os.pipe()
    check_writable("--json", f"/dev/fd/{writer}")
    write_atomic(Path(f"/dev/fd/{writer}"), b"new")
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        assert pipe.read() == b"new"


@posix
def test_a_symlink_that_leads_nowhere_is_refused_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "no folder" / "run.json")
    with pytest.raises(LoadError, match="it is no file in an existing folder"):
        check_writable("--json", str(tmp_path / "link"))


@posix
def test_sigkill_between_the_two_files_of_a_run_does_not_mix_two_runs(tmp_path: Path) -> None:
    """New samples beside an old run.json would be a lie; without run.json the folder says that it is not done."""
    RunFolder(tmp_path).finish(make_run(), [make_sample()])
    kill = """
from rbfbench.results import store
write = store.write_atomic
def write_samples_then_die(path, data):
    write(path, data)
    os.kill(os.getpid(), signal.SIGKILL)
store.write_atomic = write_samples_then_die
folder.finish(make_run(), cell.samples)
"""
    with start(kill, tmp_path) as writer:
        pass
    assert writer.returncode == -signal.SIGKILL
    assert len(read_samples(tmp_path)) == 800
    with pytest.raises(IncompleteError, match="interrupted"):
        read_run(tmp_path)


def test_two_writers_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = """
for i in range(8):
    folder.write_cell(cell_key({"i": i % 5}), cell)
folder.finish(make_run(), cell.samples)
"""
    folder = RunFolder(tmp_path)
    writers = [start(code, tmp_path) for _ in range(2)]
    while any(writer.poll() is None for writer in writers):
        assert folder.read_cell(cell_key({"i": 0})) in (None, make_cell(800))
    for writer in writers:
        writer.communicate()
        assert writer.returncode == 0
    assert all(folder.read_cell(cell_key({"i": i})) == make_cell(800) for i in range(5))
    assert read_run(tmp_path) == make_run()
    assert len(read_samples(tmp_path)) == 800
    assert capsys.readouterr().err == ""
    assert not list(tmp_path.rglob("*.tmp"))


def damages(good: bytes) -> dict[str, bytes]:
    flipped = bytearray(good)
    flipped[len(good) // 2] ^= 0xFF
    return {
        "empty": b"",
        "truncated": good[: len(good) // 2],
        "one byte short": good[:-1],
        "flipped": bytes(flipped),
        "no gzip": b"{}",
        "not JSON": gzip.compress(b"hello"),
        "not text": gzip.compress(b'{"row": "\xff\xfe"}'),
        "other fields": gzip.compress(b'{"row": 1}'),
        "out of range": gzip.compress(gzip.decompress(good).replace(b'"accuracy":0.5', b'"accuracy":1.5')),
    }


@pytest.mark.parametrize("kind", list(damages(gzip.compress(b"sample"))))
def test_a_damaged_cell_is_named_and_computed_again(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = RunFolder(tmp_path)
    folder.write_cell(KEY, make_cell())
    path = folder.cell_path(KEY)
    path.write_bytes(damages(path.read_bytes())[kind])
    assert folder.read_cell(KEY) is None
    out, err = capsys.readouterr()
    assert out == ""
    assert str(path) in err
    assert err.count("\n") == 1
    folder.write_cell(KEY, make_cell())
    assert folder.read_cell(KEY) == make_cell()


def test_an_interrupted_run_is_incomplete_and_resumable(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.write_cell(KEY, make_cell())
    with pytest.raises(IncompleteError, match="after 1 finished cell; run the same command"):
        read_run(tmp_path)
    assert RunFolder(tmp_path).read_cell(KEY) == make_cell()


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "damaged or no run"),
        (b"{", "damaged or no run"),
        (b"[1]", "damaged or no run"),
        (b'{"model": "theirs"}', "schema_version"),
        (b'{"schema_version": 1}', "missing required field"),
        (b'{"schema_version": 2, "surprise": true}', "install a newer rbfbench"),
        (b"\xff\xfe", "damaged or no run"),
    ],
)
def test_a_bad_run_file_gets_one_clear_line(content: bytes, why: str, tmp_path: Path) -> None:
    (tmp_path / "run.json").write_bytes(content)
    with pytest.raises(LoadError, match=why) as caught:
        read_run(tmp_path)
    assert str(tmp_path / "run.json") in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 3


@pytest.mark.parametrize("part", ["clean", "worst_case", "null_attack", "attacks"])
@pytest.mark.parametrize("change", [{"accuracy": 0.99}, {"ci95": [0.98, 0.99]}, {"k": 1.5}, {"k": 3.0}])
def test_numbers_that_do_not_add_up_are_not_quoted(part: str, change: dict[str, Any], tmp_path: Path) -> None:
    document = json.loads(encode_run(make_run()))
    edited = document[part][0] if part == "attacks" else document[part]
    edited |= change if change != {"k": 1.5} or part != "null_attack" else {"k": 1.0}
    (tmp_path / "run.json").write_text(json.dumps(document))
    with pytest.raises(LoadError, match=r"are not those of .*: it was edited; run the attack again"):
        read_run(tmp_path)


def test_missing_runs_and_samples(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "missing"):
        with pytest.raises(LoadError, match="no run here"):
            read_run(path)
        with pytest.raises(LoadError, match="No such file"):
            read_samples(path)


def test_damaged_samples(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.finish(make_run(), [make_sample(i) for i in range(50)])
    file = tmp_path / "samples.jsonl.gz"
    file.write_bytes(file.read_bytes()[:-20])
    with pytest.raises(LoadError, match=r"samples\.jsonl\.gz"):
        read_samples(tmp_path)


def test_a_folder_with_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(LoadError, match="not a run's"):
        RunFolder(tmp_path)
    (tmp_path / "run.json").write_text('{"theirs": true}')
    with pytest.raises(LoadError, match="not a run's"):
        RunFolder(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["run.json", "thesis.tex"]
    with pytest.raises(LoadError, match="cannot use"):
        RunFolder(tmp_path / "thesis.tex")


def test_a_run_keeps_its_neighbours(tmp_path: Path) -> None:
    """Reports and notes that people put beside a run do not lock it."""
    RunFolder(tmp_path)
    (tmp_path / "report.html").write_text("mine")
    RunFolder(tmp_path).finish(make_run(), [])
    assert (tmp_path / "report.html").read_text() == "mine"


def test_a_folder_that_went_away_is_one_clear_line(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    (tmp_path / "run" / "cells").rmdir()
    with pytest.raises(LoadError, match="cannot write"):
        folder.write_cell(KEY, make_cell())


NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("bad", "where"),
    [
        (make_run(spec={"a": [0, {"eps": NAN}]}), r"Run.spec.a\[1\].eps is nan"),
        (make_run(model={"limit": INF}), "Run.model.limit is inf"),
        (make_run(attacks=[make_row(wall_s=NAN)]), r"Run.attacks\[0\].wall_s is nan"),
        (make_run(attacks=[make_row(ci95=(NAN, 1.0))]), r"ci95\[0\] is nan"),
        (make_run(attacks=[make_row(accuracy=1.5)]), r"attacks\[0\].accuracy"),
        (make_run(attacks=[make_row(norm="l3")]), "l3"),
    ],
)
def test_bad_numbers_never_reach_a_file(bad: Run, where: str, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.finish(make_run(), [])
    with pytest.raises(ValueError, match=where):
        folder.finish(bad, [])
    assert read_run(tmp_path) == make_run(), "the run before is untouched"


def test_bad_samples_never_reach_a_file(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    for bad in (make_sample(linf=NAN), make_sample(selection=-INF), make_sample(correct=-0.1)):
        with pytest.raises(ValueError, match="Sample"):
            folder.finish(make_run(), [bad])
        with pytest.raises(ValueError, match="Cell"):
            folder.write_cell(KEY, Cell(row=make_row(), samples=[bad]))
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["cells"]


def test_the_shipped_schema_is_current_and_holds() -> None:
    assert SCHEMA_FILE.read_text(encoding="utf-8") == run_schema(), "run: python -m rbfbench.results.schema"
    schema = json.loads(run_schema())
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    for run in (make_run(), make_run(worst_case=None, null_attack=None, attacks=[], status="failed")):
        validator.validate(json.loads(encode_run(run)))
    wrong: list[dict[str, Any]] = [{"schema_version": 2}, {"status": "fine"}, {"extra": 1}, {"clean": None}]
    for change in [*wrong, {"attacks": [{}]}]:
        assert not validator.is_valid({**json.loads(encode_run(make_run())), **change}), change
    missing = json.loads(encode_run(make_run()))
    del missing["schema_version"]
    assert not validator.is_valid(missing)


def test_run_json_is_for_people_and_strict_parsers() -> None:
    text = encode_run(make_run()).decode()
    assert text.startswith('{\n  "schema_version": 1,\n  "status": "complete",')
    assert text.endswith("}\n")
    json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))


def test_records_are_frozen() -> None:
    with pytest.raises(AttributeError):
        make_row().accuracy = 1.0  # type: ignore[misc]
    with pytest.raises(msgspec.ValidationError, match="surprise"):
        msgspec.convert({**msgspec.to_builtins(score(1, 2)), "surprise": 1}, type(score(1, 2)))


def test_importing_the_store_loads_nothing_heavy() -> None:
    code = "import rbfbench.results.store, sys; print(sorted({'torch', 'numpy', 'scipy', 'rich'} & set(sys.modules)))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout == "[]\n"
