"""Images from weighted filter samples, image by image: the hot loop of RBF-CNN, with an analytic backward.

Plain autograd keeps four tensors of (patches, filters) for the whole batch. Here the scores of a few images are made
by one matrix product, turned into weights in place while they are in the cache, put together into images, and
forgotten; the backward pass makes them again. Only the patches are stored.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple, NoReturn

import torch
from torch import Tensor
from torch.nn import functional as F

from rbfbench.errors import ModelError
from rbfbench.precision import full_precision

# exp(x) is a normal float32 number down to here; weights below would lose their precision.
LOWEST_EXPONENT = -80.0

# Weights (images x patches x filters) that one pass of the loops holds: they stay in the cache of a processor, and keep
# a GPU busy.
CPU_WEIGHTS, GPU_WEIGHTS = 1 << 18, 1 << 26


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


def mix(
    patches: Tensor, filters: Filters, samples: Tensor, squares: Tensor | None = None, *, sharpness: float, rows: int
) -> tuple[Tensor, Tensor]:
    """Rebuild every patch z as sum_j w_j(z) samples_j, w = softmax(sharpness * sigmoid(score)), and add up the patches.

    Args:
        patches: Centred patches (N, L, n), all of an image in reading order.
        filters: What `prepared` made.
        samples: (N, K, D, h, w) for each image, or (1, K, D, h, w) for all; D holds channels and perhaps draws.
        squares: (K, r), for a second result.
        sharpness: beta1 * ln(base).
        rows: Rows of patches in an image.

    Returns:
        sums: (N, D, H, W), the rebuilt patches at their places, added where they overlap.
        spread: (N, L, r), sum_j w_j(z)^2 squares_j; r is 0 without squares.
        Both are differentiable once in `patches`; filters, samples and squares are constants.
    """
    none = filters.means.new_empty(len(filters.means), 0) if squares is None else squares
    try:
        sums, spread = _Mix.apply(patches, samples, none, sharpness, rows, *filters)
    except NotImplementedError as error:  # not by a jvp of our own, which torch.compile does not follow
        if "forward mode" not in str(error):
            raise
        raise _once("in forward mode") from error
    return sums, spread


def _once(how: str) -> ModelError:
    return ModelError(
        f"the RBF layer was differentiated {how}",
        "its backward pass is written out, for the first derivative only",
        "build what you need on `RBFReconstruction.weights`, which autograd follows to any order",
    )


def gates(patches: Tensor, filters: Filters) -> Tensor:
    """sigmoid(score) (L, K) of patches (L, n): Eq. 2."""
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


def _passes(patches: Tensor, k: int) -> Iterator[slice]:
    """The images of each pass."""
    weights = CPU_WEIGHTS if patches.device.type == "cpu" else GPU_WEIGHTS
    size = max(1, weights // max(1, patches.shape[1] * k))
    for start in range(0, len(patches), size):
        yield slice(start, min(start + size, len(patches)))


def _put_together(weights: Tensor, rows: int, samples: Tensor, here: slice, sums: Tensor) -> None:
    """Fill sums[here] from weights (images * L, K): one product for samples that all share, else image by image."""
    images, k, window = here.stop - here.start, samples.shape[1], tuple(samples.shape[3:])
    if len(samples) == 1:
        parts = (weights @ samples[0].flatten(1)).view(images, len(weights) // images, -1)
        sums[here] = F.fold(parts.transpose(1, 2), tuple(sums.shape[2:]), window)
        return
    # As a transposed convolution the many draws of an image never exist as patches, which would not fit the cache.
    maps = weights.view(images, rows, -1, k).permute(0, 3, 1, 2)
    with full_precision():
        for i in range(here.start, here.stop):
            sums[i] = F.conv_transpose2d(maps[i - here.start, None], samples[i])[0]


def _taken_apart(upstream: Tensor, samples: Tensor, here: slice) -> Tensor:
    """The derivative (images * L, K) of <upstream, sums> in the weights of some images: `_put_together` transposed."""
    if len(samples) == 1:
        parts = F.unfold(upstream[here], tuple(samples.shape[3:])).transpose(1, 2)
        return parts.flatten(0, 1) @ samples[0].flatten(1).T
    with full_precision():
        maps = [F.conv2d(upstream[i, None], samples[i]) for i in range(here.start, here.stop)]
    return torch.cat(maps).permute(0, 2, 3, 1).flatten(0, 2).contiguous()


_SCHEMA = (
    "Tensor patches, Tensor samples, Tensor squares, float sharpness, int rows, "
    "Tensor means, Tensor distance, Tensor precision, Tensor peak"
)


# Operators of torch's library, which torch.compile takes as they are: it would unroll the loops.
@torch.library.custom_op("rbfbench::mix", mutates_args=(), schema=f"({_SCHEMA}) -> (Tensor, Tensor)")
def _mix(
    patches: Tensor, samples: Tensor, squares: Tensor, sharpness: float, rows: int, *filters: Tensor
) -> tuple[Tensor, Tensor]:
    prepared_filters = Filters(*filters)
    sums, spread = _empty(patches, samples, squares, rows)
    for here in _passes(patches, len(squares)):
        weights = weights_in_place(gates(patches[here].flatten(0, 1), prepared_filters), sharpness)
        _put_together(weights, rows, samples, here, sums)
        if squares.shape[1]:
            torch.mm(weights.square_(), squares, out=spread[here].view(-1, squares.shape[1]))
    return sums, spread


def _empty(patches: Tensor, samples: Tensor, squares: Tensor, rows: int) -> tuple[Tensor, Tensor]:
    n, length, _ = patches.shape
    d, h, w = samples.shape[2:]
    return (
        patches.new_empty(n, d, rows + h - 1, length // rows + w - 1),
        patches.new_empty(n, length, squares.shape[1]),
    )


@torch.library.custom_op(
    "rbfbench::mix_gradient", mutates_args=(), schema=f"(Tensor sums, Tensor spread, {_SCHEMA}) -> Tensor"
)
def _mix_gradient(  # noqa: PLR0917  (an operator's arguments)
    sums: Tensor,
    spread: Tensor,
    patches: Tensor,
    samples: Tensor,
    squares: Tensor,
    sharpness: float,
    rows: int,
    *filters: Tensor,
) -> Tensor:
    """d/dz through the weights (w (g - <w, g>)), the gates (v (1 - v)) and the scores ((mu - z) / sigma^2)."""
    f = Filters(*filters)
    gradient = torch.empty_like(patches, memory_format=torch.contiguous_format)
    for here in _passes(patches, len(squares)):
        z = patches[here].flatten(0, 1)
        v = gates(z, f)
        slope = torch.addcmul(v, v, v, value=-1).mul_(f.precision)
        w = weights_in_place(v, sharpness)
        change = _taken_apart(sums, samples, here)
        if squares.shape[1]:
            change.addcmul_(spread[here].flatten(0, 1) @ squares.T, w, value=2)
        change.sub_((w * change).sum(dim=1, keepdim=True)).mul_(w).mul_(slope).mul_(sharpness)
        moved = (change @ f.means).addcmul_(z, change.sum(dim=1, keepdim=True), value=-1)
        gradient[here] = moved.view_as(gradient[here])
    return gradient


_mix.register_fake(lambda patches, samples, squares, _, rows, *filters: _empty(patches, samples, squares, rows))
_mix_gradient.register_fake(
    lambda sums, spread, patches, *_: torch.empty_like(patches, memory_format=torch.contiguous_format)
)


class _Mix(torch.autograd.Function):
    """`_mix`, differentiable in the patches, also under the transforms of torch.func."""

    @staticmethod
    def forward(  # noqa: PLR0917  (torch.compile does not follow *args here)
        patches: Tensor,
        samples: Tensor,
        squares: Tensor,
        sharpness: float,
        rows: int,
        means: Tensor,
        distance: Tensor,
        precision: Tensor,
        peak: Tensor,
    ) -> tuple[Tensor, Tensor]:
        sums, spread = _mix(patches, samples, squares, sharpness, rows, means, distance, precision, peak)
        return sums, spread

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:  # noqa: ANN401
        patches, samples, squares, ctx.sharpness, ctx.rows, *filters = inputs
        ctx.save_for_backward(patches, samples, squares, *filters)

    @staticmethod
    def backward(ctx: Any, sums: Tensor, spread: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        gradient = _MixGradient.apply(
            sums.contiguous(), spread, *ctx.saved_tensors[:3], ctx.sharpness, ctx.rows, *ctx.saved_tensors[3:]
        )
        return (gradient, *[None] * 8)

    @staticmethod
    def vmap(
        info: Any,  # noqa: ANN401
        in_dims: tuple[int | None, ...],
        *given: Any,  # noqa: ANN401
    ) -> tuple[tuple[Tensor, Tensor], tuple[int, int]]:
        sums, spread = _Mix.apply(*_flattened(1, info.batch_size, in_dims, given))
        b, n = info.batch_size, len(sums) // info.batch_size
        return (sums.view(b, n, *sums.shape[1:]), spread.view(b, n, *spread.shape[1:])), (0, 0)


class _MixGradient(torch.autograd.Function):
    """`_mix_gradient`, which ends the graph."""

    @staticmethod
    def forward(  # noqa: PLR0917  (likewise)
        sums: Tensor,
        spread: Tensor,
        patches: Tensor,
        samples: Tensor,
        squares: Tensor,
        sharpness: float,
        rows: int,
        means: Tensor,
        distance: Tensor,
        precision: Tensor,
        peak: Tensor,
    ) -> Tensor:
        gradient: Tensor = _mix_gradient(
            sums, spread, patches, samples, squares, sharpness, rows, means, distance, precision, peak
        )
        return gradient

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:  # noqa: ANN401
        """Nothing is kept: there is no backward."""

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> NoReturn:  # noqa: ANN401
        raise _once("twice")

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *given: Any) -> tuple[Tensor, int]:  # noqa: ANN401
        gradient: Tensor = _MixGradient.apply(*_flattened(3, info.batch_size, in_dims, given))
        return gradient.view(info.batch_size, -1, *gradient.shape[1:]), 0


def _flattened(n: int, b: int, in_dims: tuple[int | None, ...], given: tuple[Any, ...]) -> list[Any]:
    """The arguments of one large batch instead of b mapped ones: of the first n, (N, ...) each, and of the samples."""
    if any(dim is not None for dim in in_dims[n + 1 :]):
        raise ModelError("vmap over RBF filters is not possible", "they are constants of the layer", "loop over them")
    in_front = [
        part.expand(b, *part.shape) if dim is None else part.movedim(dim, 0)
        for part, dim in zip(given[: n + 1], in_dims, strict=False)
    ]
    images, samples = in_front[:n], given[n]
    if in_dims[n] is not None or len(samples) > 1:
        samples = in_front[n].expand(b, images[0].shape[1], *in_front[n].shape[2:]).flatten(0, 1)
    return [*[part.flatten(0, 1) for part in images], samples, *given[n + 1 :]]
