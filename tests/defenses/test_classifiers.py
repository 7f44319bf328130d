"""VGG-16 as the authors' script lays it out: sizes by closed form, the order of its layers, and its start."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from rbfbench.defenses.classifiers import CLASSIFIERS, VGG16

# The authors' script: conv(64,d.3)(64)P (128,d.4)(128)P (256,d.4)(256,d.4)(256)P (512,d.4)(512,d.4)(512)P (same)P d.5,
# flatten(512), fc512, d.5, fc10; order conv -> relu -> BN -> dropout; fc512 also relu -> BN.
LAYOUT = "64d.3 64 P 128d.4 128 P 256d.4 256d.4 256 P 512d.4 512d.4 512 P 512d.4 512d.4 512 P"
WIDTHS = [int(word.partition("d")[0]) for word in LAYOUT.split() if word != "P"]


def described(layers: nn.Sequential) -> list[str]:
    words = []
    for layer in layers:
        match layer:
            case nn.Conv2d():
                words.append(f"conv {layer.in_channels}-{layer.out_channels}")
            case nn.Linear():
                words.append(f"fc {layer.in_features}-{layer.out_features}")
            case nn.Dropout():
                words.append(f"dropout {layer.p:g}")
            case nn.BatchNorm2d() | nn.BatchNorm1d():
                words.append(f"bn {layer.num_features}")
            case _:
                words.append(type(layer).__name__.lower())
    return words


def test_layers_stand_in_the_order_of_the_script() -> None:
    expected, channels = [], 3
    for word in LAYOUT.split():
        if word == "P":
            expected.append("maxpool2d")
            continue
        width, _, rate = word.partition("d")
        expected += [f"conv {channels}-{width}", "relu", f"bn {width}"] + ([f"dropout {float(rate):g}"] if rate else [])
        channels = int(width)
    model = VGG16(7)
    assert described(model.features) == expected
    assert described(model.head) == [
        "dropout 0.5",
        "flatten",
        "fc 512-512",
        "relu",
        "bn 512",
        "dropout 0.5",
        "fc 512-7",
    ]


@pytest.mark.parametrize("n_classes", [2, 10])
def test_parameters_are_counted_by_closed_form(n_classes: int) -> None:
    channels = [3, *WIDTHS]
    convolutions = sum(9 * a * b + b for a, b in zip(channels, WIDTHS, strict=False))
    norms = 2 * (sum(WIDTHS) + 512)
    dense = 512 * 512 + 512 + 512 * n_classes + n_classes
    count = sum(parameter.numel() for parameter in VGG16(n_classes).parameters())
    assert count == convolutions + norms + dense
    assert n_classes != 10 or count == 14_991_946


def test_maps_shrink_by_pooling_alone(device: torch.device) -> None:
    model = VGG16().eval().to(device)
    x = torch.rand(2, 3, 32, 32, device=device)
    sides = []
    with torch.no_grad():
        for layer in model.features:
            x = layer(x)
            if isinstance(layer, nn.MaxPool2d):
                sides.append(tuple(x.shape[1:]))
        assert model.head(x).shape == (2, 10)
    assert sides == [(64, 16, 16), (128, 8, 8), (256, 4, 4), (512, 2, 2), (512, 1, 1)]


def test_batch_norm_has_the_constants_of_keras() -> None:
    norms = [module for module in VGG16().modules() if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d)]
    assert len(norms) == 14
    assert {(module.eps, module.momentum) for module in norms} == {(1e-3, 0.01)}  # Keras' 0.99 keeps, torch's 0.01 adds


def test_it_starts_as_keras_does() -> None:
    """Glorot-uniform: U(-b, b) with b = sqrt(6 / (fan_in + fan_out)); biases zero."""
    torch.manual_seed(0)
    for module in VGG16().modules():
        if not isinstance(module, nn.Conv2d | nn.Linear):
            continue
        weight = module.weight.detach()
        area = weight[0, 0].numel() if weight.ndim == 4 else 1
        bound = math.sqrt(6 / (area * (weight.shape[0] + weight.shape[1])))
        n = weight.numel()
        assert float(weight.abs().max()) <= bound
        assert float(weight.abs().max()) > bound * (1 - 30 / n)  # P(all n below) = (1 - 30/n)^n < 1e-13
        # mean square b^2/3, standard error b^2 sqrt(4/45) / sqrt(n)
        assert abs(float(weight.square().mean()) - bound**2 / 3) < 5 * bound**2 * math.sqrt(4 / 45 / n)
        assert module.bias is not None
        assert not module.bias.any()


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_training_mode_is_random_only_where_there_is_dropout(name: str, device: torch.device) -> None:
    shape = {"mnist-cnn": (1, 28, 28), "digits-cnn": (1, 8, 8)}.get(name, (3, 32, 32))
    model = CLASSIFIERS[name](10).to(device)
    drops = any(isinstance(module, nn.Dropout) for module in model.modules())
    assert drops == (name in ("mnist-cnn", "vgg16"))
    x = torch.rand(3, *shape, device=device)
    with torch.no_grad():
        model.train()
        assert torch.equal(model(x), model(x)) != drops
        model.eval()
        assert torch.equal(model(x), model(x))
