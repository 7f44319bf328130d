"""Images from a folder with one sub-folder per class."""

from __future__ import annotations

from itertools import zip_longest
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from rbfbench.data.checks import checked, one_line
from rbfbench.data.images import Images
from rbfbench.errors import DataError

_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".ppm", ".pgm", ".webp", ".tif", ".tiff"})
_GREY = frozenset({"1", "L"})
_COLOUR = frozenset({"P", "RGB", "RGBA", "CMYK", "YCbCr"})


def load_folder(name: str, path: Path) -> Images:
    """Images of `folder:DIR`: DIR/class/*.png and so on, one of each class in turn, so that the first are of all.

    In order of class name and file name. Grey if every image is grey, else RGB; transparency is dropped.

    Args:
        name: What the user asked for.
        path: The folder.

    Raises:
        DataError: No folder, no classes, a class without images, an unreadable image, or images of different sizes.
    """
    what = f"cannot use {name}"
    if not path.is_dir():
        raise DataError(what, "there is no such folder", "check the path")
    classes = sorted(entry.name for entry in path.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    if not classes:
        raise DataError(what, "it has no class folders", "sort the images into one sub-folder per class")
    of_class = [[(file, label) for file in _image_files(what, path / each)] for label, each in enumerate(classes)]
    files = [entry for turn in zip_longest(*of_class) for entry in turn if entry]
    images = [_read(file) for file, _ in files]
    _same_size(what, images, [file for file, _ in files])
    if any(image.ndim == 3 for image in images):
        images = [image if image.ndim == 3 else np.stack([image] * 3, axis=-1) for image in images]
    x = np.stack(images)
    y = np.array([label for _, label in files])
    return checked(name, f"{len(files)} files in {path.name}", x, y, tuple(classes))


def _image_files(what: str, folder: Path) -> list[Path]:
    files = sorted(file for file in folder.iterdir() if file.suffix.lower() in _SUFFIXES)
    if not files:
        raise DataError(what, f"its class folder {folder.name} has no images", "add images or remove the folder")
    return files


def _read(file: Path) -> NDArray[np.uint8]:
    """Pixels (H,W) or (H,W,3) of one file."""
    what = f"cannot read {file}"
    try:
        with Image.open(file) as image:
            if image.mode not in _GREY | _COLOUR:
                raise DataError(what, f"its pixels are of type {image.mode}", "save it with 8 bits per channel")
            return np.asarray(image.convert("L" if image.mode in _GREY else "RGB"))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(what, one_line(error), "replace or remove this image") from error


def _same_size(what: str, images: list[NDArray[np.uint8]], files: list[Path]) -> None:
    height, width = images[0].shape[:2]
    for image, file in zip(images, files, strict=True):
        if image.shape[:2] != (height, width):
            raise DataError(
                what,
                f"{files[0].name} is {width}x{height} pixels but {file.parent.name}/{file.name} is "
                f"{image.shape[1]}x{image.shape[0]}",
                "bring all images to one size",
            )
