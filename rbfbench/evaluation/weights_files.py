"""Weights and models from files that rbfbench did not write. What could run code is not read unless trusted."""

from __future__ import annotations

import pickle
import re
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from rbfbench.errors import LoadError, UsageError, raised
from rbfbench.evaluation.factories import built, see_working_directory

PICKLED = (".pt", ".pth", ".pt2", ".pkl", ".pickle", ".bin", ".ckpt")
WRAPPED_IN = ("state_dict", "model_state_dict", "model", "net", "params")  # keys of training scripts
PREFIXES = ("module.", "_orig_mod.", "model.")  # of parallel, compiled and Lightning modules
SHOWN = 3  # names of parameters in a message


def trusted_model(path: Path, *, trust: bool) -> Callable[[Tensor], Tensor]:
    """The model that a file holds as a whole, its code included.

    Args:
        path: A pickled module, ART or foolbox model, TorchScript or exported program.
        trust: The user knows where the file is from.

    Raises:
        LoadError: Not trusted, not readable, or no model.
    """
    what = f"{path} was not opened"
    if not path.is_file():
        raise LoadError(f"cannot read {path}", "there is no such file", "check the path")
    only_weights = f"if it holds weights alone, give --model module:factory --weights {path}"
    if not trust:
        raise LoadError(
            what,
            "pickled files can run any code when they are loaded",
            f"add --trust if you know where it is from; {only_weights}",
        )
    see_working_directory()
    try:
        found = _unpickled(path)
    except Exception as error:  # unpickling runs what the file says
        raise LoadError(
            f"cannot load {path}", raised(error), "check the file, and that its modules can be imported"
        ) from error
    if isinstance(found, Mapping):
        raise LoadError(f"{path} holds no model", "it is a table of weights", only_weights)
    return found if path.suffix.lower() == ".pt2" else built(found, str(path))


def _unpickled(path: Path) -> Any:  # noqa: ANN401
    if path.suffix.lower() == ".pt2":
        program = torch.export.load(path).module()
        return lambda x: program(x)  # as a module it cannot be put into eval mode, in which it already is
    if path.suffix.lower() in (".pkl", ".pickle"):
        with path.open("rb") as file:
            return pickle.load(file)  # noqa: S301  (behind --trust)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that TorchScript ages is not for the attacker to hear
        return torch.load(path, map_location="cpu", weights_only=False)


def load_weights(model: Callable[[Tensor], Tensor], path: Path, *, trust: bool) -> None:
    """Fill a module with the weights of a file: safetensors, or a state dict saved with torch.

    State dicts inside the dicts of training scripts are found, and prefixes of wrapped modules taken off.

    Args:
        model: The module.
        path: The file.
        trust: It may be unpickled with all that this can run.

    Raises:
        UsageError: The model has no weights to fill.
        LoadError: The file cannot be read, or its weights are not those of the module.
    """
    if not isinstance(model, nn.Module):
        raise UsageError("--weights has nothing to fill", f"the model is {type(model).__name__}", "leave it out")
    state = _unwrapped(_state(path, trust=trust), set(model.state_dict()))
    what = f"the weights in {path} are not those of {type(model).__name__}"
    try:
        result = model.load_state_dict(state, strict=False)
    except RuntimeError as error:  # shapes
        reason = str(error).splitlines()[-1]
        raise LoadError(what, reason.strip().rstrip("."), "build the model that they were trained for") from error
    if result.missing_keys or result.unexpected_keys:
        missing, stray = (_some(names) for names in (result.missing_keys, result.unexpected_keys))
        raise LoadError(what, f"missing {missing}, left over {stray}", "build the model that they were trained for")


def _some(names: list[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return (", ".join(names[:SHOWN]) or "none") + more


def _state(path: Path, *, trust: bool) -> dict[str, Tensor]:
    what = f"cannot read weights from {path}"
    if not path.is_file():
        raise LoadError(what, "there is no such file", "check the path")
    try:
        found = load_file(path) if path.suffix == ".safetensors" else _loaded(path, trust=trust)
    except LoadError:
        raise
    except Exception as error:  # torch, zip and pickle each raise their own, and a trusted pickle anything
        with path.open("rb") as file:
            begins = file.read(12)
        raise LoadError(what, f"{raised(error)}; it begins with {begins!r}", "check the file") from error
    for key in WRAPPED_IN:
        if isinstance(found, Mapping) and isinstance(found.get(key), Mapping | nn.Module):
            found = found[key]
            break
    if isinstance(found, nn.Module):
        found = found.state_dict()
    if not isinstance(found, Mapping) or not found or not all(isinstance(value, Tensor) for value in found.values()):
        raise LoadError(what, f"it holds {type(found).__name__}, no table of tensors", "save model.state_dict()")
    return dict(found)


def _unwrapped(state: dict[str, Tensor], wanted: set[str]) -> dict[str, Tensor]:
    """The state with the prefixes of wrappers taken off, as far as that makes more of its names the module's."""
    best = state
    while prefix := next((prefix for prefix in PREFIXES if all(name.startswith(prefix) for name in state)), None):
        state = {name.removeprefix(prefix): value for name, value in state.items()}
        best = max(best, state, key=lambda names: len(names.keys() & wanted))
    return best


def _loaded(path: Path, *, trust: bool) -> Any:  # noqa: ANN401
    try:
        return torch.load(path, map_location="cpu", weights_only=not trust)
    except pickle.UnpicklingError as error:
        named = re.search(r"GLOBAL ([\w.]+)", str(error))
        if named is None:
            raise
        raise LoadError(
            f"{path} was not opened",
            f"it wants to run {named[1]}, so it is more than weights",
            "add --trust if you know where it is from, or save model.state_dict() alone",
        ) from error
