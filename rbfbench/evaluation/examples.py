"""Adversarial examples kept beside the results: `examples/ROW.npz` with x_adv and the positions of the images."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from torch import Tensor

from rbfbench.results.atomic import write_atomic


class Examples:
    """Collects the first candidates of one attack.

    Args:
        folder: Run folder, or None to keep nothing.
        row: Id of the row.
        most: How many to keep; None keeps all.
    """

    def __init__(self, folder: Path | None, row: str, most: int | None) -> None:
        self.path = folder and folder / "examples" / f"{row.replace('/', '-').replace(':', '-')}.npz"
        self.most = most
        self.positions: list[np.ndarray] = []
        self.images: list[np.ndarray] = []
        self.kept = 0

    def add(self, where: np.ndarray, x_adv: Tensor) -> None:
        """Keep candidates (k, C, H, W) of the images at positions `where`, as far as there is room."""
        if self.path is None:
            return
        room = len(where) if self.most is None else min(len(where), self.most - self.kept)
        if room > 0:
            self.positions.append(where[:room])
            self.images.append(x_adv[:room].cpu().numpy())
            self.kept += room

    def write(self) -> None:
        """Write the file, whole or not at all."""
        if self.path is None or not self.kept:
            return
        self.path.parent.mkdir(exist_ok=True)
        buffer = io.BytesIO()
        np.savez(buffer, x_adv=np.concatenate(self.images), position=np.concatenate(self.positions))
        write_atomic(self.path, buffer.getvalue())
