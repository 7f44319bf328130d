"""rbfbench: how robust is this image classifier, really?

The public API, imported on first use so that `import rbfbench` loads neither torch nor numpy.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rbfbench.data import load_data
    from rbfbench.evaluation.api import attack, certify, load_model

__all__ = ["attack", "certify", "load_data", "load_model"]

_LAZY = {
    "attack": "rbfbench.evaluation.api",
    "certify": "rbfbench.evaluation.api",
    "load_data": "rbfbench.data",
    "load_model": "rbfbench.evaluation.api",
}


def __getattr__(name: str) -> Any:  # noqa: ANN401  (module attributes have no common type)
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_LAZY[name]), name)
