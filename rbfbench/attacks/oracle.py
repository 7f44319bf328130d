"""All that an attack sees of a model: logits and gradients of a view of it, counted and keyed for each image."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Literal, NamedTuple

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
        one_pass = len(x) * self.draws <= self.max_rows or self.draws == 1
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

    def _in_turn(self, x: Tensor, loss: Callable[[Tensor], Tensor]) -> Evaluation:
        """Draws in turn: the mean first, then each draw's share p_c / sum of p_c of the gradient of the mean."""
        with torch.no_grad():
            logits = self._mean(torch.cat(list(self._passes(x)), dim=1))
        leaf = logits.detach().requires_grad_()
        values = loss(leaf)
        upstream = self._gradient(values.sum(), leaf)
        gradient = torch.zeros_like(x)
        for group in self._passes(x):
            log_probability = group.log_softmax(dim=2)
            share = (log_probability.detach() - logits[:, None]).exp() / self.draws
            gradient += self._gradient((upstream[:, None] * share * log_probability).sum(), x)
        return Evaluation(logits, values, gradient)

    def _each(self, x: Tensor, loss: Callable[[Tensor], Tensor]) -> Evaluation:
        """The mean of the losses of single draws, pass by pass."""
        values, gradient, seen = torch.zeros_like(x[:, 0, 0, 0]), torch.zeros_like(x), []
        for group in self._passes(x):
            share = torch.stack([loss(draw) for draw in group.unbind(dim=1)]).sum(dim=0) / self.draws
            gradient += self._gradient(share.sum(), x)
            values += share.detach()
            seen.append(group.detach())
        return Evaluation(self._mean(torch.cat(seen, dim=1)), values, gradient)

    def _passes(self, x: Tensor) -> Iterator[Tensor]:
        """Logits (N, draws of this pass, classes), for as many passes as `max_rows` needs."""
        done = 0
        while done < self.draws:
            draws = min(max(1, self.max_rows // max(len(x), 1)), self.draws - done)
            first = self.counts.drawn[self.index] + self.turn * self.draws + done
            keys = self.keys and self.keys.spread(draws, first)
            logits = self.forward(x, keys)
            yield logits.view(len(x), draws, logits.shape[-1])
            done += draws

    def _mean(self, logits: Tensor) -> Tensor:
        if logits.shape[1] == 1:
            return logits[:, 0]
        return logits.log_softmax(dim=2).logsumexp(dim=1) - math.log(logits.shape[1])

    @staticmethod
    def _gradient(value: Tensor, at: Tensor) -> Tensor:
        gradient = torch.autograd.grad(value, at, allow_unused=True)[0] if value.requires_grad else None
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


def _turns(index: NDArray[np.intp]) -> NDArray[np.int64]:
    """(N,) how many earlier entries of `index` equal each one."""
    order = np.argsort(index, kind="stable")
    ranked = index[order]
    first = np.searchsorted(ranked, ranked, side="left")
    turns = np.empty(len(index), np.int64)
    turns[order] = np.arange(len(index)) - first
    return turns
