"""Weighted means of filter samples, image by image: the hot loop of RBF-CNN, with an analytic backward.

Plain autograd keeps four tensors of (patches, filters) for the whole batch. Here the scores of one image are made by
one matrix product, turned into weights in place while they are in the cache, used, and forgotten; the backward pass
makes them again. Only the patches are stored.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

# exp(x) is a normal float32 number down to here; weights below would lose their precision.
LOWEST_EXPONENT = -80.0


class Filters(NamedTuple):
    """RBF filters in the form that the loop needs; see `prepared`.

    Attributes:
        means: (K, n), centred as the patches are.
        distance: (n + 2, K) such that [z, |z|^2, 1] @ it are the squared distances of patches z from the means.
        precision: (K,) 1 / sigma^2.
        peak: (K,) the score of an exact match.
    """

    means: Tensor
    distance: Tensor
    precision: Tensor
    peak: Tensor


def prepared(means: Tensor, variances: Tensor, *, log2pi: bool) -> Filters:
    """Filters ready for `mix`.

    Args:
        means: (K, n), centred as the patches will be.
        variances: (K,) sigma^2, positive.
        log2pi: Keep the constant -log(2 pi)/2 of Eq. 2.
    """
    distance = torch.cat([-2 * means.T, torch.ones_like(variances)[None], means.square().sum(1)[None]])
    constant = 0.5 * math.log(2 * math.pi) if log2pi else 0.0
    return Filters(means, distance, 1 / variances, -0.5 * variances.log() - constant)


def mix(patches: Tensor, filters: Filters, sharpness: float, samples: Tensor) -> Tensor:
    """sum_j w_j(z) samples_j for every patch z, where w = softmax(sharpness * sigmoid(score)).

    Args:
        patches: Centred patches (N, L, n).
        filters: What `prepared` made.
        sharpness: beta1 * ln(base).
        samples: (N, K, q) for each image, or (1, K, q) for all.

    Returns:
        (N, L, q), differentiable once in `patches`; filters and samples are constants.
    """
    mixed: Tensor = _Mix.apply(patches, samples, sharpness, *filters)
    return mixed


def gates(patches: Tensor, filters: Filters) -> Tensor:
    """sigmoid(score) (L, K) of the patches (L, n) of one image: Eq. 2."""
    square = patches.square().sum(1, keepdim=True)
    distance = torch.cat([patches, square, torch.ones_like(square)], dim=1) @ filters.distance
    # Rounding can leave the distance of an exact match below zero, and its score above the peak.
    return torch.addcmul(filters.peak, distance.clamp_(min=0), filters.precision, value=-0.5, out=distance).sigmoid_()


def weights_in_place(values: Tensor, sharpness: float) -> Tensor:
    """softmax(sharpness * values) (L, K), overwriting the gates `values`."""
    if sharpness > -LOWEST_EXPONENT:
        return torch.softmax(values.mul_(sharpness), dim=1)
    # Gates are at most 1: shifted by the sharpness every exponent is in range, without a search for the largest.
    values.sub_(1).mul_(sharpness).exp_()
    return values.div_(values.sum(dim=1, keepdim=True))


class _Mix(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, patches: Tensor, samples: Tensor, sharpness: float, *filters: Tensor) -> Tensor:  # noqa: ANN401
        ctx.save_for_backward(patches, samples, *filters)
        ctx.sharpness = sharpness
        out = patches.new_empty(*patches.shape[:2], samples.shape[2])
        prepared_filters = Filters(*filters)
        for i in range(len(patches)):
            weights = weights_in_place(gates(patches[i], prepared_filters), sharpness)
            torch.mm(weights, samples[i if len(samples) > 1 else 0], out=out[i])
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        """d/dz through the weights (w (g - <w, g>)), the gates (v (1 - v)) and the scores ((mu - z) / sigma^2)."""
        patches, samples, *rest = ctx.saved_tensors
        filters = Filters(*rest)
        gradient = torch.empty(patches.shape, dtype=patches.dtype, device=patches.device)
        for i in range(len(patches)):
            v = gates(patches[i], filters)
            slope = torch.addcmul(v, v, v, value=-1).mul_(filters.precision)
            w = weights_in_place(v, ctx.sharpness)
            change = upstream[i] @ samples[i if len(samples) > 1 else 0].T
            change.sub_((w * change).sum(dim=1, keepdim=True)).mul_(w).mul_(slope).mul_(ctx.sharpness)
            torch.mm(change, filters.means, out=gradient[i])
            gradient[i].addcmul_(patches[i], change.sum(dim=1, keepdim=True), value=-1)
        return (gradient, *[None] * 6)
