"""Distributionally adversarial attacks against the paper's formulas, and as PGD where the particles do not interact."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from scipy.spatial.distance import pdist, squareform
from test_oracles import gains
from torch import Tensor
from toys import Array, ids, images, linear_pair, noisy, plain, run_attack, smooth_net

from rbfbench.attacks import ATTACKS
from rbfbench.attacks.daa import blob, dgf
from rbfbench.attacks.losses import LOSSES
from rbfbench.attacks.oracle import Forward, Oracle
from rbfbench.attacks.rng import Keys

NAMES = ["daa-blob", "daa-dgf"]
EVERY_FLOW = pytest.mark.parametrize("name", NAMES)
LOSS = pytest.mark.parametrize("loss", ["ce", "margin"])
PUBLISHED = {
    ("daa-blob", "ce"): 1.1,
    ("daa-blob", "margin"): 10,
    ("daa-dgf", "ce"): -0.001,
    ("daa-dgf", "margin"): -0.01,
}
STRONG = {"daa-blob": 1000.0, "daa-dgf": -30.0}  # the group decides most signs of the toys' steps


def particles(n: int, device: torch.device, d: int = 6, seed: int = 0) -> tuple[Tensor, Tensor]:
    rng = np.random.default_rng(seed)
    return torch.from_numpy(rng.random((n, d))).to(device), torch.from_numpy(rng.normal(size=(n, d))).to(device)


def in_key_order(n: int, seed: int = 0) -> Array:
    return Keys.of(ids(n), seed).images.argsort(kind="stable")


def same_start(name: str, forward: Forward, x: Tensor, y: Tensor, *, exact: bool, **parameters: Any) -> Tensor:
    """Any attack with the same keys of its own, unlike in a run."""
    keys = Keys.of(ids(len(x)), 0)
    oracle = Oracle(forward, keys.fold("view"), len(x), exact=exact)
    attack = ATTACKS[name].resolve()
    x_adv: Tensor = attack(oracle, x, y, norm="linf", eps=0.1, rng=keys.fold("own"), **parameters)
    return x_adv


# formulas -------------------------------------------------------------------------------------------------------------
def squares(theta: Tensor) -> Tensor:
    return ((theta[:, None] - theta[None]) ** 2).sum(2)


@pytest.mark.parametrize("n", [2, 3, 8])
def test_the_blob_kernel_is_symmetric_with_unit_diagonal_and_the_published_bandwidth(
    n: int, device: torch.device
) -> None:
    """The flow is linear in the gradients: unit ones give the columns of K / B. Float64 rounding is far below 1e-12."""
    theta, _ = particles(n, device, d=n)
    rest = blob(theta, torch.zeros_like(theta))
    kernel = n * (blob(theta, torch.eye(n, dtype=theta.dtype, device=device)) - rest).cpu().numpy()
    assert np.allclose(kernel, kernel.T, rtol=0, atol=1e-12)
    assert np.allclose(kernel.diagonal(), 1, rtol=0, atol=1e-12)
    squared = squareform(pdist(theta.cpu().numpy())) ** 2
    # exp(-D / 2h^2) with h^2 = med / (2 ln B) is B^(-D / med): 1 / B at the median, zeros of the diagonal included.
    assert np.allclose(kernel, n ** -(squared / np.median(squared)), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("n", [2, 3, 8])
def test_the_pull_of_blob_is_the_gradient_of_its_kernel(n: int, device: torch.device) -> None:
    """q_i = sum_j grad_{theta_j} K(theta_i, theta_j) at a fixed bandwidth, here by autograd."""
    theta, _ = particles(n, device)
    h2 = float(np.median(squares(theta).cpu().numpy())) / (2 * math.log(n))
    others = theta.clone().requires_grad_()
    for i in range(n):
        kernel = torch.exp(-((theta[i] - others) ** 2).sum(1) / (2 * h2))
        q = torch.autograd.grad(kernel.sum(), others)[0].sum(0)
        assert torch.allclose(blob(theta, torch.zeros_like(theta))[i], -q / n, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("n", [2, 3, 8])
def test_the_pull_of_dgf_is_the_gradient_of_its_kernel(n: int, device: torch.device) -> None:
    """(s - 1) exp(-s) (theta_i - theta_j) = h^2 grad_{theta_j} s exp(-s) with s = D / 2h^2."""
    theta, gradient = particles(n, device)
    h2 = float(np.median(squares(theta).cpu().numpy())) / (2 * math.log(n + 1))
    others = theta.clone().requires_grad_()
    for i in range(n):
        s = ((theta[i] - others) ** 2).sum(1) / (2 * h2)
        q = h2 * torch.autograd.grad((s * torch.exp(-s)).sum(), others)[0].sum(0)
        assert torch.allclose(dgf(theta, gradient)[i], q, rtol=1e-10, atol=1e-12)


def test_two_particles_by_hand(device: torch.device) -> None:
    """The median of (0, 0, D, D) is D / 2: K = 2^-2, h^2 = D / (4 ln 2); for dgf s = 2 ln 3, exp(-s) = 1/9."""
    theta, gradient = particles(2, device)
    way = theta[0] - theta[1]
    squared = (way**2).sum()
    expected = (gradient + gradient.flip(0) / 4) / 2 - math.log(2) / 2 / squared * torch.stack([way, -way])
    assert torch.allclose(blob(theta, gradient), expected, rtol=0, atol=1e-12)
    expected = (2 * math.log(3) - 1) / 9 * torch.stack([way, -way])
    assert torch.allclose(dgf(theta, gradient), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("flow", [blob, dgf])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_no_bandwidth_no_interaction(
    flow: Callable[[Tensor, Tensor], Tensor], dtype: torch.dtype, device: torch.device
) -> None:
    """One particle (ln 1 = 0), and particles all in one place (median 0)."""
    for n in (1, 2, 6):
        theta = torch.full((n, 5), 0.3, dtype=dtype, device=device)
        assert torch.equal(flow(theta, torch.ones_like(theta)), torch.zeros_like(theta))


@pytest.mark.parametrize("flow", [blob, dgf])
def test_a_coordinate_on_which_all_agree_is_not_moved_by_rounding(
    flow: Callable[[Tensor, Tensor], Tensor], device: torch.device
) -> None:
    """Signs are taken of the flow: 1e-17 would be a whole step."""
    theta, gradient = particles(9, device)
    theta[:, 2] = 0.7
    gradient[:, 2] = 0
    assert torch.equal(flow(theta, gradient)[:, 2], torch.zeros_like(theta[:, 2]))


# the walk -------------------------------------------------------------------------------------------------------------
def paper_term(name: str, theta: Array, gradient: Array) -> Array:
    """Transcription of the paper's updates in numpy, the factor c left out."""
    n = len(theta)
    squared = squareform(pdist(theta)) ** 2
    h2 = 0.5 * np.median(squared) / np.log(n if name == "daa-blob" else n + 1)
    kernel = np.exp(-squared / h2 / 2)
    if name == "daa-dgf":
        kernel = (squared / h2 / 2 - 1) * kernel
    q = np.array([sum(kernel[i, j] * (theta[i] - theta[j]) for j in range(n)) for i in range(n)])
    return q if name == "daa-dgf" else (kernel @ gradient - q / h2) / n


@EVERY_FLOW
@LOSS
@pytest.mark.parametrize("strong", [False, True], ids=["published", "strong"])
def test_the_walk_is_the_papers(name: str, loss: str, strong: bool, device: torch.device) -> None:
    n, eps, steps = 5, 0.2, 12
    model, x = smooth_net(4, device), images(n, device)
    y = torch.tensor([0, 1, 2, 3, 0], device=device)
    looks: list[Tensor] = []

    def watching(x: Tensor, keys: Keys | None) -> Tensor:
        looks.append(x.detach().clone())
        return model(x)

    weight = STRONG[name] if strong else None
    run_attack(name, watching, x, y, norm="linf", eps=eps, steps=steps, loss=loss, weight=weight)
    c = STRONG[name] if strong else PUBLISHED[name, loss]
    order = torch.from_numpy(in_key_order(n)).to(device)
    clean, labels = x[order], y[order]
    assert len(looks) == steps + 1
    point, by_the_group = looks[0], 0.0
    for look in looks:
        assert torch.allclose(look, point, rtol=0, atol=1e-6)  # the attack aims at eps (1 - 1e-6)
        leaf = look.clone().requires_grad_()
        gradient = torch.autograd.grad(LOSSES[loss](model(leaf), labels).sum(), leaf)[0].cpu().flatten(1).numpy()
        along = gradient + c * paper_term(name, look.cpu().flatten(1).numpy(), gradient)
        by_the_group += float((np.sign(along) != np.sign(gradient)).mean()) / len(looks)
        ahead = look + eps / 30 * torch.from_numpy(np.sign(along)).view_as(x).to(device)
        point = torch.minimum(torch.maximum(ahead, clean - eps), clean + eps).clamp(0, 1)
    if strong:
        assert by_the_group > 0.1


@EVERY_FLOW
@LOSS
@pytest.mark.parametrize(("exact", "restarts"), [(True, 1), (False, 2)])
def test_without_weight_it_is_pgd(name: str, loss: str, exact: bool, restarts: int, device: torch.device) -> None:
    """From the same starts, the same steps; only a batch in another order is rounded otherwise, by 1e-15."""
    model, x = smooth_net(4, device), images(6, device)
    y = model(x).argmax(1)
    walk = {"steps": 6, "step_size": 0.02, "restarts": restarts, "loss": loss, "exact": exact}
    for forward in (noisy(model, 0.0), noisy(model, 0.3)):
        pgd = same_start("pgd", forward, x, y, **walk)
        assert torch.allclose(same_start(name, forward, x, y, weight=0.0, **walk), pgd, rtol=0, atol=1e-9)
        assert not torch.allclose(same_start(name, forward, x, y, weight=STRONG[name], **walk), pgd, rtol=0, atol=1e-3)


@EVERY_FLOW
@LOSS
def test_a_particle_alone_is_attacked_by_pgd(name: str, loss: str, device: torch.device) -> None:
    model, x = smooth_net(4, device), images(1, device)
    y = model(x).argmax(1)
    walk = {"steps": 6, "step_size": 0.02, "loss": loss, "exact": True}
    pgd = same_start("pgd", plain(model), x, y, **walk)
    for weight in (None, STRONG[name]):
        assert torch.equal(same_start(name, plain(model), x, y, weight=weight, **walk), pgd)


@EVERY_FLOW
@LOSS
def test_it_reaches_the_optimum_of_a_linear_model(name: str, loss: str, device: torch.device) -> None:
    """All particles share one gradient, so that the kernel adds to it; with weight 0 sign steps end in the corner."""
    x = images(6, device)
    model, g = linear_pair(x, gap=20.0)
    y = torch.zeros(6, dtype=torch.int64, device=device)
    for eps in (0.05, 0.3, 2.0):
        x_adv, _ = run_attack(name, plain(model), x, y, norm="linf", eps=eps, steps=70, loss=loss, weight=0.0)
        reached, best = gains(x, x_adv, g, "linf", eps)
        assert (reached >= 0.999 * best).all()
        assert (reached <= best + 1e-9).all()


@EVERY_FLOW
@LOSS
def test_particles_attract_with_the_published_weights(name: str, loss: str, device: torch.device) -> None:
    """A model without any gradient: the group alone moves its images, in every coordinate towards each other."""
    x = 0.3 + 0.4 * images(2, device)
    y = torch.zeros(2, dtype=torch.int64, device=device)
    looks: list[Tensor] = []

    def constant(x: Tensor, keys: Keys | None) -> Tensor:
        looks.append(x.detach().clone())
        return torch.tensor([1.0, 0.0], dtype=x.dtype, device=device) + 0 * x.sum(dim=(1, 2, 3))[:, None]

    run_attack(name, constant, x, y, norm="linf", eps=0.2, steps=10, step_size=0.001, loss=loss)
    gaps = [(look[0] - look[1]).abs() for look in looks]
    # Both move by 0.001, ten times, where they neither cross nor reach the border of their balls.
    order = torch.from_numpy(in_key_order(2)).to(device)
    free = (gaps[0] > 0.05) & ((looks[0] - x[order]).abs() < 0.18).all(dim=0)
    assert free.sum() > 10
    assert torch.allclose((gaps[0] - gaps[-1])[free], torch.tensor(0.02, dtype=x.dtype, device=device))


# the group ------------------------------------------------------------------------------------------------------------
@EVERY_FLOW
@pytest.mark.parametrize("draws", [None, 3])
def test_neither_order_nor_max_rows_matter_but_the_company_does(
    name: str, draws: int | None, device: torch.device
) -> None:
    n = 11
    model, x, names = smooth_net(5, device), images(n, device), ids(n)
    y = model(x).argmax(1)
    rows: list[int] = []

    def forward(x: Tensor, keys: Keys | None) -> Tensor:
        logits = model(x) if draws is None else noisy(model, 0.1)(x, keys)
        rows.append(len(logits))
        return logits

    def run(where: list[int], max_rows: int = 10_000) -> Tensor:
        rows.clear()
        x_adv, oracle = run_attack(
            name,
            forward,
            x[where],
            y[where],
            norm="linf",
            eps=0.3,
            names=[names[i] for i in where],
            draws=draws,
            exact=False,
            max_rows=max_rows,
            steps=8,
            restarts=2,
            weight=STRONG[name],
        )
        assert oracle.counts.forwards.tolist() == [2 * 9 * (draws or 1)] * len(where)
        return x_adv

    whole = run(list(range(n)))
    shuffled = np.random.default_rng(0).permutation(n).tolist()
    # Float64 sums are rounded differently by a model that sees other batches, by 1e-15.
    assert torch.allclose(run(shuffled), whole[shuffled], rtol=0, atol=1e-9)
    for max_rows in (3, 10):
        assert torch.allclose(run(list(range(n)), max_rows), whole, rtol=0, atol=1e-9)
        assert max(rows) <= max_rows
    assert not torch.allclose(run(list(range(n - 1))), whole[:-1], rtol=0, atol=1e-3)


@EVERY_FLOW
def test_the_broken_stay_with_the_group_until_all_are(name: str, device: torch.device) -> None:
    """Two start misclassified, two cannot be: without the broken ones, those left would be moved otherwise."""
    x = images(4, device)
    model, _ = linear_pair(x, gap=100.0)
    run = partial(run_attack, name, plain(model), x, norm="linf", eps=0.2, steps=3, restarts=4)
    _, oracle = run(y=torch.tensor([1, 1, 0, 0], device=device))
    assert oracle.counts.forwards.tolist() == [16] * 4
    _, oracle = run(y=torch.ones(4, dtype=torch.int64, device=device))
    assert oracle.counts.forwards.tolist() == [4] * 4
    _, oracle = run(y=torch.ones(4, dtype=torch.int64, device=device), exact=False)
    assert oracle.counts.forwards.tolist() == [16] * 4


@EVERY_FLOW
def test_twins_that_end_in_one_corner_stay_finite(name: str, device: torch.device) -> None:
    """Equal dark images in float32: once all are in one place, the median distance is 0."""
    x = torch.zeros(6, 1, 28, 28, device=device)
    weight = torch.from_numpy(np.random.default_rng(5).normal(size=(2, 784))).to(x)
    y = torch.zeros(6, dtype=torch.int64, device=device)
    for n in (2, 6):
        looks: list[Tensor] = []

        def watching(x: Tensor, keys: Keys | None, looks: list[Tensor] = looks) -> Tensor:
            looks.append(x.detach().clone())
            return x.flatten(1) @ weight.T

        # So little weight that the model leads: the pull of blob grows as 1 / distance between twins.
        walk = {"steps": 40, "loss": "margin", "weight": 1e-6}
        x_adv, _ = run_attack(name, watching, x[:n], y[:n], norm="linf", eps=0.1, **walk)
        assert torch.equal(looks[-2], looks[-2][:1].expand_as(x_adv))
        assert torch.equal(looks[-1], looks[-2])
        assert torch.isfinite(x_adv).all()
