"""From what the user calls a model to the model: shipped names, files, factories, other libraries, commands."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rbfbench.data.images import Images
from rbfbench.defenses import SHIPPED, is_purifier, shipped_for, shipped_path
from rbfbench.defenses.checkpoint import load
from rbfbench.defenses.rbfcnn import RBFCNN
from rbfbench.errors import LoadError, UsageError, unknown_name
from rbfbench.evaluation.factories import built, from_factory
from rbfbench.evaluation.load_options import LoadOptions
from rbfbench.evaluation.scaled import Scaled
from rbfbench.evaluation.target import Target, inspect
from rbfbench.evaluation.weights_files import PICKLED, load_weights, trusted_model
from rbfbench.interop.defended import defended
from rbfbench.plugins import load_plugin, plugins

Model = Callable[[Tensor], Tensor]


def load_target(
    name: str,
    images: Images,
    device: torch.device,
    *,
    knobs: dict[str, Any] | None = None,
    options: LoadOptions | None = None,
) -> Target:
    """Load a model and find out what it is.

    Args:
        name: A shipped name, a .safetensors file written by `rbfbench train`, "package.module:factory" or
            "file.py:factory", an .onnx file, "timm:NAME", "cmd:COMMAND", the name of a plugin, or with
            `options.trust` a pickled model.
        images: The images it will be attacked on; a shipped name is resolved by their data set.
        device: Where to put it.
        knobs: Constants of RBF-CNN to change (beta1, beta2, m, ...); m also serves other stochastic models.
        options: Whatever else the user said about it.

    Raises:
        UsageError: Unknown name, or a knob or an option that the model does not have.
        LoadError: A file, factory or command that cannot be used; pickled files are refused unread.
        ModelError: The model does not classify the images.
    """
    knobs = {key: value for key, value in (knobs or {}).items() if value is not None}
    options = options or LoadOptions()
    model, options = _load_model(name, images.name, options, device)
    if options.weights:
        load_weights(model, options.weights, trust=options.trust)
    if isinstance(model, RBFCNN):
        model.config = dataclasses.replace(model.config, **knobs)
        knobs = {}
    if set(knobs) - {"m"}:
        flags = ", ".join(f"--{key.replace('_', '-')}" for key in sorted(set(knobs) - {"m"}))
        raise UsageError(f"{name} has no {flags}", "it is not an RBF-CNN", "leave the option out")
    model = _in_range(model, name, images, options)
    shown = f"{name} [{options.weights.name}]" if options.weights else name
    for defense, value in reversed(options.defenses):
        model = defended(model, defense, value)
        shown = f"{defense} {value} + {shown}"
    target = inspect(model, shown, images, device, m=knobs.get("m"))
    target.card["input"] = _input(options)
    return target


def _in_range(model: Model, name: str, images: Images, options: LoadOptions) -> Model:
    if not (options.mean or options.std or options.input_range):
        return model
    if name in SHIPPED or name.endswith(".safetensors") or is_purifier(model):
        raise UsageError(
            f"{name} takes no --mean, --std or --input-range", "it expects images in [0,1]", "leave them out"
        )
    if getattr(model, "takes_bytes", False):
        raise UsageError(
            f"{name} takes no --mean, --std or --input-range", "it takes bytes, and gets them", "leave them out"
        )
    return Scaled(model, options, images.shape[0])


def _input(options: LoadOptions) -> str:
    """The numbers that the model sees, in words."""
    low, high = options.input_range or (0.0, 1.0)
    text = f"[{low:g},{high:g}]"
    if options.mean:
        text += f" minus {', '.join(f'{value:g}' for value in options.mean)}"
    if options.std:
        text += f" over {', '.join(f'{value:g}' for value in options.std)}"
    return text


def _load_model(name: str, dataset: str, options: LoadOptions, device: torch.device) -> tuple[Model, LoadOptions]:
    """The model, and the options with what it says of its own input."""
    kind, colon, rest = name.partition(":")
    plugin = name not in SHIPPED and name in plugins("defenses")
    if options.weights and ((not colon and not plugin) or kind in ("cmd", "timm")):
        raise UsageError("--weights needs a factory", f"{name} brings its own weights", "give --model module:factory")
    if colon and kind == "timm":
        return _from_timm(rest, options)
    if colon and kind == "cmd":
        from rbfbench.interop.command import CommandModel

        return CommandModel(rest, options.timeout), options
    return _from_file(name, options, device) or (from_factory(name) if colon else _by_name(name, dataset)), options


def _from_file(name: str, options: LoadOptions, device: torch.device) -> Model | None:
    """The model of a file, or None if the name is of none."""
    path = Path(name).expanduser()
    suffix = path.suffix.lower()
    if suffix == ".onnx":
        return _from_onnx(path, device)
    if suffix in PICKLED:
        return trusted_model(path, trust=options.trust)
    return load(path)[0] if suffix == ".safetensors" else None


def _by_name(name: str, dataset: str) -> Model:
    if name in SHIPPED:
        return _shipped(name, dataset)
    if name in plugins("defenses"):
        return built(load_plugin("defenses", name), name)
    if name.endswith(".py") or Path(f"{name}.py").is_file():
        raise UsageError(f"{name} names no model", "it is a file of Python", f"name what is in it, as {name}:build")
    raise unknown_name("model", name, [*SHIPPED, *plugins("defenses")])


def _shipped(name: str, dataset: str) -> nn.Module:
    weights = shipped_path(name, dataset)
    if weights is None:
        raise UsageError(
            f"there is no shipped {name!r} for {dataset}",
            f"it is shipped for {', '.join(shipped_for(name)) or 'none'}",
            "train one with `rbfbench train`, or give a module:factory",
        )
    return load(weights)[0]


def _from_timm(name: str, options: LoadOptions) -> tuple[Model, LoadOptions]:
    _needs("timm", f"timm:{name}")
    from rbfbench.interop.timm import pretrained

    model, mean, std = pretrained(name, download=options.download)
    if options.mean or options.std:
        return model, options
    return model, dataclasses.replace(options, mean=mean, std=std)


def _from_onnx(path: Path, device: torch.device) -> Model:
    if not path.is_file():
        raise LoadError(f"cannot read {path}", "there is no such file", "check the path")
    _needs("onnxruntime", str(path), extra="onnx")
    from rbfbench.interop.onnx import OnnxModel

    return OnnxModel(path, device)


def _needs(module: str, name: str, *, extra: str | None = None) -> None:
    if find_spec(module) is None:
        raise LoadError(
            f"cannot load {name}", f"{module} is not installed", f"pip install 'rbfbench[{extra or module}]'"
        )
