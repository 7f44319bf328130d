"""From what the user calls a model to the model: shipped names, weights files, factories."""

from __future__ import annotations

import dataclasses
import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rbfbench.data.images import Images
from rbfbench.defenses import SHIPPED, shipped_for, shipped_path
from rbfbench.defenses.checkpoint import load
from rbfbench.defenses.rbfcnn import RBFCNN
from rbfbench.errors import LoadError, UsageError, unknown_name
from rbfbench.evaluation.target import Target, inspect
from rbfbench.interop.adapt import adapted

PICKLED = (".pt", ".pth", ".pkl", ".pickle", ".bin", ".ckpt", ".joblib")


def load_target(name: str, images: Images, device: torch.device, *, knobs: dict[str, Any] | None = None) -> Target:
    """Load a model and find out what it is.

    Args:
        name: A shipped name, a .safetensors file written by `rbfbench train`, or "package.module:factory".
        images: The images it will be attacked on; a shipped name is resolved by their data set.
        device: Where to put it.
        knobs: Constants of RBF-CNN to change (beta1, beta2, m, ...); m also serves other stochastic models.

    Raises:
        UsageError: Unknown name, or a knob that the model does not have.
        LoadError: A file or factory that cannot be used; pickled files are refused unread.
        ModelError: The model does not classify the images.
    """
    knobs = {key: value for key, value in (knobs or {}).items() if value is not None}
    model = _load_model(name, images.name)
    if isinstance(model, RBFCNN):
        model.config = dataclasses.replace(model.config, **knobs)
        return inspect(model, name, images, device)
    if set(knobs) - {"m"}:
        flags = ", ".join(f"--{key.replace('_', '-')}" for key in sorted(set(knobs) - {"m"}))
        raise UsageError(f"{name} has no {flags}", "it is not an RBF-CNN", "leave the option out")
    return inspect(model, name, images, device, m=knobs.get("m"))


def _load_model(name: str, dataset: str) -> Callable[[Tensor], Tensor]:
    path = Path(name)
    if path.suffix.lower() in PICKLED:
        raise LoadError(
            f"{name} was not opened",
            "pickled files can run any code when they are loaded",
            "save the weights as safetensors, or give module:factory for a function that builds and loads your model",
        )
    if path.suffix == ".safetensors":
        return load(path)[0]
    if ":" in name:
        return _from_factory(name)
    if name not in SHIPPED:
        raise unknown_name("model", name, SHIPPED)
    weights = shipped_path(name, dataset)
    if weights is None:
        raise UsageError(
            f"there is no shipped {name!r} for {dataset}",
            f"it is shipped for {', '.join(shipped_for(name)) or 'none'}",
            "train one with `rbfbench train`, or give a module:factory",
        )
    return load(weights)[0]


def _from_factory(name: str) -> Callable[[Tensor], Tensor]:
    module_name, _, attribute = name.partition(":")
    what = f"cannot load {name}"
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))  # the user's own module, from where the command was typed
    try:
        module = importlib.import_module(module_name)
    except (Exception, SystemExit) as error:  # the import runs the user's code, which may raise anything
        raise LoadError(
            what, f"importing {module_name} raised {_short(error)}", "check the module's name and code"
        ) from error
    factory = adapted(getattr(module, attribute, None))
    if isinstance(factory, nn.Module):
        return factory
    if not callable(factory):
        raise LoadError(what, f"{module_name} has no function {attribute!r}", "give package.module:function")
    try:
        model = adapted(factory())
    except (Exception, SystemExit) as error:  # likewise
        raise LoadError(
            what, f"{attribute}() raised {_short(error)}", "fix the factory; it takes no arguments"
        ) from error
    if not callable(model):
        raise LoadError(
            what, f"{attribute}() returned {type(model).__name__}", "return a torch module or another callable"
        )
    return model  # type: ignore[no-any-return]


def _short(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"
