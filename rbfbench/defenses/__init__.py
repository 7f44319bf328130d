"""The defender: RBF-CNN and the classifiers behind it. This page is torch-free.

Shipped weights are `weights/DATASET-NAME.safetensors`, each with a card beside it.
"""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

SHIPPED: dict[str, str] = {
    "rcnn+": "RBF-CNN trained on clean and noisy images (arXiv 2004.02183)",
    "rcnn": "RBF-CNN trained on clean images",
    "rcnn+-authors": "rcnn+ with the constants of its authors' scripts, fixed noise included; trained for fewer epochs",
    "rcnn-authors": "rcnn with the constants of its authors' scripts, fixed noise included; trained for fewer epochs",
    "cnn": "the same classifier without defence",
    "cnn-ls": "the same with the smoothed labels of rcnn: what they do alone",
    "cnn-ls-noise": "the same with the smoothed labels and noisy images of rcnn+: what they do alone",
    "madry": "the same trained on adversarial examples by PGD under linf (arXiv 1706.06083)",
    "madry-l2": "as madry, under l2",
    "madry-l1": "as madry, under l1",
    "fast": "the same trained on one step from a random start under linf (arXiv 2001.03994)",
    "trades": "the same trained to answer alike within the ball under linf (arXiv 1901.08573)",
}

DEFAULT_MODEL = "rcnn+"

WEIGHTS = Path(str(files(__name__) / "weights"))

PRESET_NAMES = ("default", "paper", "authors")  # of `rbf.PRESETS`


def shipped_path(name: str, dataset: str) -> Path | None:
    """The weights file of a shipped model for a data set, or None where none is shipped."""
    path = WEIGHTS / f"{dataset}-{name}.safetensors"
    return path if path.is_file() else None


def shipped_for(name: str) -> list[str]:
    """The data sets that a shipped model has weights for."""
    return sorted(path.name.partition("-")[0] for path in WEIGHTS.glob(f"*-{name}.safetensors"))


def is_purifier(model: object) -> bool:
    """Whether a model shows how it purifies its input: by `front(x, keys)`, `front_static`, `classify`, `config`.

    The last holds `m`, the passes behind a decision, and `beta2`, 0 for no noise.
    """
    config = getattr(model, "config", None)
    parts = all(hasattr(model, part) for part in ("front", "front_static", "classify"))
    return parts and all(hasattr(config, name) for name in ("m", "beta2"))
