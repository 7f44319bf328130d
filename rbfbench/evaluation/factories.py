"""Models from the user's own code: a function, a class or an object of a module."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import Tensor, nn

from rbfbench.errors import LoadError, raised
from rbfbench.interop.adapt import adapted


def from_factory(name: str) -> Callable[[Tensor], Tensor]:
    """The model of "package.module:factory", of "path/to/file.py:Class", or of an object that is one already.

    Raises:
        LoadError: The module or the factory fails, or what comes of it is no model.
    """
    module_name, _, attribute = name.rpartition(":")
    what = f"cannot load {name}"
    see_working_directory()
    try:
        module = _module(module_name)
    except (Exception, SystemExit) as error:  # the import runs the user's code, which may raise anything
        raise LoadError(
            what, f"importing {module_name} raised {raised(error)}", "check the module's name and code"
        ) from error
    if not hasattr(module, attribute):
        raise LoadError(what, f"{module_name} has no {attribute!r}", "name a function, a class or a model in it")
    return built(getattr(module, attribute), name)


def built(found: Any, name: str) -> Callable[[Tensor], Tensor]:  # noqa: ANN401  (whatever the user's code holds)
    """A model, or what a factory without arguments makes.

    Args:
        found: A model of torch, ART or foolbox, or a callable that returns one.
        name: What the user calls it.

    Raises:
        LoadError: It is neither.
    """
    what, attribute = f"cannot load {name}", name.rpartition(":")[2]
    model = adapted(found)
    if model is not found or isinstance(found, nn.Module):
        return model  # type: ignore[no-any-return]
    if _is_model(found):
        return found  # type: ignore[no-any-return]
    if not callable(found):
        raise LoadError(what, f"{attribute} is {type(found).__name__}", "name a function, a class or a model")
    try:
        model = adapted(found())
    except (Exception, SystemExit) as error:  # likewise the user's code
        raise LoadError(
            what, f"{attribute}() raised {raised(error)}", "fix the factory; it takes no arguments"
        ) from error
    if not callable(model):
        raise LoadError(
            what, f"{attribute}() returned {type(model).__name__}", "return a torch module or another callable"
        )
    return model  # type: ignore[no-any-return]


def _is_model(found: Any) -> bool:  # noqa: ANN401
    """Whether a function or an object asks for one thing, the images, and so is no factory."""
    if not callable(found) or isinstance(found, type):
        return False
    try:
        asked = inspect.signature(found).parameters.values()
    except (TypeError, ValueError):  # built-in functions may have none
        return False
    needed = [p for p in asked if p.default is p.empty and p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    return len(needed) == 1


def see_working_directory() -> None:
    """Let imports find the user's own modules, from where the command was typed."""
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))


def _module(name: str) -> ModuleType:
    if not name.endswith(".py"):
        return importlib.import_module(name)
    path = Path(name).resolve()
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    sys.path.insert(0, str(path.parent))  # for what stands beside it
    known = sys.modules.get(path.stem)
    if known is not None and getattr(known, "__file__", None) == str(path):
        return known
    # Under its own name, by which pickles find it, unless another module has that.
    name = path.stem if known is None else f"{path.stem} of {path.parent}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module
