"""Everything that depends on the norm, once: lengths, exact projections, random starts, steepest steps.

A perturbation delta of images x must stay in the ball ||delta||_p <= eps and in the box x + delta in [0,1]. All
functions treat each image of a batch alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from rbfbench.attacks.rng import Keys

SHRINK = 1 - 1e-6  # attacks aim at eps * SHRINK, so that float32 rounding does not carry them over eps
BISECTIONS = 60  # halves the bracket of a Lagrange multiplier to below float64 resolution
TINY = 1e-12
MOST_ROUNDS = 50  # of the l2 projection; it takes about five


def _column(values: Tensor, like: Tensor) -> Tensor:
    """(N,) as (N, 1, 1, 1)."""
    return values.view(-1, *[1] * (like.ndim - 1))


def _box(x: Tensor, delta: Tensor) -> Tensor:
    return torch.clamp(x + delta, 0, 1) - x


def _bisect(norm_at: Callable[[Tensor], Tensor], upper: Tensor, eps: float) -> Tensor:
    """(N,) multipliers at which the decreasing `norm_at` meets eps, from the feasible side."""
    low, high = torch.zeros_like(upper), upper
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        inside = norm_at(middle) <= eps
        low, high = torch.where(inside, low, middle), torch.where(inside, middle, high)
    return high


# linf ----------------------------------------------------------------------------------------------------------------
def _length_linf(delta: Tensor) -> Tensor:
    return delta.flatten(1).abs().amax(1)


def _project_linf(x: Tensor, delta: Tensor, eps: float) -> Tensor:
    return _box(x, delta.clamp(-eps, eps))


def _start_linf(keys: Keys, x: Tensor, eps: float) -> Tensor:
    return (2 * keys.uniform(tuple(x.shape[1:]), x) - 1) * eps


def _step_linf(x_adv: Tensor, gradient: Tensor, size: float) -> Tensor:
    return size * gradient.sign()


# l2 ------------------------------------------------------------------------------------------------------------------
def _length_l2(delta: Tensor) -> Tensor:
    length: Tensor = torch.linalg.vector_norm(delta.flatten(1), dim=1)
    return length


def _project_l2(x: Tensor, delta: Tensor, eps: float) -> Tensor:
    """delta_i = clip(scale delta_i, -x_i, 1 - x_i) with scale <= 1 largest: the nearest point of ball and box.

    The scale grows from where the box does not matter. With the coordinates that the box stops at one scale held there,
    the others can take what is left of the budget, which stops more of them; this ends, and never leaves the ball.
    """
    inside = _box(x, delta)
    if eps == 0:
        return torch.zeros_like(delta)
    outside = _length_l2(inside) > eps
    if not outside.any():
        return inside
    xo, do = x[outside], delta[outside]
    size, room = do.abs(), torch.where(do > 0, 1 - xo, xo)
    scale = eps / _length_l2(do)
    for _ in range(MOST_ROUNDS):
        stopped = size * _column(scale, do) >= room
        held = torch.where(stopped, room, 0).flatten(1).square().sum(1)
        free = torch.where(stopped, 0, size).flatten(1).square().sum(1)
        larger = ((eps**2 - held).clamp(min=0) / free.clamp(min=TINY)).sqrt().clamp(max=1)
        if not (larger > scale).any():
            break
        scale = scale.maximum(larger)
    inside[outside] = _box(xo, do * _column(scale, do))
    return inside


def _start_l2(keys: Keys, x: Tensor, eps: float) -> Tensor:
    """Uniform in the ball: a uniform direction, radius eps * U^(1/d)."""
    direction = keys.normal(tuple(x.shape[1:]), x)
    radius = keys.fold("radius").uniform((), x) ** (1 / math.prod(x.shape[1:]))
    return direction * _column(eps * radius / _length_l2(direction).clamp(min=TINY), x)


def _step_l2(x_adv: Tensor, gradient: Tensor, size: float) -> Tensor:
    # Scaled by the largest entry first: the square of a tiny gradient would underflow and the attack would not move.
    scaled = gradient / _column(_length_linf(gradient).clamp(min=torch.finfo(gradient.dtype).tiny), gradient)
    return scaled * (size / _column(_length_l2(scaled).clamp(min=TINY), gradient))


# l1 ------------------------------------------------------------------------------------------------------------------
def _length_l1(delta: Tensor) -> Tensor:
    return delta.flatten(1).abs().sum(1)


def _project_l1(x: Tensor, delta: Tensor, eps: float) -> Tensor:
    """delta_i = sign(delta_i) clip(|delta_i| - lam, 0, room_i) with lam >= 0 least: nearest point of ball and box.

    Duchi's projection followed by clipping is not it: on images full of 0 and 1 that wastes budget (arXiv 2103.01208).
    """
    inside = _box(x, delta)
    outside = _length_l1(inside) > eps
    if not outside.any():
        return inside
    xo, do = x[outside], delta[outside]

    def at(lam: Tensor) -> Tensor:
        return _box(xo, do.sign() * (do.abs() - _column(lam, do)).clamp(min=0))

    lam = _bisect(lambda lam: _length_l1(at(lam)), _length_linf(do), eps)
    inside[outside] = at(lam)
    return inside


def _start_l1(keys: Keys, x: Tensor, eps: float) -> Tensor:
    """Uniform in the ball: a Laplace vector over its l1 norm, radius eps * U^(1/d)."""
    u = keys.uniform(tuple(x.shape[1:]), x) - 0.5
    laplace = -u.sign() * torch.log1p(-2 * u.abs().clamp(max=0.5 - 2**-25))
    radius = keys.fold("radius").uniform((), x) ** (1 / math.prod(x.shape[1:]))
    return laplace * _column(eps * radius / _length_l1(laplace).clamp(min=TINY), x)


L1_SHARE = 0.01  # of the coordinates share an l1 step that has room everywhere, as in SLIDE (arXiv 1904.13000)


def _step_l1(x_adv: Tensor, gradient: Tensor, size: float) -> Tensor:
    """Spread `size` over the largest gradients, no coordinate beyond its share or its room; what is left flows on.

    The true steepest direction is one coordinate: at its bound, the attack would never move. A fixed set of them would
    be refilled for ever with what the projection takes, and never reach the next ones.
    """
    share = size / max(1, round(L1_SHARE * gradient[0].numel()))
    return _fill(gradient, torch.where(gradient > 0, 1 - x_adv, x_adv).clamp(max=share), size)


def _fill(gradient: Tensor, room: Tensor, budget: float) -> Tensor:
    """Spend an l1 budget on the coordinates' rooms by falling |gradient| (fractional knapsack), in its direction."""
    order = gradient.flatten(1).abs().argsort(dim=1, descending=True)
    room_left = (room * (gradient != 0)).flatten(1).gather(1, order)
    spent_before = room_left.cumsum(1) - room_left
    filled = torch.minimum(room_left, (budget - spent_before).clamp(min=0))
    return torch.zeros_like(room_left).scatter(1, order, filled).view_as(gradient) * gradient.sign()


@dataclass(frozen=True)
class Norm:
    """What an attack may ask of a norm.

    Attributes:
        length: ||delta||_p of (N, ...) as (N,).
        project: (x, delta, eps) -> the point nearest to delta in ball and box.
        start: (keys, x, eps) -> a uniform sample of the ball, before the box.
        step: (x_adv, gradient, size) -> ascent of this length; shorter only where the box leaves no more room.
        linear_optimum: (x, gradient, eps) -> maximiser of the linearised loss over ball and box.
    """

    length: Callable[[Tensor], Tensor]
    project: Callable[[Tensor, Tensor, float], Tensor]
    start: Callable[[Keys, Tensor, float], Tensor]
    step: Callable[[Tensor, Tensor, float], Tensor]
    linear_optimum: Callable[[Tensor, Tensor, float], Tensor]


def _linear_linf(x: Tensor, gradient: Tensor, eps: float) -> Tensor:
    return _box(x, eps * gradient.sign())


def _linear_l2(x: Tensor, gradient: Tensor, eps: float) -> Tensor:
    """delta_i = sign(g_i) min(lam |g_i|, room_i) with ||delta|| = eps, or the corner of the box if eps is larger."""
    unit = _step_l2(x, gradient, 1.0)

    def at(inverse: Tensor) -> Tensor:  # inverse = 1 / lam, so that the norm decreases in it
        return _box(x, unit / _column(inverse.clamp(min=TINY), unit))

    upper = torch.full_like(x[:, 0, 0, 0], 1 / max(eps, TINY))
    return torch.zeros_like(x) if eps == 0 else at(_bisect(lambda t: _length_l2(at(t)), upper, eps))


def _linear_l1(x: Tensor, gradient: Tensor, eps: float) -> Tensor:
    return _fill(gradient, torch.where(gradient > 0, 1 - x, x), eps)


NORMS: dict[str, Norm] = {
    "linf": Norm(_length_linf, _project_linf, _start_linf, _step_linf, _linear_linf),
    "l2": Norm(_length_l2, _project_l2, _start_l2, _step_l2, _linear_l2),
    "l1": Norm(_length_l1, _project_l1, _start_l1, _step_l1, _linear_l1),
}
