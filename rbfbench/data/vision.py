"""CIFAR-10 and MNIST as torchvision stores and downloads them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rbfbench.data.checks import one_line
from rbfbench.errors import DataError

_CLASSES = {"cifar10": "CIFAR10", "mnist": "MNIST"}


def read_torchvision(name: str, root: Path, *, train: bool, download: bool) -> tuple[NDArray[Any], NDArray[Any]]:
    """Pixels and labels in the order of the original files.

    torchvision compares CIFAR-10's pickles with their known digests before it opens them;
    MNIST's files are plain bytes.

    Args:
        name: "cifar10" or "mnist".
        root: The data root.
        train: The training file instead of the test file.
        download: Fetch what is missing.

    Raises:
        DataError: The files are missing or corrupt, or the download failed.
    """
    from torchvision import datasets

    try:
        data = getattr(datasets, _CLASSES[name])(root, train=train, download=download)
    except Exception as error:  # torchvision checks by assert, and the network has errors of its own
        if download:
            raise DataError(f"cannot download {name}", one_line(error), "try again later") from error
        todo = "fetch it again with --download, or remove them to use the embedded sample"
        raise DataError(f"cannot read {name} under {root}", "its files are incomplete or corrupt", todo) from error
    return np.asarray(data.data), np.asarray(data.targets)
