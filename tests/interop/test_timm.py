"""Models of timm: their own normalisation inside, and no network without leave. Weights come from a local folder."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import rbfbench
from rbfbench.errors import LoadError, UsageError
from rbfbench.evaluation.load_options import LoadOptions
from rbfbench.evaluation.loading import load_target

timm = pytest.importorskip("timm", reason="timm is not installed")

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)


@pytest.fixture(scope="module")
def local(tmp_path_factory) -> Path:
    """A small network in timm's own file format, as its save_for_hf writes it."""
    from safetensors.torch import save_model

    folder = tmp_path_factory.mktemp("timm")
    torch.manual_seed(0)
    net = timm.create_model("resnet10t", num_classes=10)
    config = {"architecture": "resnet10t", "num_classes": 10, "pretrained_cfg": {"mean": MEAN, "std": STD}}
    (folder / "config.json").write_text(json.dumps(config))
    save_model(net, str(folder / "model.safetensors"))
    return folder


def test_a_model_gets_what_its_configuration_says(local):
    images = rbfbench.load_data("cifar10").head(8)
    target = load_target(f"timm:local-dir:{local}", images, torch.device("cpu"))
    torch.manual_seed(0)
    net = timm.create_model("resnet10t", num_classes=10).eval()
    x, _ = images.batch(0, 8)
    expected = net((x - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1))
    assert torch.allclose(target.model(x), expected, atol=1e-5)
    assert target.card["input"] == "[0,1] minus 0.4, 0.5, 0.6 over 0.2, 0.25, 0.3"
    assert target.card["differentiable"]


def test_what_the_user_says_goes_before_the_configuration(local):
    images = rbfbench.load_data("cifar10").head(8)
    options = LoadOptions(mean=(0.5,), std=(0.5,))
    target = load_target(f"timm:local-dir:{local}", images, torch.device("cpu"), options=options)
    assert target.card["input"] == "[0,1] minus 0.5 over 0.5"


@pytest.mark.parametrize(
    ("name", "error", "words"),
    [
        ("resnet10tt", UsageError, "did you mean"),
        ("qqqq_zz", UsageError, r"choose one of .{1,2000} and \d+ more"),
        ("resnet18.a1_in1k", LoadError, "not in the cache .*; fetch them with --download"),
        ("local-dir:/nowhere", LoadError, "cannot load"),
        ("resnetv2_50d.untrained", UsageError, "has no weights|unknown timm model"),
    ],
)
def test_models_that_are_not_here(name, error, words, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(error, match=words):
        load_target(f"timm:{name}", rbfbench.load_data("cifar10").head(8), torch.device("cpu"))
