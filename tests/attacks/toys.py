"""Toy models whose optimum is known, and independent solvers for it: nothing here uses the code under test's norms."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from rbfbench.attacks import ATTACKS
from rbfbench.attacks.oracle import Forward, Oracle
from rbfbench.attacks.rng import Keys

Array = NDArray[np.float64]
ORDER = {"linf": np.inf, "l2": 2, "l1": 1}
DUAL = {"linf": 1, "l2": 2, "l1": np.inf}
EXTREME = (-1.0, -0.6, -0.2, 0.0, 0.2, 0.6, 1.0)


class Linear(nn.Module):
    """z = W x + b over flattened images."""

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)
        self.bias = nn.Parameter(bias)

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1) @ self.weight.T + self.bias


class SmoothNet(nn.Module):
    """A smooth conv net with batch norm (with running statistics) and a left-behind submodule in training mode."""

    def __init__(self, classes: int, *, seed: int = 0, channels: int = 2) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.body = nn.Sequential(
                nn.Conv2d(channels, 6, 3, padding=1), nn.BatchNorm2d(6), nn.Tanh(), nn.Flatten(), nn.Dropout(0.0)
            )
            self.head = nn.Linear(6 * 5 * 5, classes)
            nn.init.normal_(self.head.weight, std=0.5)
            norm = self.body[1]
            assert isinstance(norm, nn.BatchNorm2d)
            assert norm.running_mean is not None
            norm.running_mean.normal_(std=0.1)
        self.eval()
        self.body[4].train()

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.body(4 * x - 2))
        return logits


def smooth_net(classes: int, device: torch.device, dtype: torch.dtype = torch.float64) -> SmoothNet:
    return SmoothNet(classes).to(device, dtype)


def images(n: int, device: torch.device, *, shape: tuple[int, ...] = (2, 5, 5), seed: int = 0) -> Tensor:
    """Images (float64) of which a third of the pixels are exactly 0 or 1, so that the box is active."""
    rng = np.random.default_rng(seed)
    x = rng.random((n, *shape))
    edge = rng.random(x.shape) < 1 / 3
    return torch.from_numpy(np.where(edge, x.round(), x)).to(device)


def ids(n: int) -> list[str]:
    return [f"{i}:toy" for i in range(n)]


def plain(model: Callable[[Tensor], Tensor]) -> Forward:
    """The view of a deterministic model."""
    return lambda x, keys: model(x)


def noisy(model: Callable[[Tensor], Tensor], sigma: float) -> Forward:
    """A view with keyed Gaussian noise on the pixels."""

    def forward(x: Tensor, keys: Keys | None) -> Tensor:
        assert keys is not None
        repeated = x.repeat_interleave(len(keys) // len(x), dim=0) if len(x) else x
        return model(repeated + sigma * keys.normal(tuple(x.shape[1:]), x))

    return forward


def linear_pair(x: Tensor, seed: int = 1, *, gap: float = 50.0) -> tuple[Linear, Tensor]:
    """A two-class linear model far from its border at x (class 0), and its margin gradient g = w_1 - w_0 (d,)."""
    rng = np.random.default_rng(seed)
    d = x[0].numel()
    weight = torch.from_numpy(rng.normal(size=(2, d))).to(x)
    # A zero entry and a tie: neither may be moved for nothing or break the order.
    weight[:, 0] = 0.0
    weight[:, 2] = weight[:, 1]
    model = Linear(weight, torch.tensor([gap, 0.0]).to(x))
    return model, (weight[1] - weight[0]).detach()


def run_attack(
    name: str,
    forward: Forward,
    x: Tensor,
    y: Tensor,
    *,
    norm: str,
    eps: float,
    names: list[str] | None = None,
    seed: int = 0,
    draws: int | None = None,
    exact: bool = True,
    max_rows: int = 10_000,
    **parameters: Any,
) -> tuple[Tensor, Oracle]:
    """Run an attack of the table; `draws` None means a view without noise."""
    keys = Keys.of(names if names is not None else ids(len(x)), seed)
    view_keys = None if draws is None else keys.fold("view")
    oracle = Oracle(forward, view_keys, len(x), draws=draws or 1, exact=exact, max_rows=max_rows)
    attack = ATTACKS[name].resolve()
    return attack(oracle, x, y, norm=norm, eps=eps, rng=keys.fold(name), **parameters), oracle


def short(name: str) -> dict[str, Any]:
    """Parameters that make an attack quick, whatever attacks the table gains."""
    small = {"steps": 4, "restarts": 2, "tries": 3, "targets": 2, "pairs": 3, "queries": 20}
    return {key: value for key, value in small.items() if key in ATTACKS[name].parameters}


def lengths(delta: Tensor, norm: str) -> Array:
    """||delta||_p of each image, in float64 numpy."""
    flat = delta.detach().cpu().double().flatten(1).numpy()
    return np.linalg.norm(flat, ord=ORDER[norm], axis=1)


def margins(model: Callable[[Tensor], Tensor], x: Tensor, y: Tensor) -> Array:
    """max_{i != y} z_i - z_y by a loop in numpy."""
    with torch.no_grad():
        logits = model(x).cpu().double().numpy()
    return np.array([np.delete(row, label).max() - row[label] for row, label in zip(logits, y.tolist(), strict=True)])


def best_move(norm: str, x: Array, g: Array, eps: float) -> Array:
    """Maximise <g, delta> over ||delta|| <= eps and x + delta in [0,1], for one flattened image, in closed form."""
    room = np.where(g > 0, 1 - x, np.where(g < 0, x, 0.0))
    if norm == "linf":
        return np.sign(g) * np.minimum(eps, room)
    move = np.zeros_like(x)
    if norm == "l1":
        for i in np.argsort(-np.abs(g), kind="stable"):
            move[i] = np.sign(g[i]) * min(room[i], max(eps - np.abs(move).sum(), 0.0))
        return move
    # l2: delta_i = sign(g_i) min(lam |g_i|, room_i). As lam grows, coordinates meet their room in the order room/|g|.
    moved = [i for i in range(len(x)) if abs(g[i]) > 1e-12 * np.abs(g).max()]  # the rest gains nothing and overflows
    left, free = eps**2, sorted(moved, key=lambda i: room[i] / abs(g[i]))
    g = g / max(np.abs(g).max(), 1e-300)  # squares of the smallest numbers would vanish
    while free:
        lam = np.sqrt(max(left, 0.0)) / np.linalg.norm(g[free])
        first = free[0]
        if lam * abs(g[first]) <= room[first]:
            move[free] = lam * g[free]
            return move
        move[first] = np.sign(g[first]) * room[first]
        left -= room[first] ** 2
        free = free[1:]
    return move


def grid(d: int, points: int = 21) -> Array:
    """All points of a grid on [-1, 1]^d."""
    axis = np.linspace(-1, 1, points)
    return np.array(list(itertools.product(axis, repeat=d)))
