"""Adversarial examples kept beside the results: `examples/ROW.npz`.

Arrays of the file, k images each: x and x_adv (k, C, H, W), position in the run, label, prediction (the answer to
x_adv by the first fresh decision, -1 where there is no verified one), correct (mean correctness over the decisions);
and the names of the classes. In a sweep over eps on a random model a sample may tell of the candidate of a smaller
ball instead; that one lies in the folder of that radius.
"""

from __future__ import annotations

import io
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from rbfbench.evaluation.verify import Verdict
from rbfbench.results.atomic import write_atomic
from rbfbench.results.records import Cell
from rbfbench.results.store import example_file


class Examples:
    """Collects the first candidates of one attack.

    Args:
        folder: Run folder, or None to keep nothing.
        row: Id of the row.
        classes: Names of the classes.
        most: How many to keep; None keeps all.
    """

    def __init__(self, folder: Path | None, row: str, classes: Sequence[str], most: int | None) -> None:
        self.path = folder and example_file(folder, row)
        self.classes = classes
        self.most = most
        self.parts: list[dict[str, np.ndarray]] = []
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
            self.parts.append(part | {"position": where[:room]})
            self.kept += room

    def kept_before(self, cell: Cell) -> bool:
        """Whether an earlier run, which made this cell, has kept as many as are wanted now, or all that there are."""
        if self.path is None:
            return True
        attacked = sum(sample.status in ("ok", "invalid") for sample in cell.samples)
        wanted = attacked if self.most is None else min(attacked, self.most)
        return wanted <= _held(self.path)

    def write(self) -> None:
        """Write the file, whole or not at all."""
        if self.path is None or not self.kept:
            return
        self.path.parent.mkdir(exist_ok=True)
        buffer = io.BytesIO()
        arrays = {name: np.concatenate([part[name] for part in self.parts]) for name in self.parts[0]}
        # The types fear an array called allow_pickle.
        np.savez_compressed(buffer, **arrays, classes=np.array(self.classes))  # type: ignore[arg-type]
        write_atomic(self.path, buffer.getvalue())


def _held(path: Path) -> int:
    """How many examples a file holds; a damaged one counts as missing."""
    if not path.is_file():
        return 0
    try:
        with np.load(path) as file:
            return len(file["position"])
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile, zlib.error):
        return 0
