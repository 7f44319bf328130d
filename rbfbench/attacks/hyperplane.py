"""Least moves of images onto a hyperplane without leaving the box, exact under every norm (arXiv 1907.02044, sec. 2).

Given x in the box, w and an amount, each function finds the delta of least norm with <w, delta> = amount and
x + delta in [0,1]. Every coordinate goes towards the plane, in the direction of amount * w_i, as far as its room
allows. Where all room together does not suffice, all of it is used: the corner of the box nearest to the plane.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from rbfbench.attacks.norms import TINY

# (reach |w_i|, room_i (both N, d), deficit |amount| (N,)) -> how far each coordinate goes (N, d)
Spend = Callable[[Tensor, Tensor, Tensor], Tensor]


def _level(weight: Tensor, cap: Tensor, deficit: Tensor) -> Tensor:
    """(N, 1) the t at which sum_i weight_i min(t, cap_i) is the deficit; beyond all caps if it never is.

    The sum is concave and linear between the sorted caps: below the j-th it is what the smaller caps hold, plus t times
    the weights that are left.
    """
    cap, order = cap.sort(dim=1)
    weight = weight.gather(1, order)
    held = (weight * cap).cumsum(1) - weight * cap
    left = weight.flip(1).cumsum(1).flip(1)
    short = held + left * cap < deficit[:, None]
    piece = short.sum(dim=1, keepdim=True).clamp(max=cap.shape[1] - 1)
    t = (deficit[:, None] - held.gather(1, piece)) / left.gather(1, piece).clamp(min=torch.finfo(cap.dtype).tiny)
    return torch.where(short.all(dim=1, keepdim=True), cap[:, -1:], t)


def _spend_linf(reach: Tensor, room: Tensor, deficit: Tensor) -> Tensor:
    """delta_i = min(t, room_i)."""
    return torch.minimum(_level(reach, room, deficit), room)


def _spend_l2(reach: Tensor, room: Tensor, deficit: Tensor) -> Tensor:
    """delta_i = min(t |w_i|, room_i)."""
    cap = room / reach.clamp(min=TINY)
    return torch.minimum(_level(reach**2, cap, deficit) * reach, room)


def _spend_l1(reach: Tensor, room: Tensor, deficit: Tensor) -> Tensor:
    """Rooms filled by falling |w_i|."""
    order = reach.argsort(dim=1, descending=True)
    reach, room = reach.gather(1, order), room.gather(1, order)
    before = (reach * room).cumsum(1) - reach * room
    filled = torch.minimum((deficit[:, None] - before).clamp(min=0) / reach.clamp(min=TINY), room)
    return torch.zeros_like(room).scatter(1, order, filled)


_SPEND: dict[str, Spend] = {"linf": _spend_linf, "l2": _spend_l2, "l1": _spend_l1}


def move_to_plane(x: Tensor, w: Tensor, amount: Tensor, norm: str) -> Tensor:
    """The least delta with <w, delta> = amount and x + delta in the box, or the corner nearest to that plane.

    Args:
        x: Points of the box (N, C, H, W).
        w: Normals of the planes (N, C, H, W); where one is zero, nothing moves.
        amount: (N,) by how much <w, x> must grow.
        norm: "linf", "l2" or "l1".

    Returns:
        The moves (N, C, H, W).
    """
    # The largest entry is scaled to one, so that squares of small gradients do not underflow.
    scale = w.flatten(1).abs().amax(1).clamp(min=torch.finfo(w.dtype).tiny)
    way = (w * amount.sign().view(-1, 1, 1, 1)).sign()
    room = torch.where(way > 0, 1 - x, torch.where(way < 0, x, 0)).flatten(1)
    spent = _SPEND[norm]((w.flatten(1).abs() / scale[:, None]), room, amount.abs() / scale)
    return way * spent.view_as(x)
