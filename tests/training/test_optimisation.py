"""Learning rates against closed forms, and optimisers against steps written by hand."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from rbfbench.defenses.classifiers import VGG16, DigitsCNN
from rbfbench.training.optimisation import learning_rate, optimizer_of
from rbfbench.training.recipes import SCHEDULES, Schedule


def schedule_of(**changes: Any) -> Schedule:
    plain: dict[str, Any] = {
        "classifier": "digits-cnn",
        "optimizer": "sgd",
        "policy": "halving",
        "epochs": 10,
        "batch": 50,
        "lr": 0.1,
    }
    return Schedule(**plain | changes)


# Learning rates -------------------------------------------------------------------------------------------------------
@given(epochs=st.integers(1, 40).map(lambda n: 5 * n), steps=st.integers(1, 30))
def test_cycle_climbs_a_fifth_and_falls_to_the_end(epochs: int, steps: int) -> None:
    share = learning_rate(schedule_of(policy="cycle", epochs=epochs), steps)
    total = epochs * steps
    peak = total // 5
    shares = [share(step) for step in range(total + 1)]
    up = [(step + 1) / peak for step in range(peak)]
    down = [(total - step) / (total - peak) for step in range(peak, total + 1)]
    assert shares == pytest.approx(up + down, rel=1e-12, abs=1e-12)
    assert max(shares) == pytest.approx(1)
    assert shares[-1] == 0


@given(epochs=st.integers(1, 100), steps=st.integers(1, 30))
def test_cosine_falls_from_the_peak_to_nothing_through_half(epochs: int, steps: int) -> None:
    share = learning_rate(schedule_of(policy="cosine", epochs=epochs), steps)
    total = epochs * steps
    assert share(0) == 1
    assert share(total) == pytest.approx(0, abs=1e-15)
    for step in range(total + 1):  # cos^2 of half the angle, and point symmetry about (total / 2, 1/2)
        assert share(step) == pytest.approx(math.cos(math.pi * step / total / 2) ** 2, abs=1e-12)
        assert share(step) + share(total - step) == pytest.approx(1, abs=1e-12)


def rates(schedule: Schedule, steps: int, epochs: int) -> list[float]:
    """Learning rate at the first and last step of each epoch; they must be equal where nothing fades."""
    share = learning_rate(schedule, steps)
    first, last = ([schedule.lr * share(e * steps + s) for e in range(epochs)] for s in (0, steps - 1))
    assert first == last
    return first


@pytest.mark.parametrize("steps", [1, 7, 391])
def test_halving_of_the_authors_cifar_rcnn(steps: int) -> None:
    got = rates(SCHEDULES["authors", "cifar10", False], steps, 50)
    assert got == pytest.approx([0.1] * 10 + [0.05] * 10 + [0.025] * 10 + [0.0125] * 10 + [0.00625] * 10, rel=1e-12)


@pytest.mark.parametrize("steps", [1, 736])
def test_the_authors_cifar_rcnn_plus_jumps_back_and_stays(steps: int) -> None:
    got = rates(SCHEDULES["authors", "cifar10", True], steps, 450)
    falling = [rate for rate in (1e-5, 5e-6, 2.5e-6, 1.25e-6) for _ in range(10)]
    assert got == pytest.approx(falling + [1e-5] * 410, rel=1e-12)


@pytest.mark.parametrize(("noisy", "every"), [(False, 20), (True, 25)])
def test_the_authors_mnist_rate_halves_fades_and_stops_at_its_least(noisy: bool, every: int) -> None:
    schedule = SCHEDULES.get(("authors", "mnist", noisy), SCHEDULES["authors", "mnist", False])
    share = learning_rate(schedule, 469)
    for epoch in (0, 1, every - 1, every, 2 * every, 149, 10 * every - 1, 10 * every, 400):
        step = epoch * 469 + 17
        expected = max(1e-3 * 0.5 ** (epoch // every), 1e-6) / (1 + 1e-6 * step)
        assert schedule.lr * share(step) == pytest.approx(expected, rel=1e-12)


@given(
    lr=st.floats(1e-6, 1),
    least=st.floats(1e-9, 1),
    then=st.none() | st.floats(1e-9, 1),
    every=st.integers(1, 9),
    epoch=st.integers(0, 60),
)
def test_halving_never_goes_below_its_least(
    lr: float, least: float, then: float | None, every: int, epoch: int
) -> None:
    schedule = schedule_of(lr=lr, lr_least=least, lr_then=then, halve_every=every)
    halved = lr / 2 ** (epoch // every)
    expected = halved if halved >= least else least if then is None else then
    assert lr * learning_rate(schedule, 3)(3 * epoch + 1) == pytest.approx(expected, rel=1e-9)


def test_a_rate_that_is_just_the_least_is_kept() -> None:
    schedule = schedule_of(lr=0.5, lr_least=0.125, lr_then=0.5, halve_every=1)
    assert rates(schedule, 3, 6) == [0.5, 0.25, 0.125, 0.5, 0.5, 0.5]


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
@pytest.mark.parametrize("policy", ["cycle", "cosine", "halving"])
def test_every_group_follows_the_policy_step_by_step(optimizer: Any, policy: Any) -> None:
    schedule = schedule_of(
        optimizer=optimizer, policy=policy, epochs=5, lr=0.01, halve_every=2, weight_decay=0.1, decay_on="kernels"
    )
    model = DigitsCNN()
    found, scheduler = optimizer_of(schedule, model, 4)
    share = learning_rate(schedule, 4)
    assert len(found.param_groups) == (2 if optimizer == "sgd" else 1)
    for step in range(20):
        assert [group["lr"] for group in found.param_groups] == [
            pytest.approx(0.01 * share(step), rel=1e-12) for _ in found.param_groups
        ]
        model(torch.zeros(1, 1, 8, 8)).sum().backward()
        found.step()
        scheduler.step()


# What decays ----------------------------------------------------------------------------------------------------------
def decays(model: nn.Module, schedule: Schedule) -> dict[str, float]:
    """Weight decay of each parameter; every one must be in one group."""
    optimizer, _ = optimizer_of(schedule, model, 1)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    found = [(names[id(p)], group["weight_decay"]) for group in optimizer.param_groups for p in group["params"]]
    assert sorted(name for name, _ in found) == sorted(names.values())
    return dict(found)


def test_the_kernels_of_all_layers_but_the_last_decay() -> None:
    """As in the authors' script: conv and fc512 kernels; not fc10, biases, batch norm."""
    model = VGG16()
    got = decays(model, SCHEDULES["authors", "cifar10", False])
    kernels = {f"{name}.weight" for name, module in model.named_modules() if type(module) in (nn.Conv2d, nn.Linear)} - {
        "head.6.weight"
    }
    assert len(kernels) == 13 + 1
    assert "head.2.weight" in kernels  # fc512
    assert {name for name, amount in got.items() if amount} == kernels
    assert {amount for amount in got.values() if amount} == {1e-3}  # d/dw of 5e-4 w^2


def test_all_parameters_decay_where_the_schedule_says_so() -> None:
    assert set(decays(DigitsCNN(), schedule_of(weight_decay=0.25)).values()) == {0.25}


@pytest.mark.parametrize(("decay_on", "momentum"), [("all", 0.9), ("kernels", 0.9), ("all", 0.5), ("all", 0.0)])
def test_sgd_steps_are_nesterov_s_with_decay_where_it_belongs(
    decay_on: Any, momentum: float, device: torch.device
) -> None:
    """Nesterov: v <- m v + g, w <- w - lr (g + m v), with g the gradient of loss + decay/2 w^2; in float64."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double().to(device)
    schedule = schedule_of(policy="cosine", epochs=3, lr=0.3, weight_decay=0.2, decay_on=decay_on, momentum=momentum)
    optimizer, scheduler = optimizer_of(schedule, model, 2)
    x = torch.from_numpy(np.random.default_rng(0).normal(size=(7, 4))).to(device)
    weights = {name: p.detach().clone() for name, p in model.named_parameters()}
    velocity = {name: torch.zeros_like(p) for name, p in weights.items()}
    for step in range(6):
        leaves = {name: p.clone().requires_grad_() for name, p in weights.items()}
        loss = torch.func.functional_call(model, leaves, (x,)).square().sum()
        for (name, p), gradient in zip(weights.items(), torch.autograd.grad(loss, list(leaves.values())), strict=True):
            g = gradient + (0.2 * p if decay_on == "all" or name == "0.weight" else 0)
            velocity[name] = momentum * velocity[name] + g
            weights[name] = p - 0.3 * math.cos(math.pi * step / 12) ** 2 * (g + momentum * velocity[name])
        optimizer.zero_grad()
        model(x).square().sum().backward()
        optimizer.step()
        scheduler.step()
    for name, p in model.named_parameters():
        # float64, 6 steps; steps of size 1 amplify rounding of 1e-16 by less than 1e4
        torch.testing.assert_close(p.detach(), weights[name], rtol=1e-11, atol=1e-11)


def test_adam_steps_are_those_of_keras_constants(device: torch.device) -> None:
    """First step of Adam: lr * g / (|g| + eps), eps 1e-7; and no weight decay."""
    model = nn.Linear(2, 1, bias=False).double().to(device)
    nn.init.constant_(model.weight, 0.5)
    optimizer, _ = optimizer_of(schedule_of(optimizer="adam", lr=1e-3, weight_decay=0.3), model, 1)
    gradient = torch.tensor([[1e-7, -2.0]], dtype=torch.float64, device=device)
    model.weight.grad = gradient
    optimizer.step()
    expected = 0.5 - 1e-3 * gradient / (gradient.abs() + 1e-7)  # half a step where |g| = eps
    torch.testing.assert_close(model.weight.detach(), expected, rtol=1e-12, atol=0)
