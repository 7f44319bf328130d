"""Adversarial examples of a run folder as small pictures: clean, adversarial, and their difference made visible."""

from __future__ import annotations

import base64
import io
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING
from zipfile import BadZipFile, ZipFile

from rbfbench.errors import LoadError
from rbfbench.results.store import example_file

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[tuple[int, ...], np.dtype[np.float32]]

SHOWN = 6  # of an attack
_FEW = ("label", "prediction", "correct", "position", "classes")  # what is small however many there are


@dataclass(frozen=True)
class Shown:
    """One adversarial example.

    Attributes:
        clean: Picture as a data URI, likewise adversarial and difference.
        magnified: Factor by which the difference was enlarged; mid-grey is none.
        label: Name of the true class.
        answer: Name of the class that the model sees; "" where there was no verified answer.
        fooled: Whether that is wrong.
        position: Of the image in the run.
    """

    clean: str
    adversarial: str
    difference: str
    magnified: float
    label: str
    answer: str
    fooled: bool
    position: int


def gallery(folder: Path, rows: Sequence[str]) -> dict[str, list[Shown]]:
    """Row to its first examples, those that fool the model before the others; rows without pictures are left out.

    Raises:
        LoadError: A file is damaged.
    """
    found = {row: _shown(example_file(folder, row)) for row in rows}
    return {row: shown for row, shown in found.items() if shown}


def _shown(path: Path) -> list[Shown]:
    import numpy as np

    if not path.is_file():
        return []
    try:
        with np.load(path, allow_pickle=False) as file:
            if not {"x", "x_adv", *_FEW} <= set(file.files):  # an earlier version kept x_adv alone
                return []
            few = {name: file[name] for name in _FEW}
            order = np.argsort(few["correct"], kind="stable")[:SHOWN].tolist()
            clean, adversarial = (_entries(file.zip, name, order) for name in ("x", "x_adv"))
    except (OSError, EOFError, ValueError, zlib.error, BadZipFile) as error:
        raise LoadError(f"cannot read {path}", "it is damaged", "remove it, or make the run again") from error
    names = [str(name) for name in few["classes"]]
    shown = []
    for i in order:
        x, x_adv = clean[i], adversarial[i]
        delta = x_adv - x
        largest = float(np.abs(delta).max())
        answer = int(few["prediction"][i])
        label = int(few["label"][i])
        shown.append(
            Shown(
                clean=picture(x),
                adversarial=picture(x_adv),
                difference=picture(0.5 + (0.5 * delta / largest if largest else delta)),
                magnified=0.5 / largest if largest else 1.0,
                label=names[label],
                answer=names[answer] if answer >= 0 else "",
                fooled=answer not in (-1, label),
                position=int(few["position"][i]),
            )
        )
    return shown


def _entries(archive: ZipFile, name: str, wanted: Sequence[int]) -> dict[int, Array]:
    """Entries of an array of such a file by their numbers; the others pass by, for memory may not hold them all."""
    import numpy as np

    with archive.open(f"{name}.npy") as member:
        np.lib.format.read_magic(member)
        shape, _, dtype = np.lib.format.read_array_header_1_0(member)
        first, size = member.tell(), prod(shape[1:]) * dtype.itemsize
        found = {}
        for i in sorted(wanted):
            member.seek(first + i * size)
            found[i] = np.frombuffer(member.read(size), dtype).reshape(shape[1:])
    return found


def picture(image: Array) -> str:
    """An image (C, H, W) in [0,1], C 1 or 3, as the data URI of a PNG."""
    import numpy as np
    from PIL import Image

    levels = (np.nan_to_num(image).clip(0, 1) * 255).round().astype(np.uint8).transpose(1, 2, 0)
    buffer = io.BytesIO()
    Image.fromarray(levels[..., 0] if levels.shape[2] == 1 else levels[..., :3]).save(buffer, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
