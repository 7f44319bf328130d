"""The linf attack of Carlini & Wagner (arXiv 1608.04644, section VI-C): a bound that is lowered again and again."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from rbfbench.attacks.adam import Adam
from rbfbench.attacks.best import Nearest
from rbfbench.attacks.cw import EDGE, from_pixels, slope, to_pixels
from rbfbench.attacks.losses import margin
from rbfbench.attacks.norms import NORMS
from rbfbench.attacks.oracle import Evaluation, Oracle
from rbfbench.attacks.rng import Keys
from rbfbench.attacks.tradeoff import CHECKS, STALLED

LOWER = 0.9  # factor of the bound after a success
FINEST = 1e-4  # bound below which nobody asks
RAISE = 10.0  # factor of the constant after a failure
LARGEST_C = 20.0  # what fails with more has failed
SHARE = 0.2  # of the bound is the largest step, or Adam would overshoot a small one
SOLVED = 1e-4  # of the constant may be left of the loss


def cw_linf(
    oracle: Oracle,
    x: Tensor,
    y: Tensor,
    *,
    norm: str,
    eps: float,
    rng: Keys,
    steps: int = 1000,
    search_steps: int = 9,
    lr: float = 0.005,
    initial_c: float = 0.1,
) -> Tensor:
    """Minimise c * max(-margin, 0) + sum of what changes exceed a bound by, for lower and lower bounds.

    A try succeeds when a misclassified point keeps the bound; the next one starts there, with a bound of 0.9 times the
    largest change. A try that fails is repeated with a larger constant. Each image has its own bound and constant and
    goes from try to try when it is ready. As in cw-l2, the box takes only a part of tanh's range. A constant of 1 gives
    the margin, in its steepest coordinate where a try starts, the weight of the bound: the scale of the logits does not
    matter.

    Args:
        oracle: View of the model for these images.
        x: Clean images (N, C, H, W) in [0,1].
        y: (N,) true classes.
        norm: "linf".
        eps: Unused: the nearest candidate is looked for, however far it is.
        rng: Unused, since nothing is random here.
        steps: Steps of Adam in one try; a try whose loss stalls stops earlier.
        search_steps: Tries that each image can pay if all are long; shorter ones leave room for more.
        lr: Step size of Adam, at most.
        initial_c: The first constant.

    Returns:
        The nearest misclassified point seen for each image, or the image (N, C, H, W).
    """
    del eps, rng
    nearest = Nearest(x, y, norm)
    alive = torch.arange(len(x), device=x.device)
    if oracle.exact:
        alive = alive[margin(oracle.logits(x), y) <= 0]
    near, tries = oracle[alive], _Tries(x[alive], c=initial_c, lr=lr, steps=steps, noisy=not oracle.steady)
    for step in range(steps * search_steps):
        if step % tries.every == 0:  # a question to the device, so not at each step
            left = (~tries.over).nonzero()[:, 0]
            near, alive = near[left], alive[left]
            tries.narrow(left)
            if len(alive) == 0:
                break
        x_adv = tries.point
        seen = near.value_and_grad(x_adv, partial(margin, y=y[alive]))
        kept = tries.excess().flatten() < SOLVED * tries.c.flatten()
        held = nearest.take(near, alive, x_adv, seen.values > 0, needed=kept)
        tries.step(seen, solved=held & kept)
    return nearest.x_adv


class _Tries:
    """Where each image is, and of its present try the start, the slope there, the bound, the constant and the steps.

    Args:
        x: Clean images (N, C, H, W).
        c: The first constant.
        lr: Step size of Adam, at most.
        steps: Steps of a try, at most.
        noisy: A loss that rose says nothing.
    """

    def __init__(self, x: Tensor, *, c: float, lr: float, steps: int, noisy: bool) -> None:
        self.x = x
        self.w = self.start = from_pixels(x)
        self.adam = Adam(x)
        self.bound = torch.ones_like(x[:, :1, :1, :1])
        self.c, self.taken, self.before = c * self.bound, 0 * self.bound, torch.inf * self.bound
        self.slope = 0 * self.bound
        self.lr, self.steps, self.every, self.noisy = lr, steps, max(1, steps // CHECKS), noisy

    @property
    def point(self) -> Tensor:
        """Where each image is (N, C, H, W)."""
        return to_pixels(self.w)

    @property
    def over(self) -> Tensor:
        """(N,) bool: nothing more to try."""
        return ((self.bound < FINEST) | (self.c > LARGEST_C)).flatten()

    def excess(self) -> Tensor:
        """(N, 1, 1, 1) sum of what the changes exceed the bound by."""
        return ((self.point - self.x).abs() - self.bound).clamp(min=0).sum(dim=(1, 2, 3), keepdim=True)

    def step(self, seen: Evaluation, *, solved: Tensor) -> None:
        """One step of Adam, or on to the next try: from here with a lower bound, or from the start with a larger c."""
        delta = self.point - self.x
        values, solved = (t.view(-1, 1, 1, 1) for t in (seen.values, solved))
        steepest = NORMS["linf"].length(seen.gradient).view_as(self.slope)
        self.slope = torch.where(self.slope == 0, steepest, self.slope)
        c = self.c / torch.where(self.slope == 0, 1.0, self.slope)
        loss = self.excess() + c * (-values).clamp(min=0)
        self.taken += 1
        check = self.taken % self.every == 0
        stalled = check & ~(loss <= STALLED * self.before) & (not self.noisy)
        failed = ~solved & (stalled | (self.taken >= self.steps))

        pull = torch.where(values > 0, 0.0, -c) * seen.gradient
        push = delta.sign() * (delta.abs() > self.bound)
        rate = (SHARE * self.bound).clamp(max=self.lr)
        moved = (self.w + rate * self.adam.descent((pull + push) * slope(self.w))).clamp(-EDGE, EDGE)

        self.start = torch.where(solved, self.w, self.start)
        self.w = torch.where(solved | failed, self.start, moved)
        reached = NORMS["linf"].length(delta).view_as(self.bound)
        self.slope = torch.where(solved, steepest, self.slope)
        self.bound = torch.where(solved, LOWER * torch.minimum(self.bound, reached), self.bound)
        self.c = torch.where(failed, RAISE * self.c, self.c)
        self.before = torch.where(solved | failed, torch.inf, torch.where(check, loss, self.before))
        self.taken = torch.where(solved | failed, 0.0, self.taken)
        self.adam.restart(solved | failed)

    def narrow(self, left: Tensor) -> None:
        """Go on with the images at positions `left`."""
        for name in ("x", "w", "start", "slope", "bound", "c", "taken", "before"):
            setattr(self, name, getattr(self, name)[left])
        self.adam.narrow(left)
