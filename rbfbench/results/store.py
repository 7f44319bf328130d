"""Run folders: `cells/` to resume from, `run.json` and `samples.jsonl.gz` made from them at the end."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import sys
import zlib
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from rbfbench.errors import IncompleteError, LoadError
from rbfbench.results.atomic import remove, write_atomic
from rbfbench.results.intervals import score
from rbfbench.results.records import Cell, Record, Run, Sample, Score, encode, encode_run

D = TypeVar("D", bound=Record)

RUN_FILE = "run.json"
SAMPLES_FILE = "samples.jsonl.gz"
SWEEP_FILE, CERTIFY_FILE = "sweep.json", "certify.json"  # results of other commands
QUESTION_FILE = "question.txt"
CELLS = "cells"
SCHEMA_VERSION = 1


def cell_key(spec: Mapping[str, Any]) -> str:
    """SHA-256, in hex, of everything that decides a cell's content.

    Args:
        spec: Nested mappings, sequences, strings, finite numbers; the order of keys does not matter.

    Raises:
        TypeError: A value that JSON cannot hold.
        ValueError: NaN or infinity.
    """
    text = json.dumps(spec, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def claim(folder: Path, question: Mapping[str, Any]) -> None:
    """Dedicates a folder to one question, so that its results never silently make way for another's.

    Raises:
        LoadError: It is dedicated to another, holds results of another kind, or cannot be written.
    """
    asked, file = cell_key(question), folder / QUESTION_FILE
    if file.is_file():
        if file.read_text(encoding="utf-8").strip() != asked:
            todo = "choose another --out, or repeat the command that made it"
            raise LoadError(f"cannot use {folder} for this run", "it holds a run with other settings", todo)
        return
    if found := [name for name in (SWEEP_FILE, CERTIFY_FILE) if (folder / name).is_file()]:
        todo = "choose another --out"
        raise LoadError(f"cannot use {folder} for this run", f"it holds a {found[0]} that may be another's", todo)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise LoadError(f"cannot use {folder} for a run", _reason(error), "choose another folder") from error
    write_atomic(file, asked.encode() + b"\n")


class RunFolder:
    """A folder that a run writes into and resumes from.

    Several processes may write to it: files appear whole, and equal keys mean equal content.

    Args:
        path: Made if missing; else empty, or the folder of an earlier run.

    Raises:
        LoadError: The folder holds something else, is a file, or cannot be made.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._cells = path / CELLS
        try:
            if path.is_dir() and any(path.iterdir()) and not _is_run(path):
                todo = "choose an empty or a new folder"
                raise LoadError(f"cannot use {path} for a run", "it holds files that are not a run's", todo)
            self._cells.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise LoadError(f"cannot use {path} for a run", _reason(error), "choose another folder") from error

    def claim(self, question: Mapping[str, Any]) -> None:
        """Dedicates the folder to one question, so that its results never silently make way for another's.

        Raises:
            LoadError: It is dedicated to another, or cannot be written.
        """
        claim(self.path, question)

    def cell_path(self, key: str) -> Path:
        """Where the cell with this key lives."""
        return self._cells / f"{key}.json.gz"

    def write_cell(self, key: str, cell: Cell) -> None:
        """Keeps a finished cell.

        Raises:
            LoadError: The folder cannot be written.
            ValueError: The cell holds NaN or a number out of range.
        """
        write_atomic(self.cell_path(key), _gzip(encode(cell)))

    def read_cell(self, key: str) -> Cell | None:
        """The cell with this key, or None if it has to be computed.

        A damaged file counts as missing: it is named on stderr and will be written anew.
        """
        path = self.cell_path(key)
        try:
            return msgspec.json.decode(_gunzip(path), type=Cell)
        except FileNotFoundError:
            return None
        except _DAMAGE as error:
            sys.stderr.write(f"warning: {path} is damaged ({_reason(error)}); computing it again\n")
            return None

    def finish(self, run: Run, samples: Iterable[Sample]) -> None:
        """Writes samples.jsonl.gz and run.json.

        Args:
            run: The document.
            samples: A row per image and attack, in the order they shall have.

        Raises:
            LoadError: The folder cannot be written.
            ValueError: NaN or a number out of range; then nothing is written.
        """
        document = encode_run(run)
        rows = b"".join(encode(sample) + b"\n" for sample in samples)
        # Without run.json the folder says "incomplete", which is true until both files belong to this run.
        remove(self.path / RUN_FILE)
        write_atomic(self.path / SAMPLES_FILE, _gzip(rows))
        write_atomic(self.path / RUN_FILE, document)


def example_file(folder: Path, row: str) -> Path:
    """Where a run folder keeps the adversarial examples of a row."""
    return folder / "examples" / f"{row.replace('/', '-').replace(':', '-')}.npz"


def read_run(path: Path) -> Run:
    """The document of a run.

    Args:
        path: A run folder, or a file with its run.json.

    Raises:
        IncompleteError: The run in this folder has not ended.
        LoadError: Missing, damaged or edited, from a newer rbfbench, or no run at all.
    """
    file = path / RUN_FILE if path.is_dir() else path
    try:
        data = file.read_bytes()
    except FileNotFoundError as error:
        if path.is_dir() and (path / CELLS).is_dir():
            done = sum(1 for _ in (path / CELLS).glob("[!.]*.json.gz"))
            why = f"it was interrupted after {done} finished cell{'' if done == 1 else 's'}"
            raise IncompleteError(f"the run in {path} has no results yet", why, _RESUME) from error
        raise LoadError(f"cannot read {path}", "there is no run here", "give the folder of a run") from error
    except OSError as error:
        raise LoadError(f"cannot read {file}", _reason(error), "give the folder of a run") from error
    run = _decode(file, data, Run)
    named = {"clean": run.clean, "the worst case": run.worst_case, "the null control": run.null_attack}
    for name, found in [*named.items(), *((row.id, row) for row in run.attacks)]:
        if found is not None and not _adds_up(found):
            why = f"accuracy and interval of {name} are not those of {found.k:g} of {found.n}: it was edited"
            raise LoadError(f"cannot use {file}", why, "run the attack again")
    return run


def _adds_up(found: Score) -> bool:
    """Whether accuracy and interval are what their counts say."""
    if not 0 <= found.k <= found.n:
        return False
    said, due = (found.accuracy, *found.ci95), score(found.k, found.n)
    return all(abs(a - b) < 1e-9 for a, b in zip(said, (due.accuracy, *due.ci95), strict=True))


def read_document(file: Path, kind: type[D]) -> D:
    """A sweep.json or certify.json.

    Raises:
        LoadError: Missing or damaged, or from a newer rbfbench.
    """
    try:
        data = file.read_bytes()
    except OSError as error:
        raise LoadError(f"cannot read {file}", _reason(error), _RESUME) from error
    return _decode(file, data, kind)


def read_samples(path: Path) -> list[Sample]:
    """The rows of a run, one per image and attack.

    Args:
        path: A run folder.

    Raises:
        LoadError: Missing or damaged.
    """
    file = path / SAMPLES_FILE
    try:
        return msgspec.json.Decoder(Sample).decode_lines(_gunzip(file))
    except _DAMAGE as error:
        raise LoadError(f"cannot read {file}", _reason(error), _RESUME) from error


def read_results(path: Path) -> tuple[Run, list[Sample]]:
    """The document of a run and its rows.

    Args:
        path: A run folder.

    Raises:
        IncompleteError: The run in this folder has not ended.
        LoadError: One of the two is missing or damaged, or an attack has another number of rows than of images.
    """
    run, samples = read_run(path), read_samples(path)
    wanted = {row.id: row.n for row in run.attacks}
    found = Counter(sample.attack for sample in samples)
    for id_ in [*wanted, *found]:
        if found[id_] != wanted.get(id_, 0):
            why = f"it holds {found[id_]} images of {id_}, and {RUN_FILE} counts {wanted.get(id_, 0)}"
            raise LoadError(f"cannot use {path / SAMPLES_FILE}", why, _RESUME)
    return run, samples


_DAMAGE = (OSError, EOFError, zlib.error, msgspec.DecodeError, UnicodeDecodeError)
_RESUME = "run the same command with the same --out again, it goes on from the finished cells"


class _Version(msgspec.Struct):
    schema_version: int


def _decode(file: Path, data: bytes, kind: type[D]) -> D:
    try:
        version = msgspec.json.decode(data, type=_Version).schema_version
        if version > SCHEMA_VERSION:
            why = f"it has schema version {version} and this rbfbench knows {SCHEMA_VERSION}"
            raise LoadError(f"cannot read {file}", why, "install a newer rbfbench")
        return msgspec.json.decode(data, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise LoadError(f"cannot read {file}", f"it is damaged or no run: {_reason(error)}", _RESUME) from error


def _is_run(folder: Path) -> bool:
    """Whether the folder is ours: `cells/` is made before anything else, run.json alone can be a copied result."""
    if (folder / CELLS).is_dir():
        return True
    try:
        read_run(folder)
    except LoadError:
        return False
    return True


def _gzip(data: bytes) -> bytes:
    """Compresses to the same bytes every time: no clock and no file name in the header."""
    buffer = io.BytesIO()
    with gzip.GzipFile(filename="", mode="wb", fileobj=buffer, compresslevel=6, mtime=0) as file:
        file.write(data)
    return buffer.getvalue()


def _gunzip(path: Path) -> bytes:
    return gzip.decompress(path.read_bytes())


def _reason(error: BaseException) -> str:
    """One short clause for people; an OSError repeats the path in its text, its strerror does not."""
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
