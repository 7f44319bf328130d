"""Weights files: safetensors whose metadata says how to build the model that they fill."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from rbfbench.defenses.classifiers import CLASSIFIERS
from rbfbench.defenses.rbf import RBFConfig, RBFReconstruction
from rbfbench.defenses.rbfcnn import RBFCNN
from rbfbench.errors import LoadError, RbfbenchError

METADATA_KEY = "rbfbench"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Blueprint:
    """What a weights file needs besides its tensors.

    Attributes:
        classifier: Name in `CLASSIFIERS`.
        dataset: Name of the data set that the model was trained on.
        n_classes: Number of logits.
        rbf: Constants of the RBF front, or None for a bare classifier.
        recipe: Name and constants of the training, for the card; not needed to build.
    """

    classifier: str
    dataset: str
    n_classes: int
    rbf: RBFConfig | None
    recipe: dict[str, Any]


def build(blueprint: Blueprint, filters: tuple[Tensor, Tensor] | None) -> nn.Module:
    """The untrained model of a blueprint, with `filters` (means, variances) if it has an RBF front."""
    classifier = CLASSIFIERS[blueprint.classifier](blueprint.n_classes)
    if blueprint.rbf is None or filters is None:
        return classifier
    return RBFCNN(RBFReconstruction(filters[0].float(), filters[1].float(), blueprint.rbf), classifier)


def save(model: nn.Module, blueprint: Blueprint, path: Path) -> None:
    """Write weights atomically: half precision but for filters and batch-norm tensors, whose small numbers matter.

    Raises:
        LoadError: They cannot be written; what was at `path` stays.
    """
    keep = {
        f"{name}.{tensor}"
        for name, module in model.named_modules()
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d | RBFReconstruction)
        for tensor in module.state_dict()
    }
    state = {
        name: (tensor if name in keep or not tensor.is_floating_point() else tensor.half()).cpu().contiguous()
        for name, tensor in model.state_dict().items()
    }
    metadata = {METADATA_KEY: json.dumps(dataclasses.asdict(blueprint), sort_keys=True)}
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        part.write_bytes(safetensors.torch.save(state, metadata))
        part.replace(path)
    except OSError as error:
        part.unlink(missing_ok=True)
        todo = "make room, or choose another place (a training goes on with --resume)"
        raise LoadError(f"cannot write {path}", error.strerror or str(error), todo) from error


def load(path: Path) -> tuple[nn.Module, Blueprint]:
    """Read a model in eval mode, float32, from a file written by `save`. Executes nothing from the file.

    Its convolutions are laid out channels last, as they were trained: faster, on CPUs above all.

    Raises:
        LoadError: No such file, not safetensors, not one of ours, or tensors of another architecture.
    """
    what = f"cannot load {path}"
    if not path.is_file():
        raise LoadError(what, "there is no such file", "give a .safetensors file written by `rbfbench train`")
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except safetensors.SafetensorError as error:
        raise LoadError(what, f"not a whole safetensors file ({error})", "train or copy the file again") from error
    if METADATA_KEY not in metadata:
        raise LoadError(
            what,
            "it does not say which model it fills",
            "give a file written by `rbfbench train`, or --model module:factory --weights FILE",
        )
    try:
        blueprint = _blueprint(json.loads(metadata[METADATA_KEY]))
        filters = _filters(state) if blueprint.rbf else None
        model = build(blueprint, filters)
        model.load_state_dict({name: t.float() if t.is_floating_point() else t for name, t in state.items()})
    except (KeyError, TypeError, ValueError, RuntimeError, RbfbenchError) as error:
        reason = " ".join(str(error).split())[:200]
        raise LoadError(what, f"its tensors are not those of its model ({reason})", "train it again") from error
    (model.classifier if isinstance(model, RBFCNN) else model).to(memory_format=torch.channels_last)
    return model.eval(), blueprint


def _blueprint(fields: dict[str, Any]) -> Blueprint:
    rbf = RBFConfig(**fields["rbf"]) if fields["rbf"] else None
    return Blueprint(**{**fields, "rbf": rbf})


def _filters(state: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    return state["reconstruction.means"], state["reconstruction.variances"]
