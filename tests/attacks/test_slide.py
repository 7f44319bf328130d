"""Sparse l1 descent: closed-form optima on images full of 0 and 1, and its step as the paper defines it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from test_oracles import gains
from toys import Linear, images, linear_pair, margins, plain, run_attack

from rbfbench.attacks import ATTACKS
from rbfbench.attacks.slide import sparse_step
from rbfbench.errors import UsageError


@pytest.mark.parametrize("dark", [True, False], ids=["dark", "natural"])
def test_it_reaches_the_optimum_of_a_linear_model(dark: bool, device: torch.device) -> None:
    """At the budget of the paper on MNIST. Duchi's projection followed by clipping stays at 97% on dark images."""
    x = images(2, device, shape=(1, 28, 28), seed=3)
    x = (x > 0.8).to(x) if dark else 0.1 + 0.8 * x
    model, g = linear_pair(x, gap=20.0)
    y = torch.zeros(2, dtype=torch.int64, device=device)
    eps = 15.0 if dark else 5.0
    x_adv, _ = run_attack("slide", plain(model), x, y, norm="l1", eps=eps)
    reached, best = gains(x, x_adv, g, "l1", eps)
    assert (reached >= 0.995 * best).all()
    assert (reached <= best + 1e-9).all()


@pytest.mark.parametrize("eps", [2.0, 6.0])
def test_it_does_not_refill_the_first_coordinates_for_ever(eps: float, device: torch.device) -> None:
    """One percent of 50 coordinates is one, the optimum fills up to twelve of them.

    A coordinate that counts as full with a tenth of a part of eps / 20 missing costs half a percent of the budget; the
    rest of the 5% is for a walk of a hundred steps that must first leave its random start.
    """
    x = images(6, device)
    model, g = linear_pair(x, gap=20.0)
    y = torch.zeros(6, dtype=torch.int64, device=device)
    x_adv, _ = run_attack("slide", plain(model), x, y, norm="l1", eps=eps)
    reached, best = gains(x, x_adv, g, "l1", eps)
    assert (reached >= 0.95 * best).all()


@pytest.mark.parametrize("edge", [0.0, 1.0])
def test_the_steepest_coordinate_at_its_bound_does_not_stop_it(edge: float, device: torch.device) -> None:
    """A third of the budget is enough, in any other coordinate; steps of one coordinate would not move at all."""
    x = torch.full((1, 1, 5, 8), 0.5, dtype=torch.float64, device=device)
    x[:, 0, 0, 0] = edge
    weight = torch.ones(40, dtype=x.dtype, device=device)
    weight[0] = 100 * (2 * edge - 1)
    level = float(x[0].flatten() @ weight)
    model = Linear(torch.stack([0 * weight, weight]), torch.tensor([level + 1.2, 0.0]).to(x))
    y = torch.zeros(1, dtype=torch.int64, device=device)
    for eps, broken in ((4.0, True), (1.1, False)):
        x_adv, _ = run_attack("slide", plain(model), x, y, norm="l1", eps=eps, steps=50)
        gain = float((x_adv - x).flatten() @ weight)
        # All others gain their move; what the random start put into the first must be taken back.
        assert 0.995 * eps <= gain <= eps
        assert bool(margins(model, x_adv, y)[0] > 0) == broken


@pytest.mark.parametrize(("quantile", "number"), [(0.99, 8), (0.9, 79), (1.0, 1), (0.0, 784)])
def test_a_step_has_its_size_in_equal_parts_from_the_quantile_on(
    quantile: float, number: int, device: torch.device
) -> None:
    """784 coordinates: the positions from quantile * 783 on, counted from 0, in the order of |gradient|."""
    x = torch.full((3, 1, 28, 28), 0.5, dtype=torch.float64, device=device)
    gradient = torch.from_numpy(np.random.default_rng(7).normal(size=x.shape)).to(device)
    step = sparse_step(x, gradient, 0.75, quantile)
    for taken, slope in zip(step.flatten(1).cpu().numpy(), gradient.flatten(1).cpu().numpy(), strict=True):
        (moved,) = np.nonzero(taken)
        assert sorted(moved) == sorted(np.argsort(-np.abs(slope))[:number])
        assert np.allclose(taken[moved], 0.75 / number * np.sign(slope[moved]), rtol=1e-12, atol=0)


@pytest.mark.parametrize("slopes", [0, 2, 3])
def test_blocked_and_flat_coordinates_take_no_part(slopes: int, device: torch.device) -> None:
    """Of ten steep coordinates five are at the bound to which they lead; a few more have a slope, all others none."""
    x = torch.full((1, 1, 28, 28), 0.5, dtype=torch.float64, device=device)
    gradient = torch.zeros_like(x)
    gradient[0, 0, 0, :5], gradient[0, 0, 0, 5:10], gradient[0, 0, 1, :slopes] = 5, -4, 1
    x[0, 0, 0, :10] = 1
    step = sparse_step(x, gradient, 0.8, 0.99)
    part = 0.8 / (5 + slopes)  # never more than the 8 coordinates of one percent, so all of them move
    assert torch.allclose(step[0, 0, 0, 5:10], torch.full((5,), -part).to(x))
    assert torch.allclose(step[0, 0, 1, :slopes], torch.full((slopes,), part).to(x))
    assert (step != 0).sum() == 5 + slopes
    assert not sparse_step(x, torch.zeros_like(x), 0.8, 0.99).any()  # no slope, no step, no NaN


@pytest.mark.parametrize("text", ["1.01", "-0.1", "nan", "inf"])
def test_a_quantile_lies_between_0_and_1(text: str) -> None:
    with pytest.raises(UsageError, match="makes no sense"):
        ATTACKS["slide"].parameters["quantile"].parse("slide.quantile", text)
