"""The l2 attack of Carlini & Wagner (arXiv 1608.04644, section VI-A): Adam behind a change of variables."""

from __future__ import annotations

import math
from functools import partial

import torch
from torch import Tensor

from rbfbench.attacks.adam import Adam
from rbfbench.attacks.best import Nearest
from rbfbench.attacks.norms import NORMS
from rbfbench.attacks.oracle import Oracle
from rbfbench.attacks.rng import Keys
from rbfbench.attacks.tradeoff import search_constant

# The share of tanh's range that the box takes. With the whole range, 0 and 1 lie where tanh is flat: at lr 0.01 such a
# pixel needs 237 steps to move by 0.01, and the background of a digit stays frozen for as long.
REACH = 0.9
EDGE = math.atanh(REACH)
SHARE = 0.2  # of the nearest length known, spread over all pixels, is the largest step: later descents are finer


def to_pixels(w: Tensor) -> Tensor:
    """Images (1 + tanh(w) / REACH) / 2, which takes [-EDGE, EDGE] to [0,1]."""
    return ((1 + w.tanh() / REACH) / 2).clamp(0, 1)


def from_pixels(x: Tensor) -> Tensor:
    """The w of images x."""
    return torch.atanh(REACH * (2 * x - 1))


def slope(w: Tensor) -> Tensor:
    """Derivative of `to_pixels`."""
    return (1 - w.tanh() ** 2) / (2 * REACH)


class _Descent:
    """Adam on ||x(w) - x||^2 + c * hinge."""

    def __init__(self, x: Tensor, length: Tensor, lr: float) -> None:
        self.x = x
        self.w = from_pixels(x)
        self.rate = (SHARE * length / x[0].numel() ** 0.5).clamp(max=lr).view(-1, 1, 1, 1)
        self.adam = Adam(x)

    @property
    def point(self) -> Tensor:
        return to_pixels(self.w)

    def penalty(self) -> Tensor:
        return NORMS["l2"].length(self.point - self.x) ** 2

    def step(self, pull: Tensor) -> None:
        gradient = (2 * (self.point - self.x) + pull) * slope(self.w)
        self.w = (self.w + self.rate * self.adam.descent(gradient)).clamp(-EDGE, EDGE)

    def narrow(self, going: Tensor) -> None:
        self.x, self.w, self.rate = self.x[going], self.w[going], self.rate[going]
        self.adam.narrow(going)


def cw_l2(
    oracle: Oracle,
    x: Tensor,
    y: Tensor,
    *,
    norm: str,
    eps: float,
    rng: Keys,
    steps: int = 1000,
    search_steps: int = 9,
    lr: float = 0.01,
    initial_c: float = 1e-3,
    kappa: float = 0.0,
) -> Tensor:
    """Minimise ||x(w) - x||^2 + c * max(kappa - margin, 0) over w, and search the constant c for each image.

    As there, but that each image stops for itself, and that the box takes only a part of tanh's range.

    Args:
        oracle: View of the model for these images.
        x: Clean images (N, C, H, W) in [0,1].
        y: (N,) true classes.
        norm: "l2".
        eps: Unused: the nearest candidate is looked for, however far it is.
        rng: Unused, since nothing is random here.
        steps: Steps of Adam for each constant; images whose loss stalls stop earlier.
        search_steps: Constants tried for each image.
        lr: Step size of Adam.
        initial_c: The first constant.
        kappa: Margin that a candidate must exceed.

    Returns:
        The nearest point found that is misclassified by more than kappa, or the image (N, C, H, W).
    """
    del eps, rng
    return search_constant(
        oracle,
        Nearest(x, y, norm),
        start=partial(_Descent, lr=lr),
        steps=steps,
        search_steps=search_steps,
        initial_c=initial_c,
        kappa=kappa,
        rescaled=True,
    )
