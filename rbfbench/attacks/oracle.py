"""All that an attack sees of a model: logits and gradients of a view of it, counted and keyed for each image."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rbfbench.attacks.rng import Keys
from rbfbench.errors import ModelError

# (images (N,...), keys of N * draws rows or None) -> logits (N * draws, classes), draws of an image side by side.
Forward = Callable[[Tensor, Keys | None], Tensor]

Objective = Literal["loss-of-mean", "mean-of-losses"]


class Evaluation(NamedTuple):
    """One look at the model: logits (N, classes), the loss (N,), and its gradient (N, C, H, W)."""

    logits: Tensor
    values: Tensor
    gradient: Tensor


class Counts:
    """What each image has cost, how many draws of noise it has seen, and how often the model gave an attack nothing.

    Attributes:
        forwards: Passes forward; one draw counts one.
        backwards: Passes backward, likewise.
        drawn: Draws of noise.
        looks: Gradients asked for.
        flat: Gradients that were zero, or not numbers, in every component.
        lost: Looks whose logits were not finite.
    """

    def __init__(self, n: int) -> None:
        self.forwards = np.zeros(n, np.int64)
        self.backwards = np.zeros(n, np.int64)
        self.drawn = np.zeros(n, np.int64)
        self.looks = np.zeros(n, np.int64)
        self.flat = np.zeros(n, np.int64)
        self.lost = np.zeros(n, np.int64)

    def add(self, index: NDArray[np.intp], **amounts: int | NDArray[np.bool_]) -> None:
        """Add to the named counts of the images at `index`, once for each time that an image stands there."""
        for name, amount in amounts.items():
            np.add.at(getattr(self, name), index, amount)


class Oracle:
    """A view of a model for a batch of images, which can be narrowed: `oracle[index]`.

    With several draws the logits are the log of the mean probability. The objective says what is differentiated:
    `loss-of-mean`, the loss of that mean, by which a randomised defence decides; or `mean-of-losses`, the mean of the
    losses of single draws, as expectation over transformation is usually done (arXiv 1707.07397). Both gradients are
    exact for the drawn noise, which does not depend on the image.

    Args:
        forward: The view: noisy if it heeds its keys.
        keys: (N,) one an image; None for a view without noise.
        draws: Noisy passes averaged in each call.
        objective: What is averaged before the loss or after it.
        exact: The view decides like the model itself, so an image misclassified here is broken.
        max_rows: Rows (images times draws) that one pass may hold; more draws are taken in turn, so memory stays.
        spent: Told the (forwards, backwards) of all images after every look.
    """

    def __init__(
        self,
        forward: Forward,
        keys: Keys | None,
        n: int,
        *,
        draws: int = 1,
        objective: Objective = "loss-of-mean",
        exact: bool = True,
        max_rows: int = 10_000,
        spent: Callable[[int, int], None] = lambda forwards, backwards: None,
    ) -> None:
        self.forward = forward
        self.keys = keys
        self.draws = draws if keys is not None else 1
        self.objective = objective
        self.exact = exact
        self.max_rows = max_rows
        self.spent = spent
        self.counts = Counts(n)
        self.index: NDArray[np.intp] = np.arange(n)
        self.turn = np.zeros(n, np.int64)  # how often the same image stood before in `index`

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, index: Tensor) -> Oracle:
        """The oracle of the images at `index` (a mask or positions), sharing their counts and keys.

        A position may stand there several times, for several points near one image: each sees noise of its own.
        """
        narrowed = object.__new__(Oracle)
        narrowed.__dict__.update(self.__dict__)
        where = index.cpu().numpy()
        narrowed.index = self.index[where]
        narrowed.turn = _turns(narrowed.index)
        narrowed.keys = None if self.keys is None else self.keys[where]
        return narrowed

    @property
    def steady(self) -> bool:
        """Whether every look at a point answers alike: then the best point seen is the best, and not the luckiest."""
        return self.keys is None or self.exact

    @property
    def room(self) -> int:
        """Points near one image that fit into one pass beside the same number for every other image; at least 1."""
        return max(1, self.max_rows // max(1, len(self) * self.draws))

    def logits(self, x: Tensor) -> Tensor:
        """Logits (N, classes) of images (N, C, H, W), without a graph."""
        with torch.no_grad():
            logits = self._mean(torch.cat(list(self._passes(x)), dim=1))
        self._count(logits, twice=False)
        return logits

    def value_and_grad(self, x: Tensor, loss: Callable[[Tensor], Tensor]) -> Evaluation:
        """Evaluate `loss(logits) -> (N,)` and its gradient at x.

        Raises:
            ModelError: No gradient reaches the image.
        """
        x = x.detach().requires_grad_()
        one_pass = self._in_one_pass(x)
        with torch.enable_grad():
            if self.objective == "mean-of-losses" and self.draws > 1:
                one_pass = True  # no draw waits for the others
                logits, values, gradient = self._each(x, loss)
            elif one_pass:
                logits = self._mean(next(self._passes(x)))
                values = loss(logits)
                gradient = self._gradient(values.sum(), x)
            else:
                logits, values, gradient = self._in_turn(x, loss)
        self._count(logits, twice=not one_pass)
        self.spent(0, len(self) * self.draws)
        self.counts.add(
            self.index,
            backwards=self.draws,
            looks=1,
            flat=(gradient.flatten(1) == 0).all(dim=1).cpu().numpy(),
        )
        return Evaluation(logits.detach(), values.detach(), gradient)

    def graph(self, x: Tensor) -> Tensor:
        """Logits (N, classes) of images x with a graph back to them, for attacks that differentiate by themselves.

        Such an attack takes the loss, so it can only be that of the mean. What flows back is counted as it comes, and
        reaches the images alone; draws that do not fit into one pass are then done again. Where x wants no gradient
        this is `logits`. A model through which none flows is an error on the way back.
        """
        if not (torch.is_grad_enabled() and x.requires_grad):
            return self.logits(x)
        logits: Tensor = _Look.apply(x, self)
        return logits

    def _way_back(self, x: Tensor, logits: Tensor, upstream: Tensor, first: NDArray[np.int64]) -> Tensor:
        """The gradient of one look at images x, from that at its logits; its draws began at `first`."""
        again = not self._in_one_pass(x)
        with torch.enable_grad():
            if again:
                gradient = self._shared(x, logits, upstream, first)
            else:
                gradient = self._gradient((upstream * logits).sum(), x, keep=True)
        forwards = self.draws * again
        self.spent(len(self) * forwards, len(self) * self.draws)
        asked = (upstream != 0).any(dim=1)  # an attack that is through with an image asks nothing about it
        self.counts.add(
            self.index,
            forwards=forwards,
            backwards=self.draws,
            looks=asked.cpu().numpy(),
            flat=(asked & (gradient.flatten(1) == 0).all(dim=1)).cpu().numpy(),
        )
        return gradient

    def _in_one_pass(self, x: Tensor) -> bool:
        return len(x) * self.draws <= self.max_rows or self.draws == 1

    def _in_turn(self, x: Tensor, loss: Callable[[Tensor], Tensor]) -> Evaluation:
        """Draws in turn: the mean first, then each draw's share of its gradient."""
        with torch.no_grad():
            logits = self._mean(torch.cat(list(self._passes(x)), dim=1))
        leaf = logits.detach().requires_grad_()
        values = loss(leaf)
        upstream = self._gradient(values.sum(), leaf)
        return Evaluation(logits, values, self._shared(x, logits, upstream, self.counts.drawn[self.index]))

    def _shared(self, x: Tensor, logits: Tensor, upstream: Tensor, first: NDArray[np.int64]) -> Tensor:
        """The gradient of the mean, of which each draw has the share p_c / sum of p_c, from draw `first` on."""
        gradient = torch.zeros_like(x)
        for group in self._passes(x, first):
            log_probability = group.log_softmax(dim=2)
            share = (log_probability.detach() - logits[:, None]).exp() / self.draws
            gradient += self._gradient((upstream[:, None] * share * log_probability).sum(), x)
        return gradient

    def _each(self, x: Tensor, loss: Callable[[Tensor], Tensor]) -> Evaluation:
        """The mean of the losses of single draws, pass by pass."""
        values, gradient, seen = torch.zeros_like(x[:, 0, 0, 0]), torch.zeros_like(x), []
        for group in self._passes(x):
            share = torch.stack([loss(draw) for draw in group.unbind(dim=1)]).sum(dim=0) / self.draws
            gradient += self._gradient(share.sum(), x)
            values += share.detach()
            seen.append(group.detach())
        return Evaluation(self._mean(torch.cat(seen, dim=1)), values, gradient)

    def _passes(self, x: Tensor, first: NDArray[np.int64] | None = None) -> Iterator[Tensor]:
        """Logits (N, draws of this pass, classes), for as many passes as `max_rows` needs; the next draws if none."""
        begin = (self.counts.drawn[self.index] if first is None else first) + self.turn * self.draws
        done = 0
        while done < self.draws:
            draws = min(max(1, self.max_rows // max(len(x), 1)), self.draws - done)
            keys = self.keys and self.keys.spread(draws, begin + done)
            logits = self.forward(x, keys).to(x.dtype)  # a model may compute in another precision
            yield logits.view(len(x), draws, logits.shape[-1])
            done += draws

    def _mean(self, logits: Tensor) -> Tensor:
        if logits.shape[1] == 1:
            return logits[:, 0]
        return logits.log_softmax(dim=2).logsumexp(dim=1) - math.log(logits.shape[1])

    @staticmethod
    def _gradient(value: Tensor, at: Tensor, *, keep: bool = False) -> Tensor:
        reachable = value.requires_grad
        gradient = torch.autograd.grad(value, at, retain_graph=keep, allow_unused=True)[0] if reachable else None
        if gradient is None:
            raise ModelError(
                "the attack needs gradients",
                "none flows from the model's output back to its input",
                "give a differentiable version of the model",
            )
        # A component that is not a number leads nowhere; left in, it would stop the whole image without a word.
        return torch.nan_to_num(gradient, nan=0.0, posinf=0.0, neginf=0.0)

    def _count(self, logits: Tensor, *, twice: bool) -> None:
        forwards = self.draws * (1 + twice)
        self.spent(len(self) * forwards, 0)
        self.counts.add(
            self.index,
            forwards=forwards,
            drawn=self.draws,
            lost=(~torch.isfinite(logits).all(dim=1)).cpu().numpy(),
        )


class _Look(torch.autograd.Function):
    """One look of an oracle: whatever the graph behind it holds, gradients leave it for the images alone."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, oracle: Oracle) -> Tensor:  # noqa: ANN401
        ctx.oracle, ctx.x = oracle, x.detach().requires_grad_()
        ctx.first = oracle.counts.drawn[oracle.index]
        with torch.set_grad_enabled(oracle._in_one_pass(x)):
            ctx.logits = oracle._mean(torch.cat(list(oracle._passes(ctx.x)), dim=1))
        logits: Tensor = ctx.logits.detach()
        oracle._count(logits, twice=False)
        return logits

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None]:  # noqa: ANN401
        return ctx.oracle._way_back(ctx.x, ctx.logits, upstream, ctx.first), None


def _turns(index: NDArray[np.intp]) -> NDArray[np.int64]:
    """(N,) how many earlier entries of `index` equal each one."""
    order = np.argsort(index, kind="stable")
    ranked = index[order]
    first = np.searchsorted(ranked, ranked, side="left")
    turns = np.empty(len(index), np.int64)
    turns[order] = np.arange(len(index)) - first
    return turns
