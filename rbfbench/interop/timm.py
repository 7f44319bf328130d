"""Pretrained models of timm, with the normalisation of their configuration inside. Importing this page imports timm."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from torch import nn

from rbfbench.errors import LoadError, UsageError, raised, unknown_name


def pretrained(name: str, *, download: bool) -> tuple[nn.Module, tuple[float, ...], tuple[float, ...]]:
    """A model and the mean and standard deviation that its input is normalised by.

    Args:
        name: As timm.create_model takes it: "resnet18.a1_in1k", "hf-hub:owner/name".
        download: Weights that are not in the cache may be fetched.

    Raises:
        UsageError: timm has no such model, or no weights for it.
        LoadError: The weights cannot be loaded.
    """
    if not download:
        os.environ["HF_HUB_OFFLINE"] = "1"  # read by huggingface_hub when it is imported
    import timm
    from timm.data.config import resolve_model_data_config

    hub = name.startswith(("hf-hub:", "hf_hub:", "local-dir:"))
    if not hub:
        if not timm.is_model(name):
            raise unknown_name("timm model", name, timm.list_models())
        config = timm.get_pretrained_cfg(name)
        if config is None or not config.has_weights:
            raise UsageError(f"timm:{name} has no weights", "timm knows its architecture only", "name a pretrained one")
        cached = Path(torch.hub.get_dir()) / "checkpoints" / str(config.url).rpartition("/")[2]
        if not (download or config.hf_hub_id or cached.exists()):
            raise _not_here(name, f"{cached} does not exist")
    try:
        model = timm.create_model(name, pretrained=True)
    except Exception as error:  # timm, huggingface_hub and torch.hub each raise their own
        if not download:
            raise _not_here(name, raised(error)) from error
        raise LoadError(f"cannot load timm:{name}", raised(error), "check the name and the connection") from error
    used = resolve_model_data_config(model)  # type: ignore[no-untyped-call]
    return model, tuple(map(float, used["mean"])), tuple(map(float, used["std"]))


def _not_here(name: str, why: str) -> LoadError:
    return LoadError(
        f"cannot load timm:{name}", f"its weights are not in the cache ({why})", "fetch them with --download"
    )
