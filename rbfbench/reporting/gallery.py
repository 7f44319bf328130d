"""Adversarial examples of a run folder as small pictures: clean, adversarial, and their difference made visible."""

from __future__ import annotations

import base64
import io
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from zipfile import BadZipFile

from rbfbench.errors import LoadError
from rbfbench.results.store import example_file

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[tuple[int, ...], np.dtype[np.float32]]

SHOWN = 6  # of an attack


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
            arrays = {name: file[name] for name in file.files}
    except (OSError, EOFError, ValueError, zlib.error, BadZipFile) as error:
        raise LoadError(f"cannot read {path}", "it is damaged", "remove it, or make the run again") from error
    if not {"x", "label", "prediction", "correct", "classes"} <= set(arrays):  # an earlier version kept x_adv alone
        return []
    names = [str(name) for name in arrays["classes"]]
    order = np.argsort(arrays["correct"], kind="stable")[:SHOWN]
    shown = []
    for i in order.tolist():
        x, x_adv = arrays["x"][i], arrays["x_adv"][i]
        delta = x_adv - x
        largest = float(np.abs(delta).max())
        answer = int(arrays["prediction"][i])
        label = int(arrays["label"][i])
        shown.append(
            Shown(
                clean=picture(x),
                adversarial=picture(x_adv),
                difference=picture(0.5 + (0.5 * delta / largest if largest else delta)),
                magnified=0.5 / largest if largest else 1.0,
                label=names[label],
                answer=names[answer] if answer >= 0 else "",
                fooled=answer not in (-1, label),
                position=int(arrays["position"][i]),
            )
        )
    return shown


def picture(image: Array) -> str:
    """An image (C, H, W) in [0,1], C 1 or 3, as the data URI of a PNG."""
    import numpy as np
    from PIL import Image

    levels = (np.nan_to_num(image).clip(0, 1) * 255).round().astype(np.uint8).transpose(1, 2, 0)
    buffer = io.BytesIO()
    Image.fromarray(levels[..., 0] if levels.shape[2] == 1 else levels[..., :3]).save(buffer, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
