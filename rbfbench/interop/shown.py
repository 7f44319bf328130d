"""What a foreign library is given for a model, and the peace in which it runs."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from rbfbench.attacks.oracle import Oracle
from rbfbench.attacks.rng import Keys, borrowed
from rbfbench.errors import UsageError


class Shown(nn.Module):
    """The adversary's view of a model as a module from images to logits with a graph.

    A library may ask about any number of points, near whichever images it likes. A call with as many rows as there are
    images is about each of them; the rows of any other are dealt out to the images in turn, so that the sum of the
    counts is right, no image gets more than its share, and every row sees fresh noise. The view is no submodule: a
    library that switches modes or clears gradients does not reach the model.

    Args:
        oracle: View of the model for the images.
        x: The images (N, C, H, W); their dtype and device are the model's.
        probabilities: Give softmax probabilities, for attacks that refuse logits.
    """

    def __init__(self, oracle: Oracle, x: Tensor, *, probabilities: bool = False) -> None:
        super().__init__()
        if oracle.objective == "mean-of-losses" and oracle.draws > 1:
            raise UsageError(
                "foreign attacks cannot raise the mean of losses",
                "they take the loss themselves, of the mean over all draws",
                "leave --objective out",
            )
        self.oracle = oracle
        self.x = x
        self.probabilities = probabilities
        # With and without gradients apart, since libraries take turns: else one image would get all the gradients.
        self.dealt = {False: 0, True: 0}
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        """Logits (k, classes) of k points, in the dtype of x."""
        logits = torch.cat([self._look(part) for part in torch.split(x.to(self.x), self.oracle.max_rows)])
        return (logits.softmax(dim=1) if self.probabilities else logits).to(x.dtype)

    def _look(self, x: Tensor) -> Tensor:
        n = len(self.oracle)
        if len(x) == n:
            return self.oracle.graph(x)
        graph = torch.is_grad_enabled() and x.requires_grad
        rows = (self.dealt[graph] + torch.arange(len(x))) % n
        self.dealt[graph] += len(x)
        return self.oracle[rows].graph(x)


@contextmanager
def undisturbed(rng: Keys, device: torch.device) -> Iterator[None]:
    """Gradients on, warnings off, and global generators seeded from the keys and put back afterwards."""
    with borrowed(device) as seed, torch.enable_grad(), warnings.catch_warnings():
        seed(rng)
        warnings.simplefilter("ignore")
        yield
