"""How Auto-PGD steps: by halving under linf and l2 (arXiv 2003.01690), by sparsity under l1 (arXiv 2103.01208)."""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from rbfbench.attacks.norms import NORMS, Norm

RISES = 0.75  # share of the steps since the last checkpoint that must have raised the loss
INERTIA = 0.25  # share of the last move in the next one
FIRST_DENSITY = 0.2  # of the coordinates share the first l1 steps
TOUCHING = 1e-6  # a pixel so near to its bound is at it
SPARSER = 1.5  # an l1 step has so many times fewer coordinates than the best point, and shrinks by the same factor


def column(values: Tensor) -> Tensor:
    """(N,) as (N, 1, 1, 1)."""
    return values.view(-1, 1, 1, 1)


@dataclass
class Rows:
    """Tensors with one row an image, narrowed together."""

    def keep(self, mask: Tensor) -> None:
        """Keep the images where mask (N,) holds."""
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, Tensor):
                setattr(self, field.name, value[mask])


@dataclass
class Ascent(Rows):
    """Where each image of an ascent stands, and the highest point that it has seen.

    Attributes:
        where: (N,) positions of the images in the batch.
        x: Clean images (N, C, H, W).
        delta: Perturbations now.
        before: Perturbations one step earlier.
        gradient: Gradients of the loss at delta.
        loss: (N,) loss at delta.
        rises: (N,) steps that raised the loss since the last checkpoint.
        best_delta: Perturbations of highest loss.
        best_gradient: Gradients there.
        best_loss: (N,) losses there.
    """

    where: Tensor
    x: Tensor
    delta: Tensor
    before: Tensor
    gradient: Tensor
    loss: Tensor
    rises: Tensor
    best_delta: Tensor
    best_gradient: Tensor
    best_loss: Tensor

    @classmethod
    def start(cls, where: Tensor, x: Tensor, delta: Tensor) -> Ascent:
        """Stand at delta, with nothing seen."""
        zero, nothing = torch.zeros_like(x), torch.zeros_like(x[:, 0, 0, 0])
        # The first loss is not a rise.
        return cls(where, x, delta, delta, zero, nothing + torch.inf, nothing, delta, zero, nothing - torch.inf)

    @property
    def x_adv(self) -> Tensor:
        """The images as they stand."""
        return (self.x + self.delta).clamp(0, 1)

    def see(self, loss: Tensor, gradient: Tensor) -> None:
        """Take note of loss (N,) and gradient at delta."""
        self.rises = self.rises + (loss > self.loss)
        self.loss, self.gradient = loss, gradient
        higher = loss > self.best_loss
        self.best_loss = torch.where(higher, loss, self.best_loss)
        self.best_delta = torch.where(column(higher), self.delta, self.best_delta)
        self.best_gradient = torch.where(column(higher), gradient, self.best_gradient)

    def go_back(self, mask: Tensor) -> None:
        """Go on from the highest point where mask (N,) holds."""
        self.delta = torch.where(column(mask), self.best_delta, self.delta)
        self.gradient = torch.where(column(mask), self.best_gradient, self.gradient)
        self.loss = torch.where(mask, self.best_loss, self.loss)

    def move_to(self, delta: Tensor) -> None:
        """Stand at delta."""
        self.before, self.delta = self.delta, delta


@dataclass
class Halving(Rows):
    """Steps of 2 eps with momentum, halved for each image at checkpoints at which it does not get on.

    Attributes:
        norm: Geometry of the steps.
        budget: Radius of the ball.
        size: (N,) lengths of the steps.
        halved: (N,) bool: halved at the last checkpoint.
        best_loss: (N,) highest loss by then.
    """

    norm: Norm
    budget: float
    size: Tensor
    halved: Tensor
    best_loss: Tensor

    @classmethod
    def start(cls, norm: str, budget: float, ascent: Ascent) -> Halving:
        """The rule before the first step."""
        size = torch.full_like(ascent.loss, 2 * budget)
        return cls(NORMS[norm], budget, size, torch.ones_like(size, dtype=torch.bool), ascent.best_loss)

    @staticmethod
    def checkpoints(steps: int) -> dict[int, int]:
        """Step numbers at which images are checked, with the steps since the last one: ever shorter windows."""
        window, at, found = max(22 * steps // 100, 1), 0, {}
        while at + window < steps:
            at += window
            found[at] = window
            window = max(window - max(3 * steps // 100, 1), 6 * steps // 100, 1)
        return found

    def check(self, ascent: Ascent, window: int) -> None:
        """Halve the step and go back to the highest point where too few steps rose, or an unhalved step gained none."""
        stuck = ~self.halved & (self.best_loss >= ascent.best_loss)
        self.halved = (ascent.rises <= RISES * window) | stuck
        self.best_loss = ascent.best_loss
        self.size = torch.where(self.halved, self.size / 2, self.size)
        ascent.rises = torch.zeros_like(ascent.rises)
        ascent.go_back(self.halved)

    def advance(self, ascent: Ascent, *, first: bool) -> None:
        """A projected step along the gradient, and a share of the last move."""
        inertia = 0.0 if first else INERTIA
        step = column(self.size) * self.norm.step(ascent.x_adv, ascent.gradient, 1.0)
        ahead = self.norm.project(ascent.x, ascent.delta + step, self.budget) - ascent.delta
        move = (1 - inertia) * ahead + inertia * (ascent.delta - ascent.before)
        ascent.move_to(self.norm.project(ascent.x, ascent.delta + move, self.budget))


@dataclass
class Sparsity(Rows):
    """Steps of eps shared by the largest gradients, as many as the best point is sparse.

    Attributes:
        norm: Geometry of the steps.
        budget: Radius of the ball.
        size: (N,) lengths of the steps.
        count: (N,) coordinates that share a step.
        support: (N,) coordinates that the best point changed at the last checkpoint.
    """

    norm: Norm
    budget: float
    size: Tensor
    count: Tensor
    support: Tensor

    @classmethod
    def start(cls, norm: str, budget: float, ascent: Ascent) -> Sparsity:
        """The rule before the first step."""
        size = torch.full_like(ascent.loss, budget)
        d = ascent.x[0].numel()
        return cls(NORMS[norm], budget, size, torch.full_like(size, FIRST_DENSITY * d), torch.full_like(size, d))

    @staticmethod
    def checkpoints(steps: int) -> dict[int, int]:
        """Step numbers at which images are checked, with the steps since the last one."""
        window = max(4 * steps // 100, 1)
        return {at: window for at in range(window, steps, window)}

    def check(self, ascent: Ascent, window: int) -> None:
        """Where the best point has grown sparser, full steps from there again; elsewhere shorter ones."""
        del window
        support = (ascent.best_delta.abs() > TOUCHING).flatten(1).sum(dim=1).to(self.support)
        sparser = support < 0.95 * self.support
        self.size = torch.where(sparser, self.budget, (self.size / SPARSER).clamp(min=self.budget / 10))
        self.count, self.support = support / SPARSER, support
        ascent.go_back(sparser)

    def advance(self, ascent: Ascent, *, first: bool) -> None:
        """A projected step along the signs of the largest gradients, down to one that the box leaves room for.

        Pixels that are at their bound already take part without a share: left out, they would lose in the projection
        what they must get back in the next step. Pixels that were at their bound in the image do not count.
        """
        del first
        gradient, x, x_adv = ascent.gradient.flatten(1), ascent.x.flatten(1), ascent.x_adv.flatten(1)
        room = torch.where(gradient > 0, 1 - x_adv, x_adv) > TOUCHING
        slope = gradient.abs() * (room | ((x_adv - x).abs() > TOUCHING))
        last = (self.count.long() - 1).clamp(0, gradient.shape[1] - 1)
        least = slope.sort(dim=1, descending=True).values.gather(1, last[:, None])
        least = torch.minimum(least, (slope * room).amax(dim=1, keepdim=True))
        signs = gradient.sign() * (slope >= least) * (slope > 0)
        shares = (signs.abs() * room).sum(dim=1).clamp(min=1)
        step = (signs * (self.size / shares)[:, None]).view_as(ascent.x)
        ascent.move_to(self.norm.project(ascent.x, ascent.delta + step, self.budget))


RULES: dict[str, type[Halving] | type[Sparsity]] = {"linf": Halving, "l2": Halving, "l1": Sparsity}
