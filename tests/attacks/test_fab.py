"""Least moves onto planes within the box against a certificate and linear programs; FAB against known distances.

A move is certified by the toys' closed-form maximiser: a shorter one could not gain as much. Everything is float64.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog
from torch import Tensor
from toys import DUAL, ORDER, Array, Linear, best_move, images, lengths, margins, plain, run_attack, smooth_net

from rbfbench.attacks.hyperplane import move_to_plane
from rbfbench.attacks.rng import Keys

EVERY_NORM = pytest.mark.parametrize("norm", list(ORDER))
QUICK = settings(max_examples=80, deadline=None, derandomize=True, database=None)

# Special values on purpose: pixels on the border, zero and tied weights. Weights and amounts are zero or at least 1e-3,
# so that the certificate is not about rounding.
pixels = st.one_of(st.sampled_from([0.0, 0.5, 1.0]), st.floats(0, 1, allow_subnormal=False))
weights = st.one_of(st.sampled_from([-1.0, 0.0, 0.25, 1.0]), st.floats(1e-3, 3), st.floats(-3, -1e-3))
amounts = st.one_of(st.sampled_from([0.0, 0.25, -0.25]), st.floats(1e-3, 5), st.floats(-5, -1e-3))


@st.composite
def problems(draw: st.DrawFn) -> tuple[Array, Array, float]:
    d = draw(st.integers(1, 6))
    x, w = (np.array(draw(st.lists(kind, min_size=d, max_size=d))) for kind in (pixels, weights))
    return x, w, draw(amounts)


def move(x: Array, w: Array, amount: float, norm: str) -> Array:
    row, normal = (torch.from_numpy(v).view(1, 1, 1, -1) for v in (x, w))
    return move_to_plane(row, normal, torch.tensor([amount], dtype=torch.float64), norm).numpy().reshape(-1)


def most(x: Array, w: Array) -> float:
    """The largest gain in the box."""
    return float(w @ best_move("linf", x, w, 1.0))


# onto a plane ---------------------------------------------------------------------------------------------------------
@EVERY_NORM
@QUICK
@given(problems())
def test_a_move_meets_the_plane_and_no_shorter_one_does(norm: str, problem: tuple[Array, Array, float]) -> None:
    x, w, amount = problem
    found, towards = move(x, w, amount, norm), np.sign(amount) * w
    assert (x + found >= -1e-15).all()
    assert (x + found <= 1 + 1e-15).all()
    if most(x, towards) < abs(amount):
        # All room does not suffice: the corner nearest to the plane.
        assert np.allclose(towards @ found, most(x, towards), rtol=0, atol=1e-9)
        return
    assert abs(w @ found - amount) <= 1e-9
    if amount == 0:
        assert not found.any()
        return
    # The most that a ball gains grows with its radius until the box is full: a shorter move must fall short.
    shorter = best_move(norm, x, towards, float(np.linalg.norm(found, ord=ORDER[norm])) * (1 - 1e-6))
    assert towards @ shorter < abs(amount) - 1e-13


@pytest.mark.parametrize("norm", ["linf", "l1"])
def test_moves_solve_the_linear_program(norm: str) -> None:
    """Least t or least sum of a_i with |delta_i| <= t or a_i: as SciPy's simplex sees it, in seven dimensions."""
    rng = np.random.default_rng(4)
    d = 7
    for _ in range(25):
        x = np.where(rng.random(d) < 0.4, rng.integers(2, size=d), rng.random(d))
        w = rng.normal(size=d)
        amount = float(rng.uniform(0.1, 0.95) * most(x, w))
        bounds = [(-a, 1 - a) for a in x]
        eye, extra = np.eye(d), np.eye(d) if norm == "l1" else np.ones((d, 1))
        solved = linprog(
            np.r_[np.zeros(d), np.ones(extra.shape[1])],
            A_ub=np.block([[eye, -extra], [-eye, -extra]]),
            b_ub=np.zeros(2 * d),
            A_eq=np.r_[w, np.zeros(extra.shape[1])][None],
            b_eq=[amount],
            bounds=bounds + [(0, None)] * extra.shape[1],
        )
        found = move(x, w, amount, norm)
        assert np.linalg.norm(found, ord=ORDER[norm]) == pytest.approx(solved.fun, abs=1e-9)


@EVERY_NORM
@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_a_batch_of_planes_is_a_loop_at_any_scale(norm: str, scale: float, device: torch.device) -> None:
    """Float32, where squares of 1e-30 vanish and of 1e30 overflow; the plane is the same at every scale."""
    x = images(6, device).float()
    w = images(6, device, seed=1).float() - 0.5
    w[2] = 0.0
    amount = torch.tensor([0.5, -0.5, 1.0, 0.0, 1e3, 2.0], device=device)
    whole = move_to_plane(x, w * scale, amount * scale, norm)
    assert torch.equal(whole[2:4], torch.zeros_like(whole[2:4]))
    for i in range(6):
        alone = move_to_plane(x[i : i + 1], w[i : i + 1], amount[i : i + 1], norm)
        assert torch.allclose(whole[i : i + 1], alone, rtol=1e-4, atol=1e-6)  # float32 sums over 50 coordinates
    gained = (whole * w).flatten(1).sum(1)
    assert torch.allclose(gained[[0, 1, 5]], amount[[0, 1, 5]], rtol=1e-4)


# known distances ------------------------------------------------------------------------------------------------------
def linear(x: Tensor, classes: int, distance: float, norm: str) -> tuple[Linear, Tensor, Array]:
    """A linear model on which the image x (one) is right, and its nearest border (without the box) at `distance`."""
    rng = np.random.default_rng(classes)
    weight = torch.from_numpy(rng.normal(size=(classes, x[0].numel()))).to(x)
    reach = np.array([np.linalg.norm(g, ord=DUAL[norm]) for g in (weight[1:] - weight[0]).cpu().numpy()])
    away = distance * np.r_[1.0, rng.uniform(1.0, 2.0, classes - 2)]
    with torch.no_grad():
        level = (x.flatten(1) @ (weight[1:] - weight[0]).T)[0]
    bias = torch.cat([torch.zeros(1).to(x), -level - torch.from_numpy(away * reach).to(x)])
    return Linear(weight, bias), torch.zeros(1, dtype=torch.int64, device=x.device), away


@EVERY_NORM
@pytest.mark.parametrize("classes", [2, 3, 10])
def test_fab_finds_the_distance_to_the_nearest_border(norm: str, classes: int, device: torch.device) -> None:
    """Least over classes of |m_k| / ||g_k||_q. What is left is the final search's: 1/4000, and 1e-4 of the margin."""
    x = 0.3 + 0.4 * images(1, device)
    distance = 0.15  # all of it may go into one coordinate
    model, y, away = linear(x, classes, distance, norm)
    x_adv, _ = run_attack("fab-t", plain(model), x, y, norm=norm, eps=0.0, steps=10)
    assert margins(model, x_adv, y)[0] > 0
    assert away.min() <= lengths(x_adv - x, norm)[0] * (1 + 1e-12)
    assert lengths(x_adv - x, norm)[0] <= 1.001 * away.min()
    # So its success begins at the distance: not at .98 of it, and surely at 1.02.
    assert 0.98 * distance < lengths(x_adv - x, norm)[0] < 1.02 * distance


@EVERY_NORM
def test_fab_finds_the_distance_where_the_box_is_active(norm: str, device: torch.device) -> None:
    """The reference is the radius at which the best move within the box makes up for the margin, by bisection."""
    x = images(3, device)
    for i in range(3):
        # A third to nine tenths of what the box allows at all: most coordinates are at their bound in the end.
        model, y, _ = linear(x[i : i + 1], 2, 1.0, norm)
        g = (model.weight[1] - model.weight[0]).detach().cpu().numpy()
        flat = x[i].flatten().cpu().numpy()
        away = (0.3 + 0.3 * i) * most(flat, g)
        with torch.no_grad():
            model.bias[1] = -float(flat @ g) - away
        low, high = 0.0, 60.0
        for _ in range(60):
            middle = (low + high) / 2
            enough = g @ best_move(norm, flat, g, middle) >= away
            low, high = (low, middle) if enough else (middle, high)
        x_adv, _ = run_attack("fab-t", plain(model), x[i : i + 1], y, norm=norm, eps=0.0, steps=50)
        found = lengths(x_adv - x[i : i + 1], norm)[0]
        assert margins(model, x_adv, y)[0] > 0
        # The overshoot of 5% is clipped where the box is met, which the zigzag does not quite make up for.
        assert high * (1 - 1e-9) <= found <= high * 1.005


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_fab_walks_along_a_curved_border(norm: str, device: torch.device) -> None:
    """Class 1 is outside a circle: R - r away under l2; under linf where both coordinates have moved by the same."""
    centre = torch.tensor([0.5, 0.45], dtype=torch.float64, device=device)

    def circle(x: Tensor) -> Tensor:
        value = ((x.flatten(1) - centre) ** 2).sum(1) - 0.3**2
        return torch.stack([torch.zeros_like(value), value], dim=1)

    x = torch.tensor([[0.55, 0.6], [0.52, 0.3]], dtype=torch.float64, device=device).view(2, 1, 1, 2)
    y = torch.zeros(2, dtype=torch.int64, device=device)
    a, b = (x.flatten(1) - centre).abs().cpu().numpy().T
    if norm == "l2":
        exact = 0.3 - np.hypot(a, b)
    else:  # (a + t)^2 + (b + t)^2 = R^2
        exact = (-(a + b) + np.sqrt((a + b) ** 2 - 2 * (a**2 + b**2 - 0.3**2))) / 2
    x_adv, _ = run_attack("fab-t", plain(circle), x, y, norm=norm, eps=0.0)
    assert (margins(circle, x_adv, y) > 0).all()
    found = lengths(x_adv - x, norm)
    assert (found >= exact * (1 - 1e-12)).all()
    assert (found <= 1.005 * exact).all()  # overshoot of .5% at the end of its zigzag, less what the search takes back


def test_each_step_is_that_of_the_algorithm(device: torch.device) -> None:
    """Algorithm 1 of arXiv 1907.02044 under l2, away from the box, where projections onto planes are one line."""

    def hole(x: Tensor) -> Tensor:
        """Class 1 in a small circle: linearised borders fall short of it."""
        value = 0.1**2 - ((x.flatten(1) - 0.5) ** 2).sum(1)
        return torch.stack([torch.zeros_like(value), value], dim=1)

    net, far = smooth_net(2, device), torch.tensor([0.52, 0.8], dtype=torch.float64, device=device)
    crossed = set()
    for model, x in ((net, 0.4 + 0.2 * images(1, device)), (hole, far.view(1, 1, 1, 2))):
        y = model(x).argmax(1)
        looks: list[Tensor] = []

        def watching(x: Tensor, keys: Keys | None, model: Any = model, looks: list[Tensor] = looks) -> Tensor:
            looks.append(x.detach().clone())
            logits: Tensor = model(x)
            return logits

        run_attack("fab-t", watching, x, y, norm="l2", eps=0.0, steps=8, alpha_max=0.2, eta=1.02, beta=0.8)
        starts, ends = looks[1:17:2], looks[2:17:2]
        for i in range(8):
            leaf = starts[i].clone().requires_grad_()
            gap = (model(leaf)[0, 1 - y] - model(leaf)[0, y])[0]
            w = torch.autograd.grad(gap, leaf)[0]
            unit, gap = w / (w * w).sum(), gap.detach()
            here, there = -gap * unit, ((w * (leaf - x)).sum() - gap).detach() * unit
            alpha = min(float(here.norm() / (here.norm() + there.norm())), 0.2)
            mixed = (1 - alpha) * (starts[i] + 1.02 * here) + alpha * (x + 1.02 * there)
            assert torch.allclose(ends[i], mixed, rtol=0, atol=1e-12)
            wrong = bool(margins(model, mixed, y)[0] > 0)
            if i < 7:
                assert torch.allclose(starts[i + 1], x + (0.8 if wrong else 1.0) * (mixed - x), rtol=0, atol=1e-12)
            crossed.add(wrong)
    assert crossed == {False, True}  # both ways to go on were taken


# what it keeps --------------------------------------------------------------------------------------------------------
@EVERY_NORM
def test_fab_keeps_the_nearest_point_that_it_saw_misclassified(norm: str, device: torch.device) -> None:
    model = smooth_net(10, device)
    x = images(4, device)
    y = model(x).argmax(1)
    looks: list[Tensor] = []

    def watching(x: Tensor, keys: Keys | None) -> Tensor:
        if len(x) == 4:
            looks.append(x.detach().clone())
        return model(x)

    x_adv, _ = run_attack("fab-t", watching, x, y, norm=norm, eps=0.0, steps=15, targets=3)
    assert (margins(model, x_adv, y) > 0).all()
    walk = looks[: 1 + 3 * 15 * 2]  # the final search only takes what is misclassified by more than a hair
    seen = np.array([np.where(margins(model, look, y) > 0, lengths(look - x, norm), np.inf) for look in walk])
    assert (lengths(x_adv - x, norm) <= seen.min(0) * (1 + 1e-12)).all()
    assert (lengths(x_adv - x, norm) >= 0.5 * seen.min(0)).all()


def test_a_class_out_of_reach_leaves_the_image(device: torch.device) -> None:
    x = images(1, device)
    model, y, _ = linear(x, 2, 1e4, "l2")
    for norm in ORDER:
        x_adv, _ = run_attack("fab-t", plain(model), x, y, norm=norm, eps=0.3, steps=5, restarts=3)
        assert torch.equal(x_adv, x)


@EVERY_NORM
def test_more_restarts_and_more_targets_are_never_farther(norm: str, device: torch.device) -> None:
    """What came before is repeated to the bit, on a model so rough that the likeliest target is not the nearest."""
    x = images(8, device)
    rng = np.random.default_rng(1)
    inner, outer = (torch.from_numpy(rng.normal(size=size)).to(device) for size in ((50, 40), (40, 10)))
    outer = outer * torch.logspace(-1, 0.5, 10).to(x)

    def rough(x: Tensor) -> Tensor:
        return torch.sin(10 * x.flatten(1) @ inner) @ outer

    y = rough(x).argmax(1)

    def distances(restarts: int, targets: int) -> Array:
        settings = {"norm": norm, "eps": 0.0, "steps": 2, "restarts": restarts, "targets": targets}
        x_adv, _ = run_attack("fab-t", plain(rough), x, y, **settings)
        return np.where(margins(rough, x_adv, y) > 0, lengths(x_adv - x, norm), np.inf)

    for series in ([(1, 2), (2, 2), (4, 2)], [(1, 1), (1, 3), (1, 9), (1, 50)]):
        found = np.array([distances(*setting) for setting in series])
        # The search along another segment may end up to 1/4000 and 1e-4 of the margin short of its border.
        assert (found[1:] <= found[:-1] * 1.001).all()
    assert (found[-1] < found[0] * 0.99).any(), "too easy to show anything"


@EVERY_NORM
def test_a_restart_gets_off_a_plateau(norm: str, device: torch.device) -> None:
    """No gradient at the image: from there nothing moves. A start elsewhere finds the border all around it."""
    x = torch.full((3, 2, 5, 5), 0.5, dtype=torch.float64, device=device)
    y = torch.zeros(3, dtype=torch.int64, device=device)

    def plateau(x: Tensor) -> Tensor:
        value = torch.relu((x - 0.5).abs().flatten(1) - 1e-3).sum(1) - 0.2
        return torch.stack([torch.zeros_like(value), value], dim=1)

    run = partial(run_attack, "fab-t", plain(plateau), x, y, norm=norm, eps=0.0, steps=10)
    assert torch.equal(run()[0], x)
    assert (margins(plateau, run(restarts=2)[0], y) > 0).all()


def test_the_budget_means_nothing(device: torch.device) -> None:
    model = smooth_net(4, device)
    x = images(3, device)
    y = model(x).argmax(1)
    runs = [
        run_attack("fab-t", plain(model), x, y, norm="l2", eps=e, steps=4, restarts=2)[0] for e in (0.0, 0.1, 100.0)
    ]
    assert all(torch.equal(run, runs[0]) for run in runs)


# cost -----------------------------------------------------------------------------------------------------------------
def test_images_already_misclassified_cost_one_pass_and_are_their_own_candidates(device: torch.device) -> None:
    model = smooth_net(10, device)
    x = images(3, device)
    y = model(x).argmax(1)
    y[1] = (y[1] + 1) % 10
    common = {"norm": "l2", "eps": 0.0, "steps": 3, "targets": 2}
    x_adv, oracle = run_attack("fab-t", plain(model), x, y, **common)
    assert torch.equal(x_adv[1], x[1])
    assert oracle.counts.forwards.tolist() == [1 + 2 * 2 * 3 + 12, 1, 1 + 2 * 2 * 3 + 12]
    # A view that does not decide like the model cannot know: nobody is spared.
    _, oracle = run_attack("fab-t", plain(model), x, y, exact=False, **common)
    assert (oracle.counts.backwards == 6).all()


@pytest.mark.parametrize(("classes", "targets"), [(2, 1), (3, 2), (4, 3), (100, 9)])
def test_few_classes_have_fewer_targets(classes: int, targets: int, device: torch.device) -> None:
    model = smooth_net(classes, device)
    x = images(2, device)
    y = model(x).argmax(1)
    x_adv, oracle = run_attack("fab-t", plain(model), x, y, norm="linf", eps=0.0, steps=4)
    assert oracle.counts.backwards.tolist() == [4 * targets] * 2
    assert (margins(model, x_adv, y) > 0).all()
