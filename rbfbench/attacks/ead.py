"""Elastic-net attack to deep neural networks (Chen et al., arXiv 1709.04114): sparse perturbations by FISTA."""

from __future__ import annotations

from functools import partial

from torch import Tensor

from rbfbench.attacks.best import Nearest
from rbfbench.attacks.norms import NORMS
from rbfbench.attacks.oracle import Oracle
from rbfbench.attacks.rng import Keys
from rbfbench.attacks.tradeoff import search_constant


def shrink(x: Tensor, point: Tensor, beta: float) -> Tensor:
    """The v in the box of least ||v - point||^2 / 2 + beta ||v - x||_1: the prox of FISTA (eq. 8 there)."""
    delta = point - x
    return (x + delta.sign() * (delta.abs() - beta).clamp(min=0)).clamp(0, 1)


def elastic_net(delta: Tensor, beta: float) -> Tensor:
    """||delta||_2^2 + beta ||delta||_1, (N,)."""
    return NORMS["l2"].length(delta) ** 2 + beta * NORMS["l1"].length(delta)


class _Descent:
    """FISTA on ||delta||_2^2 + beta ||delta||_1 + c * hinge, with step sizes that fall as a square root to zero."""

    def __init__(self, x: Tensor, length: Tensor, *, beta: float, lr: float, steps: int) -> None:
        self.x = self.shrunk = self.slack = x
        self.beta, self.lr, self.steps = beta, lr, steps
        self.taken = 0

    @property
    def point(self) -> Tensor:
        return self.slack

    def penalty(self) -> Tensor:
        return elastic_net(self.slack - self.x, self.beta)

    def step(self, pull: Tensor) -> None:
        rate = self.lr * (1 - self.taken / self.steps) ** 0.5
        shrunk = shrink(self.x, self.slack - rate * (2 * (self.slack - self.x) + pull), self.beta)
        self.slack = (shrunk + self.taken / (self.taken + 3) * (shrunk - self.shrunk)).clamp(0, 1)
        self.shrunk = shrunk
        self.taken += 1

    def narrow(self, going: Tensor) -> None:
        self.x, self.shrunk, self.slack = self.x[going], self.shrunk[going], self.slack[going]


def ead(
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
    beta: float = 0.01,
    rule: str = "l1",
) -> Tensor:
    """Minimise ||delta||_2^2 + beta ||delta||_1 + c * max(kappa - margin, 0) by FISTA (algorithm 1 there).

    As there, but that each image stops for itself, and that the points looked at are the slack points, in the box.

    Args:
        oracle: View of the model for these images.
        x: Clean images (N, C, H, W) in [0,1].
        y: (N,) true classes.
        norm: "l1".
        eps: Unused: the nearest candidate is looked for, however far it is.
        rng: Unused, since nothing is random here.
        steps: Steps for each constant; images whose loss stalls stop earlier.
        search_steps: Constants tried for each image.
        lr: First step size; it falls as a square root to zero.
        initial_c: The first constant.
        kappa: Margin that a candidate must exceed.
        beta: Weight of the l1 norm; larger is sparser.
        rule: What the nearest candidate has least of: "l1", or "en" for both norms as they are minimised.

    Returns:
        The nearest point found that is misclassified by more than kappa, or the image (N, C, H, W).
    """
    del eps, rng
    measure = partial(elastic_net, beta=beta) if rule == "en" else None
    return search_constant(
        oracle,
        Nearest(x, y, norm, measure),
        start=partial(_Descent, beta=beta, lr=lr, steps=steps),
        steps=steps,
        search_steps=search_steps,
        initial_c=initial_c,
        kappa=kappa,
        rescaled=False,
    )
