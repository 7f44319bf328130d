"""The edge where foreign arrays become Images: everything is checked here once and trusted afterwards."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from rbfbench.data.images import Images
from rbfbench.errors import DataError

_CHANNELS = (1, 3)
_MOST_CLASSES = 100_000  # a larger label is a mistake, and the class names would fill the memory
_LONGEST = 160


def checked(name: str, source: str, x: NDArray[Any], y: NDArray[Any], classes: tuple[str, ...] | None = None) -> Images:
    """Make Images of two arrays or say in one line why that is impossible.

    Args:
        name: What the user asked for; opens every error message.
        source: One clause that says which images these are.
        x: (N,H,W,C), (N,C,H,W) with 1 or 3 channels, or (N,H,W) grey; uint8, or float in [0,1].
        y: (N,) or (N,1) integers from 0.
        classes: Class names; without them the labels themselves, up to the largest, are the names.

    Raises:
        DataError: Empty, of different lengths, of another shape or type, pixels outside [0,1], labels out of range.
    """
    pixels = _pixels(name, x)
    labels = _labels(name, y, len(classes) if classes else _MOST_CLASSES, len(pixels))
    return Images(
        name=name,
        source=source,
        pixels=pixels,
        labels=labels,
        indices=np.arange(len(labels), dtype=np.int64),
        classes=classes or tuple(map(str, range(int(labels.max()) + 1))),
    )


def one_line(said: object) -> str:
    """The first line of an error's message or of a text: printable, cut if long, never empty."""
    line = (str(said).strip() or type(said).__name__).splitlines()[0].rstrip(".:")
    shown = "".join(letter if letter.isprintable() else "?" for letter in line)
    return shown if len(shown) <= _LONGEST else shown[:_LONGEST] + "..."


def _pixels(name: str, x: NDArray[Any]) -> NDArray[np.uint8] | NDArray[np.float32]:
    if x.size == 0:
        raise DataError(f"cannot use {name}", f"it holds no images (shape {x.shape})", "give at least one image")
    nhwc = _channels_last(name, x)
    if nhwc.dtype == np.uint8:
        if nhwc.max() == 1:
            why = "its pixels are uint8, of 255 levels, and none is above 1"
            raise DataError(f"cannot use {name}", why, "store black and white as 0 and 255, or as floats in [0,1]")
        return nhwc
    if nhwc.dtype.kind != "f":
        raise DataError(
            f"cannot use {name}", f"its pixels are {nhwc.dtype}", "store them as uint8, or as floats in [0,1]"
        )
    low, high = float(nhwc.min()), float(nhwc.max())  # NaN anywhere makes both NaN
    if np.isnan(low):
        raise DataError(f"cannot use {name}", "its pixels contain NaN", "remove or repair these images")
    if low < 0 or high > 1:
        # 8-bit images that are nearly black are rarer than floats that went a little out of range.
        todo = "divide them by 255" if low >= 0 and 2 < high <= 255 else "scale them to [0,1], or clip them"
        raise DataError(f"cannot use {name}", f"its pixels range from {low:g} to {high:g}, not within [0,1]", todo)
    return nhwc.astype(np.float32, copy=False)


def _channels_last(name: str, x: NDArray[Any]) -> NDArray[Any]:
    if x.ndim == 3:
        return x[..., np.newaxis]
    if x.ndim != 4:
        raise DataError(
            f"cannot use {name}",
            f"its images have shape {x.shape}",
            "store them as (N,H,W,C), (N,C,H,W) or grey (N,H,W)",
        )
    last, first = x.shape[3] in _CHANNELS, x.shape[1] in _CHANNELS
    if last and not first:
        return x
    if first and not last:
        return x.transpose(0, 2, 3, 1)
    why = "could be (N,H,W,C) or (N,C,H,W)" if last else "has no axis of 1 or 3 channels"
    raise DataError(
        f"cannot use {name}", f"the shape {x.shape} {why}", "store images of more than 3x3 pixels and 1 or 3 channels"
    )


def _labels(name: str, y: NDArray[Any], n_classes: int, n: int) -> NDArray[np.int64]:
    if y.ndim == 2 and y.shape[1] == 1:
        y = y[:, 0]
    if y.ndim != 1:
        raise DataError(f"cannot use {name}", f"its labels have shape {y.shape}", "store one class number per image")
    if y.dtype.kind not in "iu":
        raise DataError(f"cannot use {name}", f"its labels are {y.dtype}, not integers", "store class numbers from 0")
    if len(y) != n:
        raise DataError(
            f"cannot use {name}", f"it has {n} images but {len(y)} labels", "store exactly one label per image"
        )
    low, high = int(y.min()), int(y.max())
    if low < 0 or high >= n_classes:
        raise DataError(
            f"cannot use {name}",
            f"its labels range from {low} to {high}",
            f"use class numbers from 0 to {n_classes - 1}",
        )
    return y.astype(np.int64)
