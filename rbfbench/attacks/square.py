"""Square: random search in square windows, which asks for no slope and is misled by none."""

from __future__ import annotations

import math
from bisect import bisect_left

import torch
from torch import Tensor

from rbfbench.attacks.best import Best
from rbfbench.attacks.norms import SHRINK
from rbfbench.attacks.oracle import Oracle
from rbfbench.attacks.rng import Keys
from rbfbench.attacks.windows import SEARCHES, Luck

HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)  # of the windows' area, in ten thousandths of the queries
BLOCK = 50  # queries whose random numbers are drawn at once


def square(
    oracle: Oracle,
    x: Tensor,
    y: Tensor,
    *,
    norm: str,
    eps: float,
    rng: Keys,
    queries: int = 5000,
    p_init: float = 0.8,
    restarts: int = 1,
) -> Tensor:
    """Random search on the margin (Andriushchenko et al., arXiv 1912.00049, algorithm 1; for l1 arXiv 2103.01208).

    A change of one window is kept if it raises the margin. Windows shrink as queries are spent; each image has its
    own, and they reach every row and column. An image broken in an exact view asks no more.

    Args:
        oracle: View of the model for these images; it is asked for scores only, not for gradients.
        x: Clean images (N, C, H, W) in [0,1].
        y: (N,) true classes.
        norm: "linf", "l2" or "l1".
        eps: Radius of the ball.
        rng: Keys of these images.
        queries: Most passes for each image and restart.
        p_init: Share of the image that a window covers at first.
        restarts: Independent searches.

    Returns:
        The best candidate seen for each image (N, C, H, W).
    """
    search, budget, best = SEARCHES[norm], eps * SHRINK, Best(x, y)
    everyone = torch.arange(len(x), device=x.device)
    for restart in range(restarts):
        here, keys = Best(x, y), rng.fold("restart", restart)
        for query in range(queries):
            alive = everyone[~best.broken] if oracle.exact else everyone
            if len(alive) == 0:
                break
            if query % BLOCK == 0:
                luck = Luck.draw(keys.fold("block", query // BLOCK), BLOCK, x)
            if query == 0:
                x_adv = search.start(keys.fold("start"), x, budget)[alive]
            else:
                side = window_side(query, queries, p_init, *x.shape[2:])
                x_adv = search.move(x[alive], here.x_adv[alive], luck.of(alive, query % BLOCK), side, budget)
            logits = oracle[alive].logits(x_adv)
            for kept in (here, best):
                kept.offer(alive, x_adv, logits)
    return best.x_adv


def window_side(query: int, queries: int, p_init: float, height: int, width: int) -> int:
    """Side of the windows in this query; their area is halved where the authors' code does, rescaled to the budget."""
    halved = bisect_left(HALVINGS, 10_000 * query // queries)
    return max(1, min(round(math.sqrt(p_init / 2**halved * height * width)), height, width))
