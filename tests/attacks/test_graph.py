"""The graph that attacks of other libraries differentiate: the same numbers and counts as our own gradients."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import Tensor
from toys import ids, images, noisy, plain, smooth_net

from rbfbench.attacks.losses import cross_entropy
from rbfbench.attacks.oracle import Oracle
from rbfbench.attacks.rng import Keys
from rbfbench.errors import ModelError

DRAWS = 6
CUTS = pytest.mark.parametrize("max_rows", [10_000, 1, 7])


def problem(device: torch.device, max_rows: int = 10_000) -> tuple[Oracle, Tensor, Tensor]:
    model = smooth_net(4, device)
    oracle = Oracle(noisy(model, 0.3), Keys.of(ids(3), 0), 3, draws=DRAWS, max_rows=max_rows)
    return oracle, images(3, device), torch.tensor([0, 1, 2], device=device)


@CUTS
def test_its_gradient_is_the_oracles_own(max_rows: int, device: torch.device) -> None:
    """Of the loss of the mean, for the same draws, and at the same price. Float64 sums of six terms: below 1e-12."""
    oracle, x, y = problem(device, max_rows)
    own = oracle.value_and_grad(x, partial(cross_entropy, y=y))
    other, _, _ = problem(device, max_rows)
    x.requires_grad_()
    logits = other.graph(x)
    assert torch.allclose(logits, own.logits, rtol=0, atol=1e-12)
    assert other.counts.backwards.sum() == 0  # nothing has flowed back yet
    (gradient,) = torch.autograd.grad(cross_entropy(logits, y).sum(), x)
    assert torch.allclose(gradient, own.gradient, rtol=0, atol=1e-12)
    for name in vars(oracle.counts):
        assert (getattr(oracle.counts, name) == getattr(other.counts, name)).all(), name


@CUTS
def test_every_way_back_is_counted(max_rows: int, device: torch.device) -> None:
    """Libraries ask for one gradient a class of the same graph; draws that did not fit are done again each time."""
    told: list[tuple[int, int]] = []
    oracle, x, _ = problem(device, max_rows)
    oracle.spent = lambda forwards, backwards: told.append((forwards, backwards))
    logits = oracle.graph(x.requires_grad_())
    gradients = [torch.autograd.grad(logits[:, c].sum(), x, retain_graph=True)[0] for c in range(4)]
    again = 0 if max_rows == 10_000 else 4 * DRAWS
    assert oracle.counts.forwards.tolist() == [DRAWS + again] * 3
    assert oracle.counts.backwards.tolist() == [4 * DRAWS] * 3
    assert oracle.counts.looks.tolist() == [4] * 3
    assert oracle.counts.drawn.tolist() == [DRAWS] * 3  # the draws are the same ones
    assert [sum(part) for part in zip(*told, strict=True)] == [3 * (DRAWS + again), 3 * 4 * DRAWS]
    whole, x, _ = problem(device)
    logits = whole.graph(x.requires_grad_())
    for c, gradient in enumerate(gradients):
        same = torch.autograd.grad(logits[:, c].sum(), x, retain_graph=True)[0]
        assert torch.allclose(gradient, same, rtol=0, atol=1e-12)


def test_only_images_that_were_asked_about_can_be_flat(device: torch.device) -> None:
    """An attack that is through with an image lets no loss flow from it: that is no fault of the model's."""
    x = images(3, device).requires_grad_()
    steep = torch.tensor([1.0, 0.0, 1.0], device=device)[:, None, None, None]
    model = smooth_net(3, device)
    oracle = Oracle(plain(lambda x: model(x * steep + (1 - steep) * x.detach())), None, 3)
    oracle.graph(x)[:2].sum().backward()  # type: ignore[no-untyped-call]
    assert oracle.counts.backwards.tolist() == [1, 1, 1]
    assert oracle.counts.looks.tolist() == [1, 1, 0]
    assert oracle.counts.flat.tolist() == [0, 1, 0]


def test_every_look_draws_afresh_and_none_needs_gradients(device: torch.device) -> None:
    oracle, x, _ = problem(device)
    without = oracle.graph(x)
    with torch.no_grad():
        neither = oracle.graph(x.clone().requires_grad_())
    drawn = oracle.graph(x.clone().requires_grad_())
    assert not without.requires_grad
    assert not neither.requires_grad
    other, _, _ = problem(device)
    for seen in (without, neither, drawn):
        assert torch.allclose(seen, other.logits(x), rtol=0, atol=1e-12)
    assert oracle.counts.drawn.tolist() == [3 * DRAWS] * 3


def test_a_component_that_is_not_a_number_leads_nowhere(device: torch.device) -> None:
    """sqrt(0) has an infinite slope, and 0 * inf is NaN: half the pixels are such."""
    x = images(2, device).requires_grad_()

    def model(x: Tensor) -> Tensor:
        flat = x.flatten(1)
        return flat[:, :3] + 0 * (flat[:, 25:] - flat[:, 25:].detach()).abs().sqrt().sum(dim=1, keepdim=True)

    assert torch.isnan(torch.autograd.grad(model(x)[:, 0].sum(), x)[0]).any()
    Oracle(plain(model), None, 2).graph(x)[:, 0].sum().backward()  # type: ignore[no-untyped-call]
    assert x.grad is not None
    assert torch.equal(x.grad.flatten(1)[0], torch.eye(50, dtype=x.dtype, device=device)[0])


@CUTS
def test_a_model_without_gradients_is_an_error(max_rows: int, device: torch.device) -> None:
    model = smooth_net(3, device)
    forward = noisy(lambda x: model(x.detach()), 0.1)
    for net in (model, model.requires_grad_(False)):
        oracle = Oracle(forward, Keys.of(ids(2), 0), 2, draws=4, max_rows=max_rows)
        logits = oracle.graph(images(2, device).requires_grad_())
        with pytest.raises(ModelError, match="the attack needs gradients"):
            logits.sum().backward()  # type: ignore[no-untyped-call]
        assert all(parameter.grad is None for parameter in net.parameters())


def test_gradients_reach_the_images_alone(device: torch.device) -> None:
    net = smooth_net(3, device)
    x = images(2, device).requires_grad_()
    Oracle(plain(net), None, 2).graph(x).sum().backward()  # type: ignore[no-untyped-call]
    assert x.grad is not None
    assert all(parameter.requires_grad and parameter.grad is None for parameter in net.parameters())
