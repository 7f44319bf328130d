"""What Square tries next: windows painted (linf), or filled with what other windows held (l2, l1)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from typing import NamedTuple

import torch
from torch import Tensor

from rbfbench.attacks.norms import NORMS, TINY
from rbfbench.attacks.rng import Keys

NARROWEST = 3  # window that a bump fits into


class Luck(NamedTuple):
    """What chance decides: (N, ..., 5) numbers in [0,1) for places and turns, (N, ..., C) signs for the channels."""

    places: Tensor
    signs: Tensor

    @classmethod
    def draw(cls, keys: Keys, queries: int, x: Tensor) -> Luck:
        """For so many queries, (N, queries, ...)."""
        places, signs = keys.fold("places"), keys.fold("signs")
        return cls(places.uniform((queries, 5), x), signs.signs((queries, x.shape[1]), x))

    def of(self, index: Tensor, query: int) -> Luck:
        """For one of the queries, and the images at `index`."""
        return Luck(self.places[index, query], self.signs[index, query])


class Window(NamedTuple):
    """Rows (N, H, 1) and columns (N, 1, W) counted from the corner of a window, and what is inside, (N, 1, H, W)."""

    rows: Tensor
    columns: Tensor
    inside: Tensor

    @classmethod
    def at(cls, places: Tensor, x: Tensor, side: int) -> Window:
        """One window an image, anywhere in it: `places` (N, 2) in [0,1) are the corners' shares of the way."""
        corners = [(places[:, i] * (size - side + 1)).long() for i, size in enumerate(x.shape[2:])]
        rows, columns = (
            torch.arange(size, device=x.device) - corner[:, None]
            for size, corner in zip(x.shape[2:], corners, strict=True)
        )
        inside = ((rows >= 0) & (rows < side))[:, :, None] & ((columns >= 0) & (columns < side))[:, None, :]
        return cls(rows[:, :, None], columns[:, None, :], inside[:, None])


# linf -----------------------------------------------------------------------------------------------------------------
def _stripes(keys: Keys, x: Tensor, eps: float) -> Tensor:
    """Vertical stripes of +-eps, one sign a channel and column."""
    return (x + eps * keys.signs((x.shape[1], 1, x.shape[3]), x)).clamp(0, 1)


def _repaint(x: Tensor, x_adv: Tensor, luck: Luck, side: int, eps: float) -> Tensor:
    """One window in +-eps, one sign a channel; in the opposite signs if it looks like that already (algorithm 2)."""
    inside = Window.at(luck.places[:, :2], x, side).inside
    shift = eps * luck.signs[:, :, None, None]
    painted, other = (torch.where(inside, (x + way * shift).clamp(0, 1), x_adv) for way in (1, -1))
    idle = (painted == x_adv).flatten(1).all(dim=1)
    return torch.where(idle[:, None, None, None], other, painted)


# l2 and l1 ------------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Mass:
    """How a perturbation of fixed length is spread.

    Attributes:
        power: Of the norm: 2 or 1.
        excess: What a window is given, as a multiple of what there is for it.
        settle: (x, moved, eps) -> candidates in ball and box.
    """

    power: int
    excess: float
    settle: Callable[[Tensor, Tensor, float], Tensor]

    def length(self, moved: Tensor, *dims: int) -> Tensor:
        """||.||_p over these dimensions, which stay."""
        length: Tensor = torch.linalg.vector_norm(moved, ord=self.power, dim=dims, keepdim=True)
        return length

    def unit(self, moved: Tensor, *dims: int) -> Tensor:
        """At length one over these dimensions; nothing stays nothing."""
        return moved / self.length(moved, *dims).clamp(min=TINY)


def _pyramid(height: int, width: int) -> Tensor:
    """Heights that fall in squares from the middle: from the outside in they rise by 1/k^2 (equation 2)."""
    rows, columns = ((torch.arange(size) - size // 2).abs() for size in (height, width))
    rises = 1 / torch.arange(1, max(height, width) // 2 + 2, dtype=torch.float64) ** 2
    return rises.flip(0).cumsum(0).flip(0)[torch.maximum(rows[:, None], columns[None, :])]


@cache
def _bump(side: int, mass: Mass) -> Tensor:
    """Two pyramids of equal length and opposite sign, one above the other, of length one together (equation 3)."""
    above, below = _pyramid(side // 2, side), _pyramid(side - side // 2, side)
    return mass.unit(torch.cat([mass.unit(above, 0, 1), -mass.unit(below, 0, 1)]), 0, 1)


def _tiles(keys: Keys, x: Tensor, eps: float, *, mass: Mass) -> Tensor:
    """Five bumps to a side, or as many as there is room for: of random sign in each channel, upright or turned."""
    height, width = x.shape[2:]
    side = max(1, min(height, width) // 5)
    down, across = height // side, width // side
    top, left = (height - down * side) // 2, (width - across * side) // 2

    def fill(tiles: Tensor) -> Tensor:
        return tiles.repeat_interleave(side, dim=2).repeat_interleave(side, dim=3)

    bump = _bump(side, mass).to(x)
    turned = fill(keys.fold("turns").signs((1, down, across), x)) > 0
    signs = fill(keys.fold("signs").signs((x.shape[1], down, across), x))
    moved = torch.zeros_like(x)
    moved[:, :, top : top + down * side, left : left + across * side] = signs * torch.where(
        turned, bump.T.repeat(down, across), bump.repeat(down, across)
    )
    return mass.settle(x, mass.excess * eps * mass.unit(moved, 1, 2, 3), eps)


def _gather(x: Tensor, x_adv: Tensor, luck: Luck, side: int, eps: float, *, mass: Mass) -> Tensor:
    """Carry to one window what it and another hold, and what is unused of eps, bent by a bump (algorithm 3)."""
    most = min(x.shape[2:])
    side = min(max(side, NARROWEST) | 1, most - 1 + most % 2)  # odd, to have a middle
    rows, columns, first = Window.at(luck.places[:, :2], x, side)
    second = Window.at(luck.places[:, 2:4], x, side).inside
    moved, p = x_adv - x, mass.power

    unused = (eps**p - mass.length(moved, 1, 2, 3) ** p).clamp(min=0)
    available = (mass.length(moved * (first | second), 2, 3) ** p + unused / x.shape[1]) ** (1 / p)
    bump, (rows, columns) = _bump(side, mass).to(x), (way.clamp(0, side - 1) for way in (rows, columns))
    turned = luck.places[:, 4, None, None] < 0.5
    bumps = torch.where(turned, bump[columns, rows], bump[rows, columns])[:, None] * luck.signs[:, :, None, None]
    bent = mass.unit((bumps + mass.unit(moved * first, 2, 3)) * first, 2, 3)
    return mass.settle(x, torch.where(first, mass.excess * available * bent, moved.masked_fill(second, 0)), eps)


def _clip(x: Tensor, moved: Tensor, eps: float) -> Tensor:
    del eps  # the length is eps already, and the box only shortens it
    return (x + moved).clamp(0, 1)


def _project(x: Tensor, moved: Tensor, eps: float) -> Tensor:
    return (x + NORMS["l1"].project(x, moved, eps)).clamp(0, 1)


L2 = Mass(power=2, excess=1.0, settle=_clip)
# Given thrice its due, a window outweighs the rest, and the projection takes the surplus from the smallest coordinates:
# the perturbation stays sparse, as the l1 ball and the box reward.
L1 = Mass(power=1, excess=3.0, settle=_project)


@dataclass(frozen=True)
class Search:
    """How a norm is searched.

    Attributes:
        start: (keys, x, eps) -> the first candidates.
        move: (x, x_adv, luck, side, eps) -> the next ones.
    """

    start: Callable[[Keys, Tensor, float], Tensor]
    move: Callable[[Tensor, Tensor, Luck, int, float], Tensor]


SEARCHES: dict[str, Search] = {
    "linf": Search(_stripes, _repaint),
    "l2": Search(partial(_tiles, mass=L2), partial(_gather, mass=L2)),
    "l1": Search(partial(_tiles, mass=L1), partial(_gather, mass=L1)),
}
