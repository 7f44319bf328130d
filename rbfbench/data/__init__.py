"""Images in [0,1] with stable ids: embedded samples, full data sets, npz files and image folders.

The table is plain Python, so that listing data sets loads neither numpy nor torch; the loaders come on first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from rbfbench.data.catalogue import DATASETS, DEFAULT_ROOT, DatasetInfo, find

if TYPE_CHECKING:
    from rbfbench.data.images import Images
    from rbfbench.data.loading import load_data, load_training

__all__ = ["DATASETS", "DEFAULT_ROOT", "DatasetInfo", "Images", "find", "load_data", "load_training"]

_LAZY = {
    "Images": "rbfbench.data.images",
    "load_data": "rbfbench.data.loading",
    "load_training": "rbfbench.data.loading",
}


def __getattr__(name: str) -> Any:  # noqa: ANN401  (module attributes have no common type)
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_LAZY[name]), name)
