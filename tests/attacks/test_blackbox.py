"""Attacks that see decisions only: SPSA against the theory of its estimate, Square against its paper by other means."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor
from toys import (
    Array,
    Linear,
    best_move,
    ids,
    images,
    lengths,
    linear_pair,
    margins,
    noisy,
    plain,
    run_attack,
    smooth_net,
)

from rbfbench.attacks import ATTACKS
from rbfbench.attacks.losses import margin
from rbfbench.attacks.oracle import Forward, Oracle
from rbfbench.attacks.rng import Keys
from rbfbench.attacks.spsa import slope
from rbfbench.attacks.square import window_side
from rbfbench.attacks.windows import L1, L2, SEARCHES, Luck, Mass, Window

CELLS = [(name, norm) for name in ("spsa", "square") for norm in ATTACKS[name].norms]
EVERY_CELL = pytest.mark.parametrize(("name", "norm"), CELLS)
AIM = 1 - 1e-6  # attacks aim at this share of eps
SMALL: dict[str, dict[str, Any]] = {"spsa": {"steps": 3, "pairs": 4}, "square": {"queries": 28}}  # 28 passes both
LEVEL = 1e-3  # seeds are fixed: a true law fails once in a thousand seeds, and never again after it passed


def zeros(n: int, device: torch.device) -> Tensor:
    return torch.zeros(n, dtype=torch.int64, device=device)


def watched(model: Callable[[Tensor], Tensor]) -> tuple[Forward, list[Tensor]]:
    """A view of the model, and the points that it is shown, in order."""
    looks: list[Tensor] = []

    def forward(x: Tensor, keys: Keys | None) -> Tensor:
        assert not torch.is_grad_enabled()
        looks.extend(x.detach().clone())
        return model(x)

    return forward, looks


def shares(x: Tensor, x_adv: Tensor, g: Tensor, norm: str, eps: float) -> Array:
    """Gains of a linear loss as shares of the largest possible ones."""
    flat, moved, direction = (t.detach().cpu().numpy() for t in (x.flatten(1), (x_adv - x).flatten(1), g))
    return moved @ direction / np.array([direction @ best_move(norm, row, direction, eps) for row in flat])


# both -----------------------------------------------------------------------------------------------------------------
@EVERY_CELL
@pytest.mark.parametrize("mask", ["rounded", "saturated"])
def test_a_masked_gradient_stops_pgd_but_not_these(name: str, norm: str, mask: str, device: torch.device) -> None:
    """Half the gain of the best move breaks an image. Rounding has no slope, and the softmax of 10^6 is exactly one."""
    x = images(1, device).repeat(4, 1, 1, 1)  # four starts
    eps = {"linf": 0.1, "l2": 1.0, "l1": 5.0}[norm]
    _, g = linear_pair(x)
    flat, direction = x[0].flatten().cpu().numpy(), g.cpu().numpy()
    half = direction @ best_move(norm, flat, direction, eps) / 2

    def model(points: Tensor) -> Tensor:
        rounded, clean = ((32 * t.flatten(1)).round() / 32 if mask == "rounded" else t.flatten(1) for t in (points, x))
        level = rounded @ g - clean[0] @ g - half
        return torch.stack([torch.zeros_like(level), level if mask == "rounded" else 1e6 * level], dim=1)

    y = zeros(4, device)
    stopped, _ = run_attack("pgd", plain(model), x, y, norm=norm, eps=eps, restarts=5)
    assert (margins(model, stopped, y) < 0).all()
    work = {"spsa": {"steps": 50}, "square": {"queries": 1000}}[name]
    broken, _ = run_attack(name, plain(model), x, y, norm=norm, eps=eps, **work)
    assert (margins(model, broken, y) > 0).all()


@EVERY_CELL
def test_gradients_are_never_asked_for(name: str, norm: str, device: torch.device) -> None:
    model = smooth_net(4, device)
    forward, _ = watched(model)  # this checks that no graph is built
    x = images(3, device)
    _, oracle = run_attack(name, forward, x, model(x).argmax(1), norm=norm, eps=0.01, **SMALL[name])
    assert not ATTACKS[name].gradient
    assert oracle.counts.backwards.tolist() == oracle.counts.looks.tolist() == [0, 0, 0]


@EVERY_CELL
def test_the_best_point_of_the_walk_is_kept(name: str, norm: str, device: torch.device) -> None:
    """Steps as long as the ball is wide do not always end at their best; a pair's points are not of the walk."""
    model = smooth_net(4, device)
    x = images(1, device)
    eps = {"linf": 0.3, "l2": 2.0, "l1": 9.0}[norm]
    extra = {"lr": eps} if name == "spsa" else {}
    places = set()
    for image in ids(5):
        forward, looks = watched(model)
        run = {"norm": norm, "eps": eps, "names": [image], "exact": False, **SMALL[name], **extra}
        x_adv, _ = run_attack(name, forward, x, zeros(1, device), **run)
        assert len(looks) == 28
        walk = torch.stack(looks[:: 2 * SMALL[name].get("pairs", 0) + 1])
        reached = margins(model, walk, zeros(len(walk), device))
        assert torch.equal(x_adv[0], walk[int(reached.argmax())])
        places.add(int(reached.argmax()) - len(walk))
    assert places != {-1}, "too easy to show anything"


@EVERY_CELL
def test_a_broken_image_asks_no_more_if_the_view_is_exact(name: str, norm: str, device: torch.device) -> None:
    """Where the view is not exact nobody is spared; both walks are the same up to the first point that breaks."""
    model = smooth_net(4, device)
    eps = {"linf": 0.1, "l2": 0.7, "l1": 1.5}[norm]
    work = SMALL[name] | ({"lr": eps} if name == "spsa" else {})
    x = images(12, device)
    y = model(x).argmax(1)
    _, together = run_attack(name, plain(model), x, y, norm=norm, eps=eps, **work)
    spent = together.counts.forwards.tolist()
    for i, image in enumerate(ids(12)):
        forward, looks = watched(model)
        run = {"norm": norm, "eps": eps, "names": [image], "exact": False, **work}
        _, alone = run_attack(name, forward, x[i : i + 1], y[i : i + 1], **run)
        assert alone.counts.forwards.tolist() == [28]
        walk = range(0, 28, 2 * SMALL[name].get("pairs", 0) + 1)
        broken = [place for place in walk if margins(model, looks[place][None], y[i : i + 1])[0] > 0]
        assert spent[i] == (broken[0] + 1 if broken else 28)
    assert 28 in spent
    assert min(spent) < 28, "too hard to show anything"


@pytest.mark.parametrize(("queries", "spent"), [(4, 4), (5, 4), (10, 10), (12, 10), (13, 13), (9999, 28)])
def test_spsa_keeps_to_its_queries(queries: int, spent: int, device: torch.device) -> None:
    """A start, then 2 * 4 + 1 for each of three steps, the last with as many pairs as there is budget for."""
    model = smooth_net(4, device)
    x = images(3, device)
    cut = {"queries": queries, **SMALL["spsa"]}
    _, oracle = run_attack("spsa", plain(model), x, zeros(3, device), norm="linf", eps=0.01, exact=False, **cut)
    assert oracle.counts.forwards.tolist() == [spent] * 3
    assert ATTACKS["spsa"].passes(cut) == (min(queries, 28), 0)


# SPSA -----------------------------------------------------------------------------------------------------------------
def slopes(model: Forward, x: Tensor, pairs: int, *, noise: bool = False, delta: float = 0.01) -> Array:
    """Estimates of the slope at each image, with other directions for each."""
    keys = Keys.of(ids(len(x)), 0)
    oracle = Oracle(model, keys.fold("noise") if noise else None, len(x), max_rows=10**6)
    return slope(oracle, x, zeros(len(x), x.device), keys, pairs=pairs, delta=delta).flatten(1).cpu().numpy()


def test_slope_has_the_mean_and_the_variance_of_theory(device: torch.device) -> None:
    """Linear loss: no bias, and mean squared error (d - 1) ||g||^2 / pairs."""
    n, pairs = 3000, 4
    x = torch.full((n, 2, 5, 5), 0.5, dtype=torch.float64, device=device)
    model, g = linear_pair(x)
    error = slopes(plain(model), x, pairs) - g.cpu().numpy()
    total = float(g @ g)
    # In coordinate i the error is the sum over j of g_j v_i v_j: variance (||g||^2 - g_i^2) / pairs. Five sigma.
    sigma = np.sqrt((total - g.cpu().numpy() ** 2) / pairs / n)
    assert (np.abs(error.mean(0)) < 5 * sigma).all()
    # Squared errors vary by less than twice their mean: the mean of 3000 is within 4% of its expectation, and a
    # gradient d times too small, or divided by too many pairs, is far out.
    assert (error**2).sum(1).mean() == pytest.approx((50 - 1) * total / pairs, rel=0.2)
    assert np.allclose((error**2).mean(0), sigma**2 * n, rtol=0.2)


def test_slope_is_unbiased_at_the_bounds_and_keeps_to_the_box(device: torch.device) -> None:
    """A third of the pixels have room on one side only; there the model is asked at x itself and one step inside."""
    n = 3000
    x = images(1, device).repeat(n, 1, 1, 1)
    model, g = linear_pair(x)
    forward, looks = watched(model)
    error = slopes(forward, x, 4) - g.cpu().numpy()
    points = torch.stack(looks)
    assert points.min() == 0
    assert points.max() == 1
    # The errors of a coordinate with half the way are twice as large: no formula, but five of its standard errors.
    assert (np.abs(error.mean(0)) < 5 * error.std(0) / np.sqrt(n)).all()
    edge = ((x[0] == 0) | (x[0] == 1)).flatten().cpu().numpy()
    assert 5 < edge.sum() < 45
    assert error.std(0)[edge].mean() == pytest.approx(2 * error.std(0)[~edge].mean(), rel=0.1)


def test_slope_takes_fresh_noise_for_every_query(device: torch.device) -> None:
    """Pixel noise sigma on a linear loss adds 2 sigma^2 ||g||^2 / (2 delta)^2 to each coordinate of each pair.

    Noise shared by a pair would add nothing, noise shared by the pairs of an image as much as if there were one.
    """
    n, pairs, sigma, delta = 3000, 4, 0.03, 0.01
    x = torch.full((n, 2, 5, 5), 0.5, dtype=torch.float64, device=device)
    model, g = linear_pair(x)
    error = slopes(noisy(model, sigma), x, pairs, noise=True, delta=delta) - g.cpu().numpy()
    expected = (50 - 1 + 50 * 2 * sigma**2 / (2 * delta) ** 2) * float(g @ g) / pairs
    assert (error**2).sum(1).mean() == pytest.approx(expected, rel=0.2)


def test_slope_turns_to_the_gradient_as_pairs_grow(device: torch.device) -> None:
    """With error (d - 1) ||g||^2 / n in all but one direction the cosine is about 1 / sqrt(1 + (d - 1) / n)."""
    model = smooth_net(4, device)
    x = 0.2 + 0.6 * images(10, device)
    y = zeros(10, device)
    gradient = Oracle(plain(model), None, 10).value_and_grad(x, lambda z: margin(z, y)).gradient
    exact = gradient.flatten(1).cpu().numpy()
    for pairs in (10, 100, 3000):
        found = slopes(plain(model), x, pairs, delta=1e-3)
        cosine = (found * exact).sum(1) / np.linalg.norm(found, axis=1) / np.linalg.norm(exact, axis=1)
        # One cosine varies by about 1 / sqrt(2 d) = 0.1 where it is small, ten by 0.03.
        assert cosine.mean() == pytest.approx(1 / np.sqrt(1 + 49 / pairs), abs=0.1)
    assert cosine.min() > 0.98


def test_spsa_measures_at_the_perturbed_point(device: torch.device) -> None:
    """Every pair stands around the point reached so far, at delta in each coordinate, and each pair elsewhere."""
    model = smooth_net(4, device)
    x = torch.full((1, 2, 5, 5), 0.5, dtype=torch.float64, device=device)
    forward, looks = watched(model)
    run_attack("spsa", forward, x, zeros(1, device), norm="linf", eps=0.3, delta=0.02, exact=False, **SMALL["spsa"])
    points = torch.stack(looks)
    for here in (0, 9, 18):
        around, at = points[here + 1 : here + 9], points[here]
        assert lengths(points[here : here + 1] - x, "linf")[0] > 10 * 0.02  # far from the image
        assert torch.allclose((around[0::2] + around[1::2]) / 2, at.expand(4, -1, -1, -1), rtol=0, atol=1e-12)
        assert torch.allclose((around - at).abs(), torch.full_like(around, 0.02), rtol=0, atol=1e-12)
    signs = torch.cat([points[here + 1 : here + 9 : 2] - points[here] for here in (0, 9, 18)]).sign().flatten(1)
    # Sums of 50 products of signs: five standard errors are 35, so no direction comes twice or as its opposite.
    assert (signs @ signs.T - 50 * torch.eye(12).to(signs)).abs().max() < 36


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_spsa_reaches_the_optimum_of_a_linear_model(norm: str, device: torch.device) -> None:
    """With 128 pairs in 50 dimensions the estimate has a cosine of 0.85 to the gradient, so ten steps suffice.

    Walls hold a coordinate that drifts by r of its wandering near one of them: with steps of eps / 10 its mean is
    1 - 1 / (20 r) of the way, and r is one or more wherever the gradient is not far below its root mean square.
    """
    x = images(6, device)
    model, g = linear_pair(x)
    for eps in {"linf": (0.05, 0.3, 2.0), "l2": (0.3, 2.0, 30.0)}[norm]:
        x_adv, _ = run_attack("spsa", plain(model), x, zeros(6, device), norm=norm, eps=eps, pairs=128, steps=60)
        reached = shares(x, x_adv, g, norm, eps)
        assert (reached >= 0.95).all()
        assert (reached <= 1 + 1e-9).all()


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_spsa_does_not_depend_on_what_fits_into_a_pass(norm: str, device: torch.device) -> None:
    """Cuts into passes change neither directions nor noise; sums of eight terms in another order differ by 1e-15."""
    model = smooth_net(4, device)
    x, y = images(3, device), zeros(3, device)
    results, rows = {}, {}
    for max_rows in (10_000, 42, 17, 6, 1):
        sizes: list[int] = []

        def forward(x: Tensor, keys: Keys | None, sizes: list[int] = sizes) -> Tensor:
            logits = noisy(model, 0.1)(x, keys)
            sizes.append(len(logits))
            return logits

        results[max_rows], _ = run_attack(
            "spsa", forward, x, y, norm=norm, eps=0.1, draws=2, exact=False, max_rows=max_rows, steps=3, pairs=8
        )
        rows[max_rows] = max(sizes)
    for max_rows, x_adv in results.items():
        assert torch.allclose(x_adv, results[10_000], rtol=0, atol=1e-9)
        assert rows[max_rows] <= max(max_rows, 3)  # at least one draw of each image must fit
    assert rows[10_000] == 3 * 16 * 2
    assert rows[42] == 42 - 42 % 12  # whole pairs of two draws of three images


# Square ---------------------------------------------------------------------------------------------------------------
def squared(norm: str, eps: float, x: Tensor, queries: int, *, name: str = "0:toy") -> tuple[Tensor, Array]:
    """All points that Square looks at for one image, and their margins under a smooth net that is never broken."""
    net = smooth_net(4, x.device)
    forward, looks = watched(lambda points: net(points).cumsum(1))
    run_attack("square", forward, x, zeros(1, x.device), norm=norm, eps=eps, queries=queries, names=[name], exact=False)
    points = torch.stack(looks)
    with torch.no_grad():
        return points, margin(net(points).cumsum(1), zeros(len(points), x.device)).cpu().numpy()


def test_square_linf_moves_every_pixel_all_the_way(device: torch.device) -> None:
    """Each pixel of each candidate is at eps on one side or the other, or at the bound that is nearer."""
    x, eps = images(1, device), 0.2
    points, _ = squared("linf", eps, x, 60)
    up, down = torch.clamp(x + eps * AIM, max=1), torch.clamp(x - eps * AIM, min=0)
    assert torch.minimum((points - up).abs(), (points - down).abs()).max() < 1e-12
    first = points[0] - x[0]
    assert ((first > 0) == (first > 0)[:, :1])[:, :, (x[0] > 0).all(dim=(0, 1)) & (x[0] < 1).all(dim=(0, 1))].all()


@pytest.mark.parametrize("norm", ["l2", "l1"])
@pytest.mark.parametrize("middle", [True, False], ids=["middle", "edge"])
def test_square_l2_and_l1_spend_all_of_eps(norm: str, middle: bool, device: torch.device) -> None:
    x = torch.full((1, 2, 5, 5), 0.5, dtype=torch.float64, device=device) if middle else images(1, device)
    eps = 0.4
    points, _ = squared(norm, eps, x, 60)
    length = lengths(points - x, norm)
    assert length.max() <= eps * AIM + 1e-12
    if middle or norm == "l1":  # the box takes from an l2 perturbation what the next move gives back
        assert length.min() >= eps * AIM - 1e-9


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_square_goes_on_from_the_best_point_in_windows_that_shrink(norm: str, device: torch.device) -> None:
    """A candidate differs from the best one before it in one window (two under l2) and nowhere else.

    Under l1 the projection takes from everywhere, but only a window gains. So a worse candidate is never gone on from:
    the loss of what is kept does not fall.
    """
    x = torch.full((1, 2, 5, 5), 0.5, dtype=torch.float64, device=device)
    points, reached = squared(norm, 0.2, x, 200)
    accepted = 0
    for query in range(1, 200):
        best = int(reached[:query].argmax())
        accepted += best == query - 1
        changed = ((points[query] - points[best]).abs() > 1e-9).any(dim=0).cpu().numpy()
        side = window_side(query, 200, 0.8, 5, 5)
        if norm == "linf":
            rows, columns = changed.any(1).nonzero()[0], changed.any(0).nonzero()[0]
            assert 1 <= np.ptp(rows) + 1 <= side
            assert 1 <= np.ptp(columns) + 1 <= side
        elif norm == "l2":
            assert 1 <= changed.sum() <= 2 * max(side | 1, 3) ** 2
        else:
            gained = (points[query] - x[0]).abs() > (points[best] - x[0]).abs() + 1e-9
            assert gained.any(dim=0).sum() <= max(side | 1, 3) ** 2
    assert accepted > 10, "too few to show anything"


def test_windows_are_uniform_and_reach_every_border(device: torch.device) -> None:
    x = torch.zeros(4000, 1, 7, 9, device=device)
    places = Keys.of(ids(4000), 0).uniform((2,), x)
    for side in (1, 3, 7):
        window = Window.at(places, x, side)
        assert (window.inside.sum(dim=(1, 2, 3)) == side**2).all()
        for inside, size in ((window.inside.any(3)[:, 0], 7), (window.inside.any(2)[:, 0], 9)):
            corner = inside.to(torch.uint8).argmax(1).cpu().numpy()
            counts = np.bincount(corner, minlength=size - side + 1)
            assert len(counts) == size - side + 1
            assert len(counts) == 1 or stats.chisquare(counts).pvalue > LEVEL
    last = torch.tensor([[1 - 2**-24, 1 - 2**-24]], device=device)
    for size in (17, 28, 32, 224):  # float32 must not round the last corner out of the image
        inside = Window.at(last, torch.zeros(1, 1, size, size, device=device), 3).inside
        assert inside[0, 0, -3:, -3:].all()


def test_windows_shrink_as_the_authors_do_and_with_the_budget() -> None:
    """Shares of the area after 0, 11, 51, ... of 10,000 queries; a tenth of the budget takes a tenth of the time."""
    shares = {0: 1, 10: 1, 11: 2, 50: 2, 51: 4, 201: 8, 501: 16, 1001: 32, 2001: 64, 4001: 128, 6001: 256, 9999: 512}
    for query, halved in shares.items():
        assert window_side(query, 10_000, 0.8, 100, 100) == round(100 * np.sqrt(0.8 / halved))
    for query in range(1000):
        assert window_side(query, 1000, 0.8, 100, 100) == window_side(10 * query, 10_000, 0.8, 100, 100)
    assert window_side(0, 10, 0.8, 4, 100) == 4
    assert window_side(9, 10, 0.8, 5, 5) == 1


def pyramid(height: int, width: int) -> Array:
    """Squares around the middle, cut at the border, of heights 1, 1/4, 1/9, ..., on top of each other."""
    total = np.zeros((height, width))
    for k in range(max(height, width) // 2 + 1):
        rows = slice(max(height // 2 - k, 0), height // 2 + k + 1)
        total[rows, max(width // 2 - k, 0) : width // 2 + k + 1] += 1 / (k + 1) ** 2
    return total


def gathered(x: Array, x_adv: Array, luck: tuple[Array, Array], *, side: int, eps: float, p: int) -> Array:
    """Algorithm 3 for one image (C, H, W), by slices: the perturbation before the box."""
    size, (u, signs) = x.shape[1:], luck
    r1, c1, r2, c2 = (int(u[i] * (size[i % 2] - side + 1)) for i in range(4))
    first = (slice(r1, r1 + side), slice(c1, c1 + side))
    second = (slice(r2, r2 + side), slice(c2, c2 + side))
    moved = x_adv - x
    unused = max(eps**p - (np.abs(moved) ** p).sum(), 0)
    bump = np.zeros((side, side))
    for rows, sign in ((slice(0, side // 2), 1), (slice(side // 2, side), -1)):
        half = pyramid(*bump[rows].shape)
        bump[rows] = sign * half / np.linalg.norm(half.ravel(), p)
    bump = (bump.T if u[4] < 0.5 else bump) / np.linalg.norm(bump.ravel(), p)
    for channel, sign in zip(moved, signs, strict=True):
        union = np.zeros(size, bool)
        union[first] = union[second] = True
        available = ((np.abs(channel[union]) ** p).sum() + unused / len(moved)) ** (1 / p)
        bent = sign * bump + channel[first] / np.linalg.norm(channel[first].ravel(), p)
        channel[second] = 0
        channel[first] = (3 if p == 1 else 1) * available * bent / np.linalg.norm(bent.ravel(), p)
    return moved


@pytest.mark.parametrize(("norm", "mass"), [("l2", L2), ("l1", L1)])
@pytest.mark.parametrize("side", [3, 4, 7])
def test_square_moves_mass_as_its_paper_says(norm: str, mass: Mass, side: int, device: torch.device) -> None:
    rng = np.random.default_rng(side)
    x = torch.from_numpy(rng.random((8, 3, 7, 9))).to(device)
    eps = 0.5
    keys = Keys.of(ids(8), 0)
    search = SEARCHES[norm]
    x_adv = search.start(keys, x, eps)
    luck = Luck.draw(keys, 1, x).of(torch.arange(8, device=device), 0)
    found = search.move(x, x_adv, luck, side, eps)
    for i in range(8):
        clean, now, places, signs = (t[i].cpu().numpy() for t in (x, x_adv, luck.places, luck.signs))
        moved = gathered(clean, now, (places, signs), side=side | 1, eps=eps, p=mass.power)
        expected = torch.from_numpy(moved).to(x)
        expected = mass.settle(x[i : i + 1], expected[None], eps)
        assert torch.allclose(found[i : i + 1], expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize(("norm", "p"), [("l2", 2), ("l1", 1)])
def test_square_starts_with_tiles_of_equal_length(norm: str, p: int, device: torch.device) -> None:
    """Five to a side, centred, of both signs and both ways up. Under l1 the projection then takes the smallest."""
    x = torch.full((40, 2, 17, 22), 0.5, dtype=torch.float64, device=device)
    start = (SEARCHES[norm].start(Keys.of(ids(40), 0), x, 0.5) - x).cpu().numpy()
    assert np.allclose(np.linalg.norm(start.reshape(40, -1), p, axis=1), 0.5, rtol=0, atol=1e-9)
    tiles = start[:, :, 1:16, 0:21].reshape(40, 2, 5, 3, 7, 3).transpose(0, 1, 2, 4, 3, 5).reshape(-1, 9)
    assert np.allclose(np.linalg.norm(tiles, p, axis=1), 0.5 / (2 * 35) ** (1 / p), rtol=0, atol=1e-9)
    kinds, counts = np.unique(tiles.round(9), axis=0, return_counts=True)
    assert len(kinds) == 4
    assert stats.chisquare(counts).pvalue > LEVEL


def test_square_linf_reaches_the_optimum_of_a_linear_model(device: torch.device) -> None:
    """From 5% of the queries on, windows are single pixels of two channels: 25 places and four paints.

    The right paint comes with one query in 100, and 570 are left: 25 exp(-5.7) = 0.08 of 25 pixels miss theirs, and the
    paints that are half right have come before. Nine tenths is far below that.
    """
    x = images(6, device)
    model, g = linear_pair(x)
    for eps in (0.05, 0.3, 2.0):
        x_adv, _ = run_attack("square", plain(model), x, zeros(6, device), norm="linf", eps=eps, queries=600)
        reached = shares(x, x_adv, g, "linf", eps)
        assert (reached >= 0.9).all()
        assert (reached <= 1 + 1e-9).all()


@pytest.mark.parametrize("norm", ["l2", "l1"])
def test_square_finds_more_than_twice_what_chance_does(norm: str, device: torch.device) -> None:
    """A gradient of patches in 225 dimensions, where the best of 300 random points is far from any good one."""
    x = images(4, device, shape=(1, 15, 15))
    patches = np.kron(np.random.default_rng(0).normal(size=(5, 5)), np.ones((3, 3)))
    g = torch.from_numpy(patches).to(x).flatten()
    model = Linear(torch.stack([torch.zeros_like(g), g]), torch.tensor([1e4, 0.0]).to(x))
    run = {"norm": norm, "eps": {"l2": 3.0, "l1": 20.0}[norm]}
    searched, _ = run_attack("square", plain(model), x, zeros(4, device), queries=300, **run)
    guessed, _ = run_attack("noise", plain(model), x, zeros(4, device), tries=300, **run)
    assert (shares(x, searched, g, **run) > 2 * shares(x, guessed, g, **run)).all()


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_restarts_search_elsewhere_and_never_lose(norm: str, device: torch.device) -> None:
    model = smooth_net(4, device)
    x = images(5, device)
    y = model(x).argmax(1)
    run = {"norm": norm, "eps": 1e-3, "queries": 20}  # too small to break any
    reached = [margins(model, run_attack("square", plain(model), x, y, restarts=r, **run)[0], y) for r in (1, 2, 4)]
    assert (np.diff(reached, axis=0) >= 0).all()
    assert (reached[2] > reached[0]).any()
