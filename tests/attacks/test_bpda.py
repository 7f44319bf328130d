"""BPDA: the values of one function, the gradient of another (attacks on defences without a useful gradient)."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from rbfbench.attacks.bpda import bpda, with_gradient_of


def rounded(x: Tensor) -> Tensor:
    return (x * 7).round() / 7


def identity(x: Tensor) -> Tensor:
    return x


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_values_are_those_of_the_forward_function_bit_by_bit(dtype: torch.dtype, device: torch.device) -> None:
    """Numbers of very different size: a sum such as r + s - s would lose the small ones."""
    x = torch.logspace(-9, 9, 50, dtype=dtype, device=device).requires_grad_()
    step = bpda(lambda t: t.sqrt(), lambda t: 1e6 * t)
    assert torch.equal(step(x), x.sqrt())


def test_the_gradient_is_the_stand_ins_at_the_values_of_the_forward_function(device: torch.device) -> None:
    """L = sum h(r)^3 with r = round(x) and h(r) = r: dL/dx = 3 r^2 times the stand-in's derivative 2x."""
    x = torch.linspace(0.05, 0.95, 10, dtype=torch.float64, device=device).requires_grad_()
    step = bpda(rounded, torch.square)
    (gradient,) = torch.autograd.grad(step(x).pow(3).sum(), x)
    expected = 3 * rounded(x.detach()).square() * 2 * x.detach()
    torch.testing.assert_close(gradient, expected, rtol=1e-14, atol=0)


def test_the_forward_function_is_never_differentiated(device: torch.device) -> None:
    x = torch.rand(5, device=device, requires_grad=True)

    def forward(t: Tensor) -> Tensor:
        assert not torch.is_grad_enabled()
        return rounded(t)

    assert torch.equal(torch.autograd.grad(bpda(forward, identity)(x).sum(), x)[0], torch.ones_like(x))


def test_a_descent_through_rounding_arrives_where_plain_gradients_stand_still() -> None:
    """Minimise (round(x) - 4/7)^2 from 0: the gradient of rounding is zero almost everywhere."""
    x = torch.zeros(1, dtype=torch.float64)
    for step, ends in ((rounded, 0.0), (bpda(rounded, identity), 4 / 7)):
        at = x.clone()
        for _ in range(100):
            at.requires_grad_()
            (gradient,) = torch.autograd.grad((step(at) - 4 / 7).square().sum(), at)
            at = (at - 0.1 * gradient).detach()
        assert float(rounded(at)) == pytest.approx(ends)


def test_a_stand_in_of_another_shape_is_refused() -> None:
    with pytest.raises(ValueError, match=r"values \(2, 3\) and their stand-in \(3,\) differ in shape"):
        with_gradient_of(torch.zeros(2, 3), torch.zeros(3))


def test_it_composes_with_torch_func() -> None:
    x = torch.rand(4, dtype=torch.float64)
    gradient = torch.func.grad(lambda t: bpda(rounded, torch.square)(t).sum())(x)
    torch.testing.assert_close(gradient, 2 * x, rtol=1e-14, atol=0)
