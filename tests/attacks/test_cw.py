"""PGD on the margin: it goes on where the softmax is so sure that cross-entropy has no gradient left."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import Tensor
from toys import ids, images, lengths, linear_pair, margins, plain, run_attack, smooth_net

from rbfbench.attacks import ATTACKS
from rbfbench.attacks.oracle import Oracle
from rbfbench.attacks.rng import Keys


def test_it_breaks_a_saturated_softmax_on_which_cross_entropy_is_flat(device: torch.device) -> None:
    """Logits 1,000 apart: exp(-1000) is 0, and so is every gradient of the cross-entropy, not of the margin."""
    x = images(6, device).float()
    model, g = linear_pair(x)
    level = model(x).diff(dim=1)[:, 0].detach() + 50  # without the gap of the pair
    # A point halfway to the linf corner of radius 0.2 is on the border: the walk reaches it, a random start does not.
    room = torch.where(g > 0, 1 - x.flatten(1), x.flatten(1)).clamp(max=0.2)
    border = level + (g.abs() * room).sum(1) / 2
    assert (border - level > 1).all()

    def saturated(x: Tensor) -> Tensor:
        value = model(x).diff(dim=1)[:, 0] + 50 - border
        return 1e5 * torch.stack([torch.zeros_like(value), value], dim=1)

    y = torch.zeros(6, dtype=torch.int64, device=device)
    run = partial(run_attack, forward=plain(saturated), x=x, y=y, norm="linf", eps=0.2)
    by_cross_entropy, oracle = run("pgd", steps=100, loss="ce")
    assert (margins(saturated, by_cross_entropy, y) < -1000).all()
    assert (oracle.counts.flat == oracle.counts.looks).all()
    by_margin, oracle = run("cw")
    assert (margins(saturated, by_margin, y) > 0).all()
    assert (oracle.counts.flat == 0).all()
    assert lengths(by_margin - x, "linf").max() <= 0.2 + 1e-6


@pytest.mark.parametrize("restarts", [1, 2])
def test_it_is_pgd_on_the_margin(restarts: int, device: torch.device) -> None:
    model, x = smooth_net(4, device), images(5, device)
    y = model(x).argmax(1)
    keys = Keys.of(ids(5), 0)

    def run(name: str, **parameters: str | int) -> Tensor:
        x_adv: Tensor = ATTACKS[name].resolve()(
            Oracle(plain(model), None, 5), x, y, norm="linf", eps=0.1, rng=keys, restarts=restarts, **parameters
        )
        return x_adv

    assert torch.equal(run("cw"), run("pgd", steps=100, loss="margin"))
