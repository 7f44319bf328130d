"""The images that come with an installation: two PNG sheets, and scikit-learn's digits."""

from __future__ import annotations

import json
from importlib.resources import files

import numpy as np
from PIL import Image

from rbfbench.data.catalogue import DatasetInfo
from rbfbench.data.checks import checked
from rbfbench.data.images import Images


def load_sample(info: DatasetInfo) -> Images:
    """The embedded sample of cifar10 or mnist: images 0-999 of one original file, tile by tile, row by row."""
    folder = files("rbfbench.data").joinpath("embedded")
    labels = json.loads(folder.joinpath(f"{info.name}.json").read_text(encoding="utf-8"))["labels"]
    channels, height, width = info.shape
    with folder.joinpath(f"{info.name}.png").open("rb") as stream, Image.open(stream) as image:
        sheet = np.asarray(image)
    rows, columns = sheet.shape[0] // height, sheet.shape[1] // width
    tiles = sheet.reshape(rows, height, columns, width, channels).swapaxes(1, 2)
    x = tiles.reshape(rows * columns, height, width, channels)
    return checked(info.name, info.embedded_source, x, np.array(labels), info.classes)


def load_all_digits(info: DatasetInfo) -> Images:
    """scikit-learn's 1,797 digits in its order; its pixels 0..16 become float32 in [0,1]."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    x = (digits.images / 16).astype(np.float32)
    return checked(info.name, "scikit-learn: all images", x, digits.target, info.classes)
