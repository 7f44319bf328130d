"""The m-run decision of RBF-CNN, and what the model says about its own noise."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from rbfbench.attacks.rng import Keys
from rbfbench.defenses.rbf import PRESETS, NoiseScope, RBFConfig, RBFReconstruction
from rbfbench.defenses.rbfcnn import RBFCNN

N, CLASSES = 3, 4
SCOPES: tuple[NoiseScope, ...] = ("model", "image", "patch")


def example(config: RBFConfig, device: torch.device | str = "cpu") -> tuple[RBFCNN, Tensor]:
    """A model in float64 with steep logits, so that the mean probability is far from the mean logit."""
    rng = np.random.default_rng(0)
    means, variances = torch.from_numpy(rng.random((5, 1, 3, 3))), torch.from_numpy(rng.uniform(0.1, 0.6, 5))
    linear = nn.Linear(36, CLASSES, dtype=torch.float64)
    linear.weight.data = torch.from_numpy(2 * rng.standard_normal((CLASSES, 36)))
    linear.bias.data = torch.from_numpy(rng.standard_normal(CLASSES))
    linear.requires_grad_(False)
    model = RBFCNN(RBFReconstruction(means, variances, config), nn.Sequential(nn.Flatten(), linear))
    return model.eval().to(device), torch.from_numpy(rng.random((N, 1, 6, 6))).to(device)


def mean_probability(logits: Tensor) -> list[list[float]]:
    """Log of the mean softmax over runs (images, runs, classes), number by number."""
    out = []
    for runs in logits.tolist():
        probabilities = []
        for row in runs:
            total = math.fsum(math.exp(value - max(row)) for value in row)
            probabilities.append([math.exp(value - max(row)) / total for value in row])
        out.append([math.log(math.fsum(column) / len(runs)) for column in zip(*probabilities, strict=True)])
    return out


@pytest.mark.parametrize("scope", SCOPES)
def test_decision_is_the_log_of_the_mean_probability_of_m_runs(scope: NoiseScope, device: torch.device) -> None:
    model, x = example(RBFConfig(m=7, noise_scope=scope), device)
    keys = Keys.of([str(i) for i in range(N)], seed=0).spread(7)
    logits = model.classify(model.front(x, keys)).view(N, 7, CLASSES)
    decision = model.decide(x, keys)
    np.testing.assert_allclose(decision.detach().cpu(), mean_probability(logits), rtol=1e-12)
    np.testing.assert_allclose(decision.exp().sum(1).detach().cpu(), 1, rtol=1e-12)
    mean_logits = logits.mean(1).log_softmax(1)
    assert float((mean_logits - decision).abs().max()) > 0.01  # the two ways to average can be told apart


def rows_of_one_decision(model: RBFCNN, x: Tensor) -> int:
    seen: list[int] = []
    hook = model.classifier.register_forward_pre_hook(lambda _, given: seen.append(len(given[0])))
    model(x)
    hook.remove()
    (rows,) = seen
    return rows


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize(("beta2", "m", "runs"), [(1.75, 10, 10), (1.75, 1, 1), (0.01, 4, 4), (0.0, 10, 1)])
def test_a_decision_makes_m_runs_where_there_is_noise(scope: NoiseScope, beta2: float, m: int, runs: int) -> None:
    model, x = example(RBFConfig(beta2=beta2, m=m, noise_scope=scope))
    assert rows_of_one_decision(model, x) == N * runs


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("beta2", [0.0, 1.0])
def test_stochastic_says_whether_two_decisions_differ(scope: NoiseScope, beta2: float, device: torch.device) -> None:
    model, x = example(RBFConfig(beta2=beta2, noise_scope=scope), device)
    assert model.stochastic == (beta2 > 0 and scope != "model")
    assert torch.equal(model(x), model(x)) != model.stochastic


def test_fixed_draws_are_an_ensemble_that_differs_from_each_run_and_from_no_noise() -> None:
    model, x = example(PRESETS["authors"])
    logits = model.classify(model.front(x, draws=10)).view(N, 10, CLASSES)
    np.testing.assert_allclose(model(x).detach(), mean_probability(logits), rtol=1e-12)
    assert float(logits.std(1).min()) > 0.01
    assert float((model(x) - model.classify(model.front_static(x)).log_softmax(1)).abs().max()) > 0.01
    # The first draws stay the first when m changes.
    model.config = dataclasses.replace(model.config, m=4)
    np.testing.assert_allclose(model(x).detach(), mean_probability(logits[:, :4]), rtol=1e-12)


@pytest.mark.parametrize("change", [{"beta1": 60.0}, {"beta2": 0.5}, {"m": 3}])
def test_constants_changed_on_a_built_model_take_effect(change: dict[str, Any]) -> None:
    model, x = example(PRESETS["authors"])
    before = model(x)
    model.config = dataclasses.replace(model.config, **change)
    assert model.reconstruction.config is model.config
    assert float((model(x) - before).abs().max()) > 1e-3
    fresh, _ = example(model.config)
    assert torch.equal(fresh(x), model(x))


def test_in_training_the_model_is_its_static_view_at_the_sharpness_of_training() -> None:
    model, x = example(PRESETS["authors"])
    at_test = model.classify(model.front_static(x))
    trained = model.train()(x)
    assert torch.equal(trained, model.classify(model.front_static(x)))
    assert torch.equal(trained, model(x))
    assert float((trained - at_test).abs().max()) > 1e-3  # beta1 is 125, not 25
    model.config = dataclasses.replace(model.config, beta1=125.0)
    assert torch.equal(trained, model.eval().classify(model.front_static(x)))


@pytest.mark.parametrize("scope", SCOPES)
def test_without_noise_the_decision_is_the_static_view(scope: NoiseScope, device: torch.device) -> None:
    model, x = example(RBFConfig(noise_scope=scope), device)
    assert float((model(x) - model.classify(model.front_static(x)).log_softmax(1)).abs().max()) > 1e-3
    model.config = dataclasses.replace(model.config, beta2=0.0)
    static = model.classify(model.front_static(x)).log_softmax(1)
    np.testing.assert_allclose(model(x).detach().cpu(), static.detach().cpu(), rtol=1e-13)


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("beta2", [0.0, 1.75])
def test_no_images_give_no_decisions(scope: NoiseScope, beta2: float, device: torch.device) -> None:
    model, x = example(RBFConfig(beta2=beta2, noise_scope=scope), device)
    none, keys = x[:0].requires_grad_(), Keys.of([], seed=0).spread(10)
    for images in (model.front_static(none), model.front(none, draws=3), model.front(none, keys)):
        assert images.shape == none.shape
    for decision in (model(none), model.decide(none, keys)):
        assert decision.shape == (0, CLASSES)
        assert torch.autograd.grad(decision.sum(), none)[0].shape == none.shape


def test_decision_stays_finite_where_every_run_gives_a_class_no_probability() -> None:
    model, x = example(RBFConfig())
    linear = model.classifier[1]  # type: ignore[index]
    linear.weight.data *= 1e4  # exp of such logits is 0 or infinite
    decision = model(x)
    assert decision.isfinite().all()
    np.testing.assert_allclose(decision.exp().sum(1).detach(), 1, rtol=1e-12)


def test_gradient_of_a_keyed_decision_is_the_central_difference() -> None:
    model, x = example(RBFConfig(clip=False, m=3))
    keys = Keys.of([str(i) for i in range(N)], seed=0).spread(3)
    leaf = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(model.decide(leaf, keys)[:, 1].sum(), leaf)
    step = 1e-6
    for index in range(0, x.numel(), 5):
        shift = torch.zeros(x.numel(), dtype=x.dtype)
        shift[index] = step
        shift = shift.view_as(x)
        upper, lower = (model.decide(x + sign * shift, keys)[:, 1].sum() for sign in (1, -1))
        # Error: step^2 times a third derivative (~1e5) and rounding 1e-14 / step.
        assert float((upper - lower) / (2 * step)) == pytest.approx(float(gradient.view(-1)[index]), rel=1e-5, abs=1e-6)
    assert float(gradient.abs().max()) > 0.1
