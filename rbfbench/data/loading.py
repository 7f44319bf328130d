"""From the name of a data set to its images."""

from __future__ import annotations

from pathlib import Path
from types import MappingProxyType

import numpy as np

from rbfbench.data.catalogue import DATASETS, DEFAULT_ROOT, DatasetInfo, find
from rbfbench.data.checks import checked
from rbfbench.data.embedded_sets import load_all_digits, load_sample
from rbfbench.data.folder import load_folder
from rbfbench.data.images import Images
from rbfbench.data.npz import load_npz, read_pair
from rbfbench.data.vision import read_torchvision
from rbfbench.errors import DataError, RbfbenchError, UsageError, raised, unknown_name
from rbfbench.plugins import load_plugin, package, plugins

SPLITS = MappingProxyType(
    {
        "cifar10": (range(48_000), range(48_000, 50_000)),
        # 0..999 are the embedded sample, which no model may have seen
        "mnist": (range(1000, 58_000), range(58_000, 60_000)),
        "digits": (range(1000), range(1000, 1200)),
    }
)
"""Positions in the training file: what models learn from, and what settings are chosen on."""

_DIGITS_TEST = range(1200, 1797)


def load_data(name: str, *, data_root: Path | None = None, download: bool = False) -> Images:
    """Images to evaluate on.

    Args:
        name: "cifar10", "mnist", "digits", "npz:FILE", "folder:DIR", or the name of a plugin.
        data_root: Where a full cifar10 or mnist may be: its test images are used if they are there, else the embedded
            sample. None looks nowhere, or with download in DEFAULT_ROOT.
        download: Let torchvision fetch a full cifar10 or mnist into data_root if it is not there.

    Raises:
        UsageError: No data set has this name.
        DataError: A file is missing or corrupt, or what it holds are not labelled images in [0,1].
        LoadError: A plugin cannot be imported.
    """
    kind, _, place = name.partition(":")
    if place and kind == "npz":
        return load_npz(name, Path(place).expanduser())
    if place and kind == "folder":
        return load_folder(name, Path(place).expanduser())
    if name not in DATASETS and name in plugins("datasets"):
        return _of_plugin(name)
    info = _info(name)
    if name == "digits":
        return _cut(load_all_digits(info), _DIGITS_TEST, info.embedded_source)
    return _full(info, data_root, train=False, download=download) or load_sample(info)


def load_training(name: str, *, data_root: Path | None = None, download: bool = False) -> tuple[Images, Images]:
    """Images to train on and images to choose settings on; neither shares an image with `load_data`.

    Args:
        name: "cifar10", "mnist" or "digits".
        data_root: Where the full data set is; digits needs none.
        download: Let torchvision fetch it into data_root if it is not there.

    Returns:
        Training and validation images.

    Raises:
        UsageError: No data set with a training part has this name.
        DataError: The full data set is missing, corrupt or of another size.
    """
    info = _info(name)
    images = load_all_digits(info) if name == "digits" else _full(info, data_root, train=True, download=download)
    if images is None:
        raise DataError(
            f"cannot train on {name}",
            f"the full data set is not under {data_root or 'any --data-root'}",
            "fetch it with --download, or name its folder with --data-root",
        )
    origin = images.source.partition(":")[0]
    train, validation = (
        _cut(images, part, f"{origin}: training images {part.start}-{part.stop - 1}") for part in SPLITS[name]
    )
    return train, validation


def _of_plugin(name: str) -> Images:
    """The images that a plugin's function returns: `(x, y)`, or `(x, y, class names)`."""
    point = plugins("datasets")[name]
    what = f"cannot use the data set {name}"
    try:
        x, y, *classes = load_plugin("datasets", name)()
        arrays = np.asarray(x), np.asarray(y)
    except RbfbenchError:
        raise
    except Exception as error:  # the plugin's code, which may raise anything
        raise DataError(
            what, f"{point.value}() raised {raised(error)}", "it must return (x, y) or (x, y, class names)"
        ) from error
    return checked(name, f"images of {package(point)}", *arrays, tuple(classes[0]) if classes else None)


def _info(name: str) -> DatasetInfo:
    if name in ("npz", "npz:", "folder", "folder:"):
        raise UsageError(f"incomplete data set {name!r}", "it names no file", "write npz:FILE or folder:DIR")
    if name not in DATASETS:
        raise unknown_name("data set", name, [*DATASETS, *plugins("datasets"), "npz:FILE", "folder:DIR"])
    return DATASETS[name]


def _cut(images: Images, part: range, source: str) -> Images:
    return images.part(part.start, part.stop, source)


def _full(info: DatasetInfo, data_root: Path | None, *, train: bool, download: bool) -> Images | None:
    """One file of the full data set, or None if it is not there and may not be fetched."""
    root = (data_root or DEFAULT_ROOT).expanduser()
    place = find(info, root) if data_root or download else None
    if place is None and not download:
        return None
    if place is not None and place.suffix == ".npz":
        part = "train" if train else "test"
        origin, (x, y) = place.name, read_pair(place, (f"x_{part}", f"y_{part}"))
    else:
        origin, (x, y) = "torchvision files", read_torchvision(info.name, root, train=train, download=download)
    file = "training" if train else "test"
    images = checked(info.name, f"{origin}: {file} images 0-{len(x) - 1}", x, y, info.classes)
    if images.shape != info.shape or (train and len(images) != info.training):
        raise DataError(
            f"cannot use {place or root}",
            f"its {len(images)} {file} images have shape {images.shape}",
            f"give the original {info.name}, whose {info.training} training images have shape {info.shape}",
        )
    return images
