"""Adversarial examples of trainings: closed forms on linear models, budgets in every norm, and what training gains."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import rbfbench
from rbfbench.attacks.norms import NORMS
from rbfbench.attacks.rng import Keys
from rbfbench.data import load_training
from rbfbench.training.adversary import adversarial, trades_loss
from rbfbench.training.recipes import ADVERSARIES, RECIPES, Adversary, adversary_of, schedule_of
from rbfbench.training.trainer import TrainSpec, train

MADRY = Adversary(norm="linf", eps=0.1, steps=5, step_size=0.04)


def keys(n: int) -> Keys:
    return Keys.of([str(i) for i in range(n)], 0)


class Linear(nn.Module):
    """Two classes; the loss of class 0 rises along `direction`."""

    def __init__(self, shape: tuple[int, ...], device: torch.device) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.direction = torch.randn(shape, generator=generator).to(device)
        self.dropout = nn.Dropout(0.9)

    def forward(self, x: Tensor) -> Tensor:
        score = (self.dropout(x) * self.direction).flatten(1).sum(1)
        return torch.stack([torch.zeros_like(score), score], dim=1)


def images(n: int, device: torch.device) -> Tensor:
    return torch.rand(n, 1, 6, 6, generator=torch.Generator().manual_seed(1)).to(device)


def test_on_a_linear_model_the_optimum_is_reached(device):
    """linf: eps along the signs, within the box; the start does not matter after five steps of 0.4 eps."""
    x = images(5, device)
    model = Linear((1, 6, 6), device).train()
    made = adversarial(model, x, torch.zeros(5, dtype=torch.long, device=device), MADRY, keys(5))
    assert torch.allclose(made, (x + 0.1 * model.direction.sign()).clamp(0, 1), atol=1e-6)
    assert model.training  # and dropout was off while it was attacked


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("beta", [None, 6.0])
def test_budgets_hold_and_the_objective_rises(norm, beta, device):
    model = rbfbench.load_model("cnn", "digits").to(device)
    x, y = (t.to(device) for t in rbfbench.load_data("digits").batch(0, 20))
    eps = {"linf": 0.1, "l2": 0.6, "l1": 3.0}[norm]
    adversary = Adversary(norm=norm, eps=eps, steps=8, step_size=eps / 4, beta=beta)
    made = adversarial(model, x, y, adversary, keys(20))
    assert made.min() >= 0
    assert made.max() <= 1
    assert (NORMS[norm].length((made - x).double()) <= eps * (1 + 1e-5) + 1e-6).all()
    with torch.no_grad():
        if beta is None:
            before, after = (F.cross_entropy(model(points), y, reduction="none") for points in (x, made))
        else:
            clean = model(x).softmax(1)
            before, after = (F.kl_div(model(p).log_softmax(1), clean, reduction="none").sum(1) for p in (x, made))
    assert (after > before).double().mean() > 0.9
    assert after.mean() > before.mean() + 0.1


def test_one_step_from_a_random_start_is_fast(device):
    """Algorithm 3 of arXiv 2001.03994, on a model whose gradient has the same signs everywhere."""
    x = 0.3 + 0.4 * images(4, device)
    model = Linear((1, 6, 6), device)
    adversary = Adversary(norm="linf", eps=0.1, steps=1, step_size=0.125)
    made = adversarial(model, x, torch.zeros(4, dtype=torch.long, device=device), adversary, keys(4))
    start = NORMS["linf"].start(keys(4), x, 0.1)
    expected = x + (start + 0.125 * model.direction.sign()).clamp(-0.1, 0.1)
    assert torch.allclose(made, expected, atol=1e-6)


def test_examples_depend_on_the_image_and_not_on_its_neighbours(device):
    model = rbfbench.load_model("cnn", "digits").to(device).double()
    x, y = (t.to(device) for t in rbfbench.load_data("digits").batch(0, 6))
    whole = adversarial(model, x.double(), y, MADRY, keys(6))
    part = adversarial(model, x[4:].double(), y[4:], MADRY, keys(6)[slice(4, 6)])
    assert torch.allclose(whole[4:], part, atol=1e-9)


def test_the_walk_of_trades_finds_its_way_in_bfloat16_as_in_float32():
    """Near the image its divergence is lost to the rounding of bfloat16, unless that of the answers alone counts."""
    x, y = rbfbench.load_data("digits").batch(0, 200)
    model = rbfbench.load_model("cnn", "digits")
    adversary = Adversary(norm="linf", eps=0.15, steps=7, step_size=0.04, beta=6.0)
    left = []
    for precise in (True, False):
        with torch.autocast("cpu", torch.bfloat16, enabled=not precise):
            x_adv = adversarial(model, x, y, adversary, keys(200))
        left.append(float((model(x_adv).argmax(1) == y).float().mean()))
    assert left[0] < 0.5
    assert left[1] == left[0]


def test_the_loss_of_trades_is_the_sum_of_its_parts():
    clean, attacked = torch.randn(2, 4, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    targets = F.one_hot(torch.tensor([0, 1, 2, 0]), 3).double()
    p, q = clean.softmax(1), attacked.softmax(1)
    expected = -(targets * p.log()).sum(1).mean() + 6 * (p * (p / q).log()).sum(1).mean()
    assert torch.allclose(trades_loss(clean, attacked, targets, 6.0), expected)


def test_training_on_them_buys_robustness(tmp_path):
    """Ten epochs on 600 digits each: the same net and schedule with and without, under the same verified attack."""
    images, validation = load_training("digits")
    x, y = rbfbench.load_data("digits").batch(0, 100)
    robust = {}
    for recipe in ("cnn", "madry"):
        row = RECIPES[recipe]
        spec = TrainSpec(
            name=recipe, dataset="digits", preset="default", recipe=row, noise=None, rbf=None, em=None, source=None,
            schedule=dataclasses.replace(schedule_of("default", "digits", row), epochs=10),
            adversary=adversary_of("digits", row), seed=0, precision="float32", data_digest=images.digest,
        )  # fmt: skip
        trained = train(
            spec, images.head(600), validation, tmp_path / recipe, device=torch.device("cpu"), progress=lambda *_: None
        )
        run = rbfbench.attack(trained.model, x, y, norm="linf", eps=ADVERSARIES["madry", "digits"].eps)
        robust[recipe] = run.worst_case.accuracy
        assert run.clean.accuracy > 0.8
    assert robust["madry"] > robust["cnn"] + 0.2
