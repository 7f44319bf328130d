"""Attacks on models whose answer is known: closed-form optima, hidden shells, transcriptions, exact expectations."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor
from toys import (
    DUAL,
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

from rbfbench.attacks.losses import LOSSES, cross_entropy, margin
from rbfbench.attacks.oracle import Oracle
from rbfbench.attacks.rng import Keys

NORMS = ("linf", "l2", "l1")
BUDGETS = {"linf": (0.05, 0.3, 2.0), "l2": (0.3, 2.0, 30.0), "l1": (0.5, 6.0, 400.0)}  # the last is more than the box
LOSS = pytest.mark.parametrize("loss", ["ce", "margin"])


def gains(x: Tensor, x_adv: Tensor, g: Tensor, norm: str, eps: float) -> tuple[Array, Array]:
    """Gain <g, delta> reached, and the largest one possible, for each image."""
    flat, moved, direction = (t.detach().cpu().numpy() for t in (x.flatten(1), (x_adv - x).flatten(1), g))
    best = np.array([direction @ best_move(norm, row, direction, eps) for row in flat])
    return moved @ direction, best


def accuracy_of(model: Callable[[Tensor], Tensor], x: Tensor, y: Tensor) -> float:
    return float((margins(model, x, y) <= 0).mean())


# closed-form optima -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("norm", NORMS)
@LOSS
def test_fgsm_is_the_optimum_of_a_linear_model(norm: str, loss: str, device: torch.device) -> None:
    x = images(6, device)
    # For cross-entropy the border may not be so far that its gradient underflows; where it is does not matter.
    model, g = linear_pair(x, gap=5.0)
    y = torch.zeros(6, dtype=torch.int64, device=device)
    for eps in BUDGETS[norm]:
        # Attacks aim at eps (1 - 1e-6): against the optimum of that budget the float64 solution is exact to 1e-9.
        x_adv, _ = run_attack("fgsm", plain(model), x, y, norm=norm, eps=eps, loss=loss)
        reached, best = gains(x, x_adv, g, norm, eps * (1 - 1e-6))
        assert np.allclose(reached, best, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("name", "norm", "share", "walk"),
    # Sign steps end in the corner. On the l2 sphere the angle theta to the optimum shrinks as
    # tan(theta / 2) = exp(-travel / eps): the default travel of 2.5 eps ends at cos = tanh(2.5) = 0.987 from a random
    # start, while 10 eps leave 1e-8, and the box adds coordinates that must reach their bound.
    [
        ("pgd", "linf", 0.999, {}),
        ("pgd", "l2", 0.9999, {"steps": 100, "random_start": False}),
        ("pgd", "l2", 0.9999, {"steps": 100, "step_size": 0.1}),
        ("pgd", "l2", 0.95, {}),
        ("mi-fgsm", "linf", 0.999, {}),
    ],
)
@LOSS
def test_iterated_attacks_reach_the_optimum_of_a_linear_model(
    name: str, norm: str, share: float, walk: dict[str, Any], *, loss: str, device: torch.device
) -> None:
    x = images(6, device)
    model, g = linear_pair(x, gap=20.0)
    y = torch.zeros(6, dtype=torch.int64, device=device)
    # A budget beyond the whole box is for signs: l2 steps move a coordinate by its share of the gradient, so those with
    # almost none are not at their bound after any fixed number of steps.
    for eps in BUDGETS[norm][: 3 if norm == "linf" else 2]:
        scaled = walk | ({"step_size": walk["step_size"] * eps} if "step_size" in walk else {})
        x_adv, _ = run_attack(name, plain(model), x, y, norm=norm, eps=eps, loss=loss, **scaled)
        reached, best = gains(x, x_adv, g, norm, eps)
        assert (reached >= share * best).all()
        assert (reached <= best + 1e-9).all()  # nobody beats the optimum: the solver itself is under test here


@pytest.mark.parametrize("dark", [True, False], ids=["dark", "natural"])
def test_pgd_l1_reaches_the_optimum_of_a_linear_model(dark: bool, device: torch.device) -> None:
    """At the budget of the paper on MNIST; steps of 1% of the coordinates leave the last ones between two values."""
    x = images(2, device, shape=(1, 28, 28), seed=3)
    x = (x > 0.8).to(x) if dark else 0.1 + 0.8 * x
    model, g = linear_pair(x, gap=20.0)
    y = torch.zeros(2, dtype=torch.int64, device=device)
    eps = 15.0 if dark else 5.0
    x_adv, _ = run_attack("pgd", plain(model), x, y, norm="l1", eps=eps, loss="margin", steps=100)
    reached, best = gains(x, x_adv, g, "l1", eps)
    assert (reached >= 0.995 * best).all()
    assert (reached <= best + 1e-9).all()


@pytest.mark.parametrize("eps", [2.0, 6.0])
def test_pgd_l1_does_not_stall_on_small_images(eps: float, device: torch.device) -> None:
    """One percent of 50 coordinates is one, the optimum fills four to twelve: the walk must get past the first."""
    x = images(6, device)
    model, g = linear_pair(x, gap=20.0)
    y = torch.zeros(6, dtype=torch.int64, device=device)
    x_adv, _ = run_attack("pgd", plain(model), x, y, norm="l1", eps=eps, loss="margin", steps=100)
    reached, best = gains(x, x_adv, g, "l1", eps)
    assert (reached >= 0.98 * best).all()


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("name", ["fgsm", "pgd"])
def test_success_begins_at_the_distance_to_the_border(name: str, norm: str, device: torch.device) -> None:
    """Away from the box the least norm that changes the label is |m| / ||g||_q, q the dual exponent."""
    x = 0.3 + 0.4 * images(6, device)
    weight = torch.from_numpy(np.random.default_rng(2).normal(size=(2, 50))).to(x)
    g = (weight[1] - weight[0]).cpu().numpy()
    room = 0.2  # all of it may go into one coordinate
    distance = np.linspace(0.3, 0.9, 6) * room
    with torch.no_grad():
        level = -(x.flatten(1) @ weight.T).diff(dim=1)[:, 0]
    for i in range(6):
        bias = float(level[i]) - distance[i] * np.linalg.norm(g, ord=DUAL[norm])
        model = Linear(weight, torch.tensor([0.0, bias]).to(x))
        y = torch.zeros(1, dtype=torch.int64, device=device)
        for factor, broken in ((0.98, False), (1.02, True)):
            eps = factor * distance[i]
            # Steps that travel 4 eps in all: see above why the default of 2.5 is 1.3% short of the optimum under l2.
            walk = {"step_size": eps / 10} if name == "pgd" else {}
            x_adv, _ = run_attack(name, plain(model), x[i : i + 1], y, norm=norm, eps=eps, **walk)
            assert bool(margins(model, x_adv, y)[0] > 0) == broken


@pytest.mark.parametrize("name", ["pgd", "mi-fgsm"])
@pytest.mark.parametrize("norm", NORMS)
def test_a_point_passed_on_the_way_is_not_lost(name: str, norm: str, device: torch.device) -> None:
    """Fooled only in a shell between start and end; the gradient leads on through it, so the last iterate is right."""
    x = torch.full((3, 2, 5, 5), 0.5, dtype=torch.float64, device=device)
    direction = torch.linspace(1, 2, 50, dtype=x.dtype, device=device)
    eps = {"linf": 0.3, "l2": 0.45, "l1": 0.45}[norm]
    end = float(direction.cpu().numpy() @ best_move(norm, x[0].flatten().cpu().numpy(), direction.cpu().numpy(), eps))

    def shell(x: Tensor) -> Tensor:
        way = (x - 0.5).flatten(1) @ direction / end
        inside = ((way > 0.4) & (way < 0.7)).to(x)
        # Value: wrong inside the shell only. Gradient: always on.
        value = (2 * inside - 1) + way - way.detach()
        return torch.stack([torch.zeros_like(value), value], dim=1)

    y = torch.zeros(3, dtype=torch.int64, device=device)
    start = {"random_start": False} if name == "pgd" else {}
    ends: list[Tensor] = []

    def watching(x: Tensor, keys: Keys | None) -> Tensor:
        ends.append(x.detach().clone())
        return shell(x)

    # step_size eps / steps and an l1 step of one coordinate: 20 steps cannot jump over a shell of 30% of the way.
    step = {"step_size": eps / 20} if name == "pgd" else {}
    x_adv, _ = run_attack(name, watching, x, y, norm=norm, eps=eps, steps=20, **start, **step)
    assert (margins(shell, x_adv, y) > 0).all()
    assert (margins(shell, ends[0], y) < 0).all()
    assert (margins(shell, ends[-1], y) < 0).all()


# losses and gradients -----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("classes", [2, 3, 100])
def test_losses_equal_numpy_also_where_all_logits_are_negative(classes: int, device: torch.device) -> None:
    rng = np.random.default_rng(classes)
    z, labels = rng.normal(size=(40, classes)) - 50, rng.integers(classes, size=40)
    logits, y = torch.from_numpy(z).to(device), torch.from_numpy(labels).to(device)
    others = np.array([np.delete(row, label).max() - row[label] for row, label in zip(z, labels, strict=True)])
    assert np.allclose(margin(logits, y).cpu().numpy(), others, rtol=0, atol=1e-12)
    picked = z[np.arange(40), labels]
    log_sum = np.log(np.exp(z + 50).sum(1)) - 50
    assert np.allclose(cross_entropy(logits, y).cpu().numpy(), log_sum - picked, rtol=0, atol=1e-12)


@LOSS
def test_the_gradient_is_the_central_difference(loss: str, device: torch.device) -> None:
    """Step 1e-5: truncation 1e-10 times the third derivative, rounding 1e-16 / 1e-5, hence 1e-5 relative is lenient."""
    model = smooth_net(4, device)
    x = images(3, device)
    y = torch.tensor([0, 1, 2], device=device)
    ascend = partial(LOSSES[loss], y=y)
    seen = Oracle(plain(model), None, 3).value_and_grad(x, ascend)
    assert torch.equal(seen.values, ascend(model(x)).detach())
    numeric = torch.zeros_like(x)
    for place in np.ndindex(*x.shape[1:]):
        step = torch.zeros_like(x)
        step[(slice(None), *place)] = 1e-5
        with torch.no_grad():
            numeric[(slice(None), *place)] = (ascend(model(x + step)) - ascend(model(x - step))) / 2e-5
    assert torch.allclose(seen.gradient, numeric, rtol=1e-5, atol=1e-8)


# MI-FGSM --------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("decay", [0.0, 0.5, 1.0])
def test_mi_fgsm_walks_as_its_paper_says(decay: float, device: torch.device) -> None:
    """Equations 6 and 7 of arXiv 1710.06081, step by step; with decay 0 they are iterated FGSM."""
    model = smooth_net(5, device)
    x = images(4, device)
    y = torch.tensor([0, 1, 2, 3], device=device)
    eps, steps = 0.2, 8
    looks: list[Tensor] = []

    def watching(x: Tensor, keys: Keys | None) -> Tensor:
        looks.append(x.detach().clone())
        return model(x)

    run_attack("mi-fgsm", watching, x, y, norm="linf", eps=eps, steps=steps, decay=decay)
    assert len(looks) == steps + 1
    point, momentum = x.clone(), torch.zeros_like(x)
    for look in looks:
        assert torch.allclose(look, point, rtol=0, atol=1e-6)  # the attack aims at eps (1 - 1e-6)
        leaf = point.clone().requires_grad_()
        gradient = torch.autograd.grad(torch.nn.functional.cross_entropy(model(leaf), y, reduction="sum"), leaf)[0]
        momentum = decay * momentum + gradient / gradient.abs().sum(dim=(1, 2, 3), keepdim=True)
        ahead = point + eps / steps * (gradient if decay == 0 else momentum).sign()
        point = torch.clamp(torch.minimum(torch.maximum(ahead, x - eps), x + eps), 0, 1)


@pytest.mark.parametrize("norm", NORMS)
def test_momentum_crosses_a_plateau_that_stops_iterated_fgsm(norm: str, device: torch.device) -> None:
    """Gradients that are exactly zero half-way leave the momentum as it was: neither NaN nor forgotten."""
    x = torch.full((2, 1, 2, 4), 0.5, dtype=torch.float64, device=device)
    y = torch.zeros(2, dtype=torch.int64, device=device)

    def plateau(x: Tensor) -> Tensor:
        way = (x - 0.5).flatten(1)[:, 0] / 0.4
        value = way.clamp(max=0.4) - 1 + 100 * torch.relu(way - 0.8)
        return torch.stack([torch.zeros_like(value), value], dim=1)

    run = partial(run_attack, "mi-fgsm", plain(plateau), x, y, norm=norm, eps=0.4, steps=20)
    assert (margins(plateau, run(decay=1.0)[0], y) > 0).all()
    assert (margins(plateau, run(decay=0.0)[0], y) < 0).all()


def test_momentum_makes_a_difference(device: torch.device) -> None:
    """Guards the test above against a model on which every decay walks alike."""
    model = smooth_net(5, device)
    x = images(4, device)
    y = torch.tensor([0, 1, 2, 3], device=device)
    walks = [run_attack("mi-fgsm", plain(model), x, y, norm="linf", eps=0.2, decay=d)[0] for d in (0.0, 1.0)]
    assert not torch.allclose(walks[0], walks[1], rtol=0, atol=1e-3)


# more work is never worse ---------------------------------------------------------------------------------------------
@pytest.mark.parametrize("norm", NORMS)
def test_more_restarts_and_more_steps_never_lose(norm: str, device: torch.device) -> None:
    """Exact: restarts are keyed by number, and with a fixed step size a longer walk begins with the shorter one."""
    model = smooth_net(10, device)
    x = images(8, device)
    y = model(x).argmax(1)
    eps = {"linf": 0.02, "l2": 0.2, "l1": 0.7}[norm]
    run = partial(run_attack, "pgd", plain(model), x, y, norm=norm, eps=eps, step_size=eps / 4, loss="margin")
    series = ([(r, 3) for r in (1, 2, 3, 5)], [(1, s) for s in (1, 2, 4, 8)])
    for kind, settings in enumerate(series):
        reached = np.array([margins(model, run(restarts=r, steps=s)[0], y) for r, s in settings])
        alive = reached[:-1] <= 0  # a broken image may stop anywhere beyond the border
        later = reached[1:]
        assert (later[alive] >= reached[:-1][alive] - 1e-12).all()
        assert (later[~alive] > 0).all()
        assert (later > reached[:-1] + 1e-9).any(), f"series {kind} is too easy to show anything"


@pytest.mark.parametrize("name", ["fgsm", "pgd", "mi-fgsm"])
@pytest.mark.parametrize("norm", NORMS)
def test_a_larger_budget_breaks_more(name: str, norm: str, device: torch.device) -> None:
    """Accuracy may rise with eps by chance for one attack, by two standard errors of a share of 60 images at most."""
    model = smooth_net(10, device)
    x = images(60, device)
    y = model(x).argmax(1)
    scale = {"linf": 1.0, "l2": 5.0, "l1": 25.0}[norm]
    curve = [
        accuracy_of(model, run_attack(name, plain(model), x, y, norm=norm, eps=scale * eps)[0], y)
        for eps in (0.0, 0.01, 0.04, 0.16, 1.0)
    ]
    assert curve[0] == 1
    assert (np.diff(curve) <= 2 * 0.5 / np.sqrt(60)).all()
    if name != "fgsm":
        assert curve[-1] == 0  # the whole box is open: an attack that fails here is broken


# cost -----------------------------------------------------------------------------------------------------------------
def test_an_image_broken_once_costs_no_further_restarts(device: torch.device) -> None:
    x = images(4, device)
    model, _ = linear_pair(x, gap=0.0)
    y = (margins(model, x, torch.zeros(4, dtype=torch.int64, device=device)) > 0).astype(int)
    labels = torch.from_numpy(y).to(device)
    common = {"norm": "linf", "eps": 0.8, "steps": 10, "restarts": 5}
    x_adv, oracle = run_attack("pgd", plain(model), x, labels, **common)
    assert (margins(model, x_adv, labels) > 0).all()
    assert oracle.counts.forwards.max() <= 12
    assert oracle.counts.backwards.max() <= 10
    # A view that does not decide like the model cannot know who is broken: nobody is spared.
    _, oracle = run_attack("pgd", plain(model), x, labels, exact=False, **common)
    assert oracle.counts.forwards.tolist() == [55] * 4


@pytest.mark.parametrize("norm", NORMS)
def test_a_survivor_restarts_where_it_would_without_the_broken(norm: str, device: torch.device) -> None:
    """The first image is broken in the first restart: the second must keep its own keys, data and label after that."""
    x = images(2, device)
    model, _ = linear_pair(x, gap=100.0)
    y = torch.tensor([1, 0], device=device)
    looks: list[Tensor] = []

    def watching(x: Tensor, keys: Keys | None) -> Tensor:
        looks.append(x.detach().clone())
        return model(x)

    def second_restart(where: slice) -> list[Tensor]:
        looks.clear()
        names = ids(2)[where]
        run_attack("pgd", watching, x[where], y[where], norm=norm, eps=0.2, names=names, steps=3, restarts=2)
        return looks[4:]

    beside, alone = second_restart(slice(0, 2)), second_restart(slice(1, 2))
    assert [len(look) for look in beside] == [1] * 4
    assert torch.allclose(torch.stack(beside), torch.stack(alone), rtol=0, atol=1e-12)


# expectation over transformation --------------------------------------------------------------------------------------
DRAWS = 6


def eot_problem(device: torch.device) -> tuple[Callable[[Tensor], Tensor], Tensor, Tensor, Keys]:
    return (
        smooth_net(4, device),
        images(3, device),
        torch.tensor([0, 1, 2], device=device),
        Keys.of(ids(3), 0),
    )


def each_draw(
    model: Callable[[Tensor], Tensor], x: Tensor, y: Tensor, keys: Keys, sigma: float
) -> tuple[Tensor, Tensor]:
    """Probability of the true class (DRAWS, N) and gradient of each draw's cross-entropy (DRAWS, N, C, H, W)."""
    probabilities, gradients = [], []
    for draw in range(DRAWS):
        leaf = x.clone().requires_grad_()
        noise = keys.draw(np.full(len(x), draw)).normal(tuple(x.shape[1:]), x)
        loss = torch.nn.functional.cross_entropy(model(leaf + sigma * noise), y, reduction="none")
        gradients.append(torch.autograd.grad(loss.sum(), leaf)[0])
        probabilities.append((-loss).exp().detach())
    return torch.stack(probabilities), torch.stack(gradients)


@pytest.mark.parametrize("max_rows", [10_000, 1, 7])
def test_eot_gradient_is_that_of_the_mean_probability(max_rows: int, device: torch.device) -> None:
    """-log of the mean probability: draws are weighted by p_y / sum p_y. Float64 sums of six terms: far below 1e-9."""
    model, x, y, keys = eot_problem(device)
    oracle = Oracle(noisy(model, 0.3), keys, 3, draws=DRAWS, max_rows=max_rows)
    seen = oracle.value_and_grad(x, partial(cross_entropy, y=y))
    p, gradients = each_draw(model, x, y, keys, 0.3)
    weighted = ((p / p.sum(0))[..., None, None, None] * gradients).sum(0)
    assert torch.allclose(seen.gradient, weighted, rtol=0, atol=1e-9)
    assert not torch.allclose(seen.gradient, gradients.mean(0), rtol=0, atol=1e-3)  # the mean of losses is another
    assert torch.allclose(seen.values, -p.mean(0).log(), rtol=0, atol=1e-9)


@pytest.mark.parametrize("max_rows", [10_000, 1, 7])
def test_the_mean_of_losses_weighs_every_draw_alike(max_rows: int, device: torch.device) -> None:
    model, x, y, keys = eot_problem(device)
    oracle = Oracle(noisy(model, 0.3), keys, 3, draws=DRAWS, objective="mean-of-losses", max_rows=max_rows)
    seen = oracle.value_and_grad(x, partial(cross_entropy, y=y))
    p, gradients = each_draw(model, x, y, keys, 0.3)
    assert torch.allclose(seen.gradient, gradients.mean(0), rtol=0, atol=1e-9)
    assert torch.allclose(seen.values, -p.log().mean(0), rtol=0, atol=1e-9)
    assert (seen.values > -p.mean(0).log()).all()  # Jensen: (a) >= (b)
    # The defender decides by the mean probability under either objective: candidates are chosen by it.
    assert torch.allclose(-cross_entropy(seen.logits, y), p.mean(0).log(), rtol=0, atol=1e-9)
    assert oracle.counts.forwards.tolist() == oracle.counts.backwards.tolist() == [DRAWS] * 3


@LOSS
def test_one_draw_has_one_objective(loss: str, device: torch.device) -> None:
    model, x, y, keys = eot_problem(device)
    ascend = partial(LOSSES[loss], y=y)
    mean, each = (
        Oracle(noisy(model, 0.3), keys, 3, objective=objective).value_and_grad(x, ascend)
        for objective in ("loss-of-mean", "mean-of-losses")
    )
    assert all(torch.equal(a, b) for a, b in zip(mean, each, strict=True))


@LOSS
def test_eot_gradient_is_the_finite_difference_with_fixed_keys(loss: str, device: torch.device) -> None:
    model, x, y, keys = eot_problem(device)
    ascend = partial(LOSSES[loss], y=y)

    def value(x: Tensor) -> Tensor:
        return ascend(Oracle(noisy(model, 0.3), keys, 3, draws=DRAWS).logits(x))

    seen = Oracle(noisy(model, 0.3), keys, 3, draws=DRAWS).value_and_grad(x, ascend)
    assert torch.allclose(seen.values, value(x), rtol=0, atol=1e-12)
    direction = images(3, device, seed=9) - 0.5
    numeric = (value(x + 1e-5 * direction) - value(x - 1e-5 * direction)) / 2e-5
    assert torch.allclose((seen.gradient * direction).flatten(1).sum(1), numeric, rtol=1e-5, atol=1e-8)


@LOSS
def test_eot_does_not_depend_on_how_draws_are_cut(loss: str, device: torch.device) -> None:
    model, x, y, keys = eot_problem(device)
    ascend = partial(LOSSES[loss], y=y)
    whole = Oracle(noisy(model, 0.3), keys, 3, draws=DRAWS).value_and_grad(x, ascend)
    for max_rows in (1, 3, 6, 9, 17, 18):
        rows: list[int] = []

        def watching(x: Tensor, keys: Keys | None, rows: list[int] = rows) -> Tensor:
            logits = noisy(model, 0.3)(x, keys)
            rows.append(len(logits))
            return logits

        oracle = Oracle(watching, keys, 3, draws=DRAWS, max_rows=max_rows)
        for part, same in zip(oracle.value_and_grad(x, ascend), whole, strict=True):
            assert torch.allclose(part, same, rtol=0, atol=1e-9)
        assert max(rows) <= max(max_rows, 3)  # at least one draw of each image must fit
        assert oracle.counts.forwards.sum() == sum(rows)
        assert oracle.counts.backwards.tolist() == [DRAWS] * 3


@pytest.mark.parametrize("max_rows", [10_000, 3])
def test_eot_survives_probabilities_that_underflow(max_rows: int, device: torch.device) -> None:
    """Margins of 1,000 nats in float32: probabilities are 0, their logarithms are not."""
    _, x, y, keys = eot_problem(device)
    net = smooth_net(4, device, torch.float32)
    oracle = Oracle(noisy(lambda x: 1000 * net(x), 0.3), keys, 3, draws=DRAWS, max_rows=max_rows)
    seen = oracle.value_and_grad(x.float(), partial(margin, y=y))
    assert all(torch.isfinite(part).all() for part in seen)
    assert (seen.gradient.flatten(1).abs().amax(1) > 0).all()


@pytest.mark.parametrize("name", ["fgsm", "pgd", "mi-fgsm"])
@LOSS
def test_eot_without_noise_is_static(name: str, loss: str, device: torch.device) -> None:
    model, x, y, _ = eot_problem(device)
    run = partial(run_attack, name, x=x, y=y, norm="l2", eps=0.5, loss=loss)
    static, _ = run(forward=plain(model))
    for max_rows in (10_000, 3):
        eot, _ = run(forward=noisy(model, 0.0), draws=4, max_rows=max_rows)
        assert torch.allclose(eot, static, rtol=0, atol=1e-9)


def test_every_look_draws_afresh_for_every_image_whatever_the_batch(device: torch.device) -> None:
    model, _, _, keys = eot_problem(device)
    x = images(1, device).repeat(3, 1, 1, 1)
    oracle = Oracle(noisy(model, 0.3), keys, 3, draws=2)
    first, second = oracle.logits(x), oracle.logits(x)
    third = oracle.value_and_grad(x, lambda z: z[:, 0]).logits
    fourth = oracle.logits(x)
    looks = [first, second, third, fourth]
    assert all(not torch.allclose(a, b, atol=1e-3) for i, a in enumerate(looks) for b in looks[:i])
    assert not torch.allclose(first[0], first[1], atol=1e-3)  # equal images, different ids
    assert oracle.counts.drawn.tolist() == [8] * 3
    # The same image by the same id sees the same draws alone, or when its neighbours looked more often before.
    alone = Oracle(noisy(model, 0.3), keys[1:2], 1, draws=2)
    assert torch.allclose(alone.logits(x[:1]), first[1:2], rtol=0, atol=1e-12)
    busy = Oracle(noisy(model, 0.3), keys, 3, draws=2)
    busy[torch.tensor([0, 2], device=device)].logits(x[:2])
    assert torch.allclose(busy.logits(x)[1], first[1], rtol=0, atol=1e-12)


def test_eot_gradient_converges_with_the_root_of_the_draws(device: torch.device) -> None:
    """Logistic loss under Gaussian noise of known size: the exact gradient is a one-dimensional integral."""
    n, d, sigma = 300, 8, 1.0
    x = torch.full((n, 1, 2, 4), 0.5, dtype=torch.float64, device=device)
    g = np.linspace(-1, 1, d)
    weight = torch.from_numpy(np.stack([np.zeros(d), g])).to(device)
    model = Linear(weight, torch.tensor([0.4, 0.0], dtype=torch.float64, device=device))
    y = torch.zeros(n, dtype=torch.int64, device=device)
    # z_1 - z_0 = mean + spread * normal; p_0 = 1 / (1 + exp(z_1 - z_0)), integrated on a fine grid.
    mean, spread = float(g @ np.full(d, 0.5)) - 0.4, sigma * np.linalg.norm(g)
    t = np.linspace(-9, 9, 20_001)
    p = 1 / (1 + np.exp(mean + spread * t))
    mass = stats.norm.pdf(t)
    exact = (p * (1 - p) * mass).sum() / (p * mass).sum() * g
    errors = {}
    for draws in (16, 256):
        oracle = Oracle(noisy(model, sigma), Keys.of(ids(n), 0), n, draws=draws, max_rows=10**6)
        gradient = oracle.value_and_grad(x, partial(cross_entropy, y=y)).gradient.flatten(1).cpu().numpy()
        errors[draws] = np.sqrt(((gradient - exact) ** 2).mean())
    # Root mean squares over 300 images have a standard error of 1 / sqrt(600) = 4%, their ratio 6%; expected 4, and
    # the ratio estimator's bias of order 1 / 16 adds little: three to five is far outside chance, 1/n would give 16.
    assert 3 < errors[16] / errors[256] < 5
    assert errors[256] < 0.05 * np.abs(exact).max() * 2


def test_attack_on_the_noise_uses_the_noise(device: torch.device) -> None:
    """A model whose mean input is a flat valley: only draws show the way. Static fails by design, EoT must not."""
    x = torch.full((8, 1, 2, 4), 0.5, dtype=torch.float64, device=device)
    y = torch.zeros(8, dtype=torch.int64, device=device)

    def flat_at_the_mean(x: Tensor) -> Tensor:
        way = (x - 0.5).flatten(1)
        # Zero gradient within 0.05 of the clean image in every pixel; beyond, class 1 grows with the sum.
        value = (torch.relu(way - 0.05) - torch.relu(-way - 0.05)).sum(1) * 20 - 4
        return torch.stack([torch.zeros_like(value), value], dim=1)

    still, _ = run_attack("fgsm", plain(flat_at_the_mean), x, y, norm="linf", eps=0.2)
    assert torch.equal(still, x)
    moved, _ = run_attack("fgsm", noisy(flat_at_the_mean, 0.1), x, y, norm="linf", eps=0.2, draws=20)
    assert (margins(flat_at_the_mean, moved, y) > 0).all()
    assert lengths(moved - x, "linf").max() <= 0.2


@pytest.mark.parametrize("name", ["fgsm", "pgd", "mi-fgsm"])
def test_a_component_without_gradient_does_not_stop_the_others(name: str, device: torch.device) -> None:
    """sqrt(0) has an infinite slope: 0 * inf is NaN. Half the pixels are such, the others decide."""

    def model(x: torch.Tensor) -> torch.Tensor:
        flat = x.flatten(1)
        half = flat.shape[1] // 2
        level = flat[:, :half].mean(1) - 0.5 + 0 * (flat[:, half:] - flat[:, half:].detach()).abs().sqrt().sum(1)
        return torch.stack([-level, level], 1)

    x = torch.full((2, 2, 5, 5), 0.45, dtype=torch.float64, device=device)
    y = torch.zeros(2, dtype=torch.int64, device=device)
    assert torch.isnan(torch.autograd.grad(model(x.requires_grad_()).sum(), x)[0]).any()
    x_adv, _ = run_attack(name, plain(model), x.detach(), y, norm="linf", eps=0.1)
    assert torch.isfinite(x_adv).all()
    assert (model(x_adv).argmax(1) == 1).all()


@pytest.mark.parametrize("name", ["pgd", "cw", "mi-fgsm"])
def test_through_noise_a_walk_ends_at_the_optimum_of_a_linear_model(name: str, device: torch.device) -> None:
    """The noise is larger than all that the attack can gain: of the points on its way the luckiest is any of them."""
    x = 0.4 + 0.2 * images(12, device)
    model, g = linear_pair(x, gap=0.0)
    y = torch.zeros(12, dtype=torch.int64, device=device)
    x_adv, _ = run_attack(name, noisy(model, 1.0), x, y, norm="linf", eps=0.05, draws=2, exact=False)
    reached, best = gains(x, x_adv, g, "linf", 0.05 * (1 - 1e-6))
    assert reached == pytest.approx(best, abs=1e-9)


@pytest.mark.parametrize(
    ("name", "norm"), [("pgd", "l2"), ("slide", "l1"), ("daa-blob", "linf"), ("daa-dgf", "linf"), ("spsa", "l2")]
)
def test_through_noise_the_end_of_a_walk_is_returned_and_not_its_luckiest_point(
    name: str, norm: str, device: torch.device
) -> None:
    x = images(1, device)
    model, _ = linear_pair(x, gap=0.0)
    seen: list[Tensor] = []

    def watched(x: Tensor, keys: Keys | None) -> Tensor:
        seen.append(x.detach().clone())
        return noisy(model, 1.0)(x, keys)

    y = torch.zeros(1, dtype=torch.int64, device=device)
    settings = {"eps": 0.5, "steps": 12, "draws": 1} | ({"pairs": 2} if name == "spsa" else {})
    x_adv, _ = run_attack(name, watched, x, y, norm=norm, exact=False, **settings)
    assert len(seen) > 12
    assert torch.equal(x_adv, seen[-1])
