"""Adversarial examples kept beside the results: `examples/ROW.npz`.

Arrays of the file, k images each: x and x_adv (k, C, H, W), position in the run, label, prediction (the answer to
x_adv by the first fresh decision, -1 where there is no verified one), correct (mean correctness over the decisions);
the names of the classes; and the key of the cell whose examples they are, for models that follow each other in one
folder have rows of one name. In a sweep over eps on a random model a sample may tell of the candidate of a smaller
ball instead; that one lies in the folder of that radius.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor

from rbfbench.evaluation.verify import Verdict
from rbfbench.results.atomic import atomic_file, remove, writing
from rbfbench.results.records import Cell
from rbfbench.results.store import example_file


@dataclass(frozen=True)
class _Column:
    """One array on its way: the bytes of its parts in a file without a name, for memory may not hold them all."""

    file: IO[bytes]
    dtype: np.dtype[Any]
    shape: tuple[int, ...]  # of the entry of one image


class Examples:
    """Collects the first candidates of one attack, on disk; to be closed.

    Args:
        folder: Run folder, or None to keep nothing.
        row: Id of the row.
        key: Of the row's cell.
        classes: Names of the classes.
        most: How many to keep; None keeps all.
    """

    def __init__(self, folder: Path | None, row: str, key: str, classes: Sequence[str], most: int | None) -> None:
        self.path = folder and example_file(folder, row)
        self.key = key
        self.classes = classes
        self.most = most
        self.columns: dict[str, _Column] = {}
        self.kept = 0

    def add(self, where: np.ndarray, x: Tensor, x_adv: Tensor, y: Tensor, verdict: Verdict) -> None:
        """Keep candidates (k, C, H, W) for the images x at positions `where`, as far as there is room."""
        if self.path is None:
            return
        room = len(where) if self.most is None else min(len(where), self.most - self.kept)
        if room > 0:
            known = verdict.valid & verdict.answered
            prediction = verdict.prediction.where(known, torch.full_like(verdict.prediction, -1))
            columns = {"x": x, "x_adv": x_adv, "label": y, "prediction": prediction, "correct": verdict.correct}
            part = {name: column[:room].cpu().numpy() for name, column in columns.items()}
            with writing(self.path):
                self.path.parent.mkdir(exist_ok=True)
                for name, array in (part | {"position": where[:room]}).items():
                    if name not in self.columns:
                        # In the run's folder: the system's own for such files may be memory.
                        file = TemporaryFile(dir=self.path.parent)  # noqa: SIM115  (`close` closes it)
                        self.columns[name] = _Column(file, array.dtype, array.shape[1:])
                    self.columns[name].file.write(array.tobytes())
            self.kept += room

    def kept_before(self, cell: Cell) -> bool:
        """Whether an earlier run, which made this cell, has kept as many as are wanted now, or all that there are."""
        if self.path is None:
            return True
        attacked = sum(sample.status in ("ok", "invalid") for sample in cell.samples)
        wanted = attacked if self.most is None else min(attacked, self.most)
        return wanted <= _held(self.path, self.key)

    def write(self) -> None:
        """Write the file, whole or not at all; where nothing was collected, none stays, not that of another cell."""
        if self.path is None:
            return
        if not self.kept:
            remove(self.path)
            return
        arrays = {
            name: np.memmap(column.file, column.dtype, "r", shape=(self.kept, *column.shape))
            for name, column in self.columns.items()
        }
        with atomic_file(self.path) as file:
            # The types fear an array called allow_pickle.
            np.savez_compressed(
                file,
                **arrays,  # type: ignore[arg-type]
                classes=np.array(self.classes),
                cell=np.array(self.key),
            )

    def close(self) -> None:
        """Let go of what was collected."""
        for column in self.columns.values():
            column.file.close()


def _held(path: Path, key: str) -> int:
    """How many examples of a cell a file holds; -1 if it is damaged or another cell's, and has to go."""
    if not path.is_file():
        return 0
    try:
        with np.load(path) as file:
            return len(file["position"]) if str(file["cell"]) == key else -1
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile, zlib.error):
        return -1
