"""Backward pass differentiable approximation (Athalye, Carlini, Wagner, arXiv 1802.00420, section 4.1)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def bpda(forward: Callable[[Tensor], Tensor], backward: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """One function that computes like `forward` and is differentiated like `backward`.

    For a step of a defence that has no useful gradient: quantisation, compression, a network's own denoising. What
    comes after the step is differentiated at the values of `forward`.

    Args:
        forward: The step as the defence takes it; never differentiated.
        backward: A differentiable stand-in with the same input and output shapes; the identity, `lambda x: x`, if
            the step hardly changes its input.

    Returns:
        The function to put in the step's place.
    """

    def step(x: Tensor) -> Tensor:
        with torch.no_grad():
            values = forward(x)
        return with_gradient_of(values, backward(x))

    return step


def with_gradient_of(values: Tensor, stand_in: Tensor) -> Tensor:
    """`values`, bit by bit, with the graph of `stand_in`, which must have the same shape."""
    chained: Tensor = _Chained.apply(values, stand_in)
    return chained


class _Chained(torch.autograd.Function):
    """A difference such as values + stand_in - stand_in would be rounded."""

    @staticmethod
    def forward(values: Tensor, stand_in: Tensor) -> Tensor:
        if values.shape != stand_in.shape:
            raise ValueError(f"values {tuple(values.shape)} and their stand-in {tuple(stand_in.shape)} differ in shape")
        return values.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:  # noqa: ANN401
        """Nothing is kept."""

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[None, Tensor]:  # noqa: ANN401
        return None, upstream
