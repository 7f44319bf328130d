"""The views of RBF-CNN that attacks take: what each computes and what it is differentiated as."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor, nn

from rbfbench.attacks.rng import Keys
from rbfbench.data.images import Images
from rbfbench.defenses.rbf import NoiseScope, RBFConfig, RBFReconstruction
from rbfbench.defenses.rbfcnn import RBFCNN
from rbfbench.evaluation.target import Target, inspect

DRAWS = 3


def target_of(device: torch.device | str = "cpu", **config: object) -> tuple[Target, Tensor, Keys]:
    """A small RBF-CNN in float64, images, and keys of DRAWS rows an image."""
    generator = torch.Generator().manual_seed(0)
    means = torch.rand(5, 1, 3, 3, generator=generator, dtype=torch.float64)
    variances = 0.05 + 0.2 * torch.rand(5, generator=generator, dtype=torch.float64)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(4 * 36, 10)).double()
    layer = RBFReconstruction(means, variances, RBFConfig(**{"m": DRAWS, **config}))  # type: ignore[arg-type]
    pixels = torch.rand(4, 8, 8, 1, generator=generator).numpy()
    images = Images(
        name="toy",
        source="",
        pixels=pixels,
        labels=torch.arange(4).numpy(),
        indices=torch.arange(4).numpy(),
        classes=tuple("0123456789"),
    )
    model = RBFCNN(layer, net)
    target = Target(model.eval().to(device), "toy", torch.device(device))
    target.stochastic, target.m = model.stochastic, model.config.m
    x = images.batch(0, 4)[0].double().to(device)
    return target, x, Keys.of(images.ids, 0).spread(DRAWS)


def gradient(forward: object, x: Tensor, keys: Keys | None) -> tuple[Tensor, Tensor]:
    leaf = x.clone().requires_grad_()
    logits = forward(leaf, keys)  # type: ignore[operator]
    weights = torch.linspace(-1, 1, logits.numel(), dtype=logits.dtype, device=logits.device).view_as(logits)
    return logits.detach(), torch.autograd.grad((logits * weights).sum(), leaf)[0]


@pytest.mark.parametrize("scope", ["image", "patch", "model"])
def test_bpda_computes_through_the_noise_and_differentiates_without_it(scope: NoiseScope, device: torch.device) -> None:
    target, x, keys = target_of(device, noise_scope=scope)
    model = target.model
    assert isinstance(model, RBFCNN)
    exact, through = gradient(target.views["eot"].forward, x, keys)
    values, approximate = gradient(target.views["bpda"].forward, x, keys)
    assert torch.equal(values, exact)
    # By hand: the classifier's gradient at the noisy images, pulled back through the noise-free front.
    with torch.no_grad():
        noisy = model.front(x, keys)
    at = noisy.clone().requires_grad_()
    logits = model.classify(at)
    weights = torch.linspace(-1, 1, logits.numel(), dtype=logits.dtype, device=device).view_as(logits)
    (upstream,) = torch.autograd.grad((logits * weights).sum(), at)
    leaf = x.clone().requires_grad_()
    quiet = model.front_static(leaf).repeat_interleave(DRAWS, dim=0)
    (expected,) = torch.autograd.grad((quiet * upstream).sum(), leaf)
    torch.testing.assert_close(approximate, expected, rtol=1e-12, atol=1e-12)
    assert float((approximate - through).abs().max()) > 1e-3 * float(through.abs().max())


def test_bpda_passes_where_the_clamp_stops_the_exact_gradient(device: torch.device) -> None:
    target, x, keys = target_of(device, beta2=60.0)
    model = target.model
    assert isinstance(model, RBFCNN)
    with torch.no_grad():
        clamped = ((front := model.front(x, keys)) == 0) | (front == 1)
    assert float(clamped.double().mean()) > 0.5
    _, through = gradient(target.views["eot"].forward, x, keys)
    _, approximate = gradient(target.views["bpda"].forward, x, keys)
    assert int((approximate.abs() > 1e-9).sum()) >= int((through.abs() > 1e-9).sum())


def test_views_follow_the_noise() -> None:
    assert sorted(target_of()[0].views) == ["bpda", "bpda-eot", "eot", "none", "static"]
    assert sorted(target_of(beta2=0.0)[0].views) == ["none", "static"]
    fixed = target_of(noise_scope="model")[0].views
    assert {fixed[name].draws for name in ("eot", "bpda", "bpda-eot")} == {DRAWS}  # the whole ensemble
    assert all(fixed[name].exact for name in ("eot", "bpda"))
    assert not target_of()[0].views["bpda"].exact
    assert target_of()[0].views["none"].draws == DRAWS  # an outsider sees decisions, not single draws


def test_inspect_lists_the_views() -> None:
    target, x, _ = target_of()
    model = target.model
    assert isinstance(model, RBFCNN)
    model.float()
    model.config = dataclasses.replace(model.config, m=2)
    images = Images(
        name="toy",
        source="",
        pixels=x.float().permute(0, 2, 3, 1).numpy(),
        labels=torch.arange(4).numpy(),
        indices=torch.arange(4).numpy(),
        classes=tuple("0123456789"),
    )
    assert inspect(model, "toy", images, torch.device("cpu")).card["views"] == ["bpda", "bpda-eot", "eot", "static"]
