"""Auto-PGD against its published checkpoints, a transcription of its algorithm, and models with a known optimum."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from functools import partial
from math import ceil
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from toys import (
    DUAL,
    Array,
    Linear,
    best_move,
    images,
    lengths,
    linear_pair,
    margins,
    plain,
    run_attack,
    smooth_net,
)

from rbfbench.attacks.apgd_rules import Ascent, Halving, Sparsity
from rbfbench.attacks.losses import dlr, margin, ranked_targets, targeted_dlr, targeted_margin
from rbfbench.attacks.rng import Keys

NAMES = ("apgd-ce", "apgd-dlr", "apgd-t")
NORMS = ("linf", "l2", "l1")
EVERY_NAME = pytest.mark.parametrize("name", NAMES)
EVERY_NORM = pytest.mark.parametrize("norm", NORMS)


def watched(model: Callable[[Tensor], Tensor], looks: list[Tensor]) -> Callable[[Tensor, Keys | None], Tensor]:
    """The view of a model that notes down where it is looked at."""

    def view(x: Tensor, keys: Keys | None) -> Tensor:
        looks.append(x.detach().clone())
        return model(x)

    return view


def gains(x: Tensor, x_adv: Tensor, g: Tensor, norm: str, eps: float) -> tuple[Array, Array]:
    """Gain <g, delta> reached, and the largest one possible, for each image."""
    flat, moved, direction = (t.detach().cpu().numpy() for t in (x.flatten(1), (x_adv - x).flatten(1), g))
    return moved @ direction, np.array([direction @ best_move(norm, row, direction, eps) for row in flat])


# losses ---------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("classes", [2, 3, 4, 100])
def test_ratios_equal_numpy(classes: int, device: torch.device) -> None:
    """Below three classes, or four for a target, there is no ratio: the plain margins then."""
    rng = np.random.default_rng(classes)
    z, labels = rng.normal(size=(40, classes)) - 50, rng.integers(classes, size=40)
    target = (labels + rng.integers(1, classes, size=40)) % classes
    logits, y, t = (torch.from_numpy(a).to(device) for a in (z, labels, target))
    row, falling = np.arange(40), -np.sort(-z, axis=1)
    plain_margin = np.array([np.delete(r, label).max() - r[label] for r, label in zip(z, labels, strict=True)])
    towards = z[row, target] - z[row, labels]
    expected = plain_margin if classes < 3 else plain_margin / (falling[:, 0] - falling[:, 2])
    assert np.allclose(dlr(logits, y).cpu().numpy(), expected, rtol=1e-9, atol=0)
    if classes >= 4:
        towards = towards / (falling[:, 0] - (falling[:, 2] + falling[:, 3]) / 2)
    assert np.allclose(targeted_dlr(logits, y, t).cpu().numpy(), towards, rtol=1e-9, atol=0)


def test_ratios_of_tied_logits_are_finite(device: torch.device) -> None:
    z = torch.zeros(2, 5, device=device, requires_grad=True)
    y, t = torch.tensor([0, 4], device=device), torch.tensor([1, 0], device=device)
    for loss in (dlr(z, y), targeted_dlr(z, y, t), margin(z, y), targeted_margin(z, y, t)):
        assert torch.isfinite(loss).all()
        assert torch.isfinite(torch.autograd.grad(loss.sum(), z)[0]).all()


def test_targets_are_the_likeliest_wrong_classes(device: torch.device) -> None:
    z = torch.tensor([[5.0, 1.0, 3.0, 2.0], [5.0, 1.0, 3.0, 2.0]], device=device)
    y = torch.tensor([0, 2], device=device)  # the second is misclassified: its best class is a target like others
    assert ranked_targets(z, y, 2).tolist() == [[2, 3], [0, 3]]
    assert ranked_targets(z, y, 9).tolist() == [[2, 3, 1], [0, 3, 1]]


# the schedule ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("steps", [100, 200, 1000])
def test_checkpoints_are_the_published_ones(steps: int) -> None:
    """p_1 = .22, p_(j+1) = p_j + max(p_j - p_(j-1) - .03, .06), w_j = ceil(p_j N), in exact fractions."""
    before, now, expected = Fraction(0), Fraction(22, 100), []
    while now < 1:
        expected.append(ceil(now * steps))
        before, now = now, now + max(now - before - Fraction(3, 100), Fraction(6, 100))
    found = Halving.checkpoints(steps)
    assert list(found) == expected
    assert np.cumsum(list(found.values())).tolist() == expected
    if steps == 100:
        assert expected == [22, 41, 57, 70, 80, 87, 93, 99]


@pytest.mark.parametrize("rule", [Halving, Sparsity])
@pytest.mark.parametrize("steps", [1, 2, 3, 7, 40, 99])
def test_checkpoints_of_any_number_of_steps_come_after_some_step(rule: type[Halving | Sparsity], steps: int) -> None:
    found = rule.checkpoints(steps)
    assert all(0 < at < steps for at in found)
    assert np.cumsum(list(found.values())).tolist() == list(found)
    assert steps < 3 or found


def scripted(losses: list[list[float]]) -> tuple[Ascent, list[list[float]]]:
    """An ascent of images that see these losses, one list an image, and the sizes of their steps at every look."""
    n = len(losses)
    x = torch.full((n, 1, 1, 2), 0.5, dtype=torch.float64)
    ascent = Ascent.start(torch.arange(n), x, torch.zeros_like(x))
    rule = Halving.start("linf", 0.1, ascent)
    checkpoints, sizes = rule.checkpoints(100), []
    for step, loss in enumerate(zip(*losses, strict=True)):
        ascent.see(torch.tensor(loss, dtype=torch.float64), torch.ones_like(x) * (-1) ** step)
        if step in checkpoints:
            rule.check(ascent, checkpoints[step])
        sizes.append((rule.size / 0.2).tolist())
        rule.advance(ascent, first=step == 0)
    return ascent, [list(image) for image in zip(*sizes, strict=True)]


def test_steps_are_halved_image_by_image_where_the_loss_does_not_rise() -> None:
    checkpoints = [22, 41, 57, 70, 80, 87, 93, 99]
    rising, flat = [float(i) for i in range(100)], [0.0] * 100
    # Rises in exactly three quarters of the third window (12 of 16) are too few; one more would do.
    twelve = [float(i) if i <= 41 else float(min(i, 53)) for i in range(100)]
    thirteen = [float(i) if i <= 41 else float(min(i, 54)) for i in range(100)]
    _, sizes = scripted([rising, flat, twelve, thirteen])
    assert sizes[0] == [1.0] * 100
    assert sizes[1] == [0.5 ** sum(at <= i for at in checkpoints) for i in range(100)]
    assert sizes[2][56:58] == [1.0, 0.5]
    assert sizes[3][56:58] == [1.0, 1.0]


def test_a_step_that_only_rises_back_is_halved_every_other_time() -> None:
    """A fall at each window's start and rises after it, never to a new height: the second condition alone."""
    falls = [float(i) for i in range(23)]
    for window in (19, 16, 13, 10, 7, 6, 6):
        falls += [-1000.0 + i for i in range(window)]
    _, sizes = scripted([falls[:100]])
    # The first window rises. In the second one fall in 19 steps is allowed, but no height was gained: halved. In the
    # third it is spared, because it was just halved, and so on; 6 or 7 steps with one fall are still above 75%.
    assert [sizes[0][at] for at in (22, 41, 57, 70, 80, 87, 93, 99)] == [1, 0.5, 0.5, 0.25, 0.25, 0.125, 0.125, 0.0625]


def test_sparser_points_take_full_steps_on_fewer_coordinates_and_others_shrink() -> None:
    x = torch.full((2, 1, 5, 6), 0.5, dtype=torch.float64)
    ascent = Ascent.start(torch.arange(2), x, torch.zeros_like(x))
    rule = Sparsity.start("l1", 3.0, ascent)
    assert rule.count.tolist() == [6, 6]  # a fifth of thirty
    ascent.best_delta = torch.zeros_like(x)
    ascent.best_delta[0, 0, 0] = 0.1  # six coordinates
    ascent.best_delta[1] = 0.1
    ascent.best_loss = torch.zeros(2, dtype=torch.float64)
    ascent.delta = torch.ones_like(x)
    rule.check(ascent, 1)
    assert rule.count.tolist() == [4, 20]  # one and a half times fewer
    assert rule.size.tolist() == [3.0, 2.0]
    assert torch.equal(ascent.delta[0], ascent.best_delta[0])  # sparser: from the best point again
    assert torch.equal(ascent.delta[1], torch.ones_like(x[1]))
    for _ in range(20):
        rule.check(ascent, 1)
    assert np.allclose(rule.size, 0.3)  # never below a tenth


# the walk -------------------------------------------------------------------------------------------------------------
def nearest_point(norm: str, x: Array, delta: Array, eps: float) -> Array:
    """The projection on ball and box, for one flattened image, in numpy."""
    if norm == "linf":
        return np.clip(x + np.clip(delta, -eps, eps), 0, 1) - x
    low, high = 0.0, np.linalg.norm(delta) / eps
    for _ in range(100):
        middle = (low + high) / 2
        outside = np.linalg.norm(np.clip(delta / (1 + middle), -x, 1 - x)) > eps
        low, high = (middle, high) if outside else (low, middle)
    return np.clip(delta / (1 + (high if high > 1e-15 else 0.0)), -x, 1 - x)


def transcribed(
    look: Callable[[Array], tuple[float, Array]], x: Array, start: Array, *, norm: str, eps: float, steps: int
) -> list[Array]:
    """Algorithm 1 of arXiv 2003.01690 for one flattened image, from its start: every point that it looks at."""
    size, points, losses = 2 * eps, [start], []
    loss, gradient = look(start)
    losses.append(loss)
    best, best_loss, best_gradient = start, loss, gradient
    base, last_best, halved, window, since = start, loss, True, max(int(0.22 * steps + 1e-9), 1), 0
    before, rises = start, 0
    for step in range(steps):
        direction = np.sign(gradient) if norm == "linf" else gradient / np.linalg.norm(gradient)
        z = x + nearest_point(norm, x, base + size * direction - x, eps)
        ahead = z if step == 0 else base + 0.75 * (z - base) + 0.25 * (base - before)
        before, base = base, x + nearest_point(norm, x, ahead - x, eps)
        points.append(base)
        new_loss, gradient = look(base)
        rises += new_loss > loss
        loss, since = new_loss, since + 1
        if loss > best_loss:
            best, best_loss, best_gradient = base, loss, gradient
        if since == window:
            halve = rises <= 0.75 * window or (not halved and last_best >= best_loss)
            if halve:
                size, base, gradient, loss = size / 2, best, best_gradient, best_loss
            halved, last_best, rises, since = halve, best_loss, 0, 0
            window = max(window - max(int(0.03 * steps + 1e-9), 1), int(0.06 * steps + 1e-9), 1)
    return points


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("name", ["apgd-ce", "apgd-dlr"])
def test_the_walk_is_that_of_the_algorithm(name: str, norm: str, device: torch.device) -> None:
    """Forty steps on a smooth net, wild enough for halvings; 1e-6 is what eps (1 - 1e-6) and a sign's side cost."""
    model = smooth_net(5, device)
    x = images(3, device)
    y = model(x).argmax(1)
    eps, steps = {"linf": 0.3, "l2": 2.0}[norm] / (1 - 1e-6), 40
    looks: list[Tensor] = []
    run_attack(name, watched(model, looks), x, y, norm=norm, eps=eps, steps=steps, exact=False)
    assert len(looks) == steps + 1
    loss = torch.nn.functional.cross_entropy if name == "apgd-ce" else lambda z, y, reduction: dlr(z, y).sum()
    for i in range(3):

        def look(point: Array, i: int = i) -> tuple[float, Array]:
            leaf = torch.from_numpy(point).to(x).view_as(x[:1]).requires_grad_()
            value = loss(model(leaf), y[i : i + 1], reduction="sum")
            return float(value.detach()), torch.autograd.grad(value, leaf)[0].flatten().cpu().numpy()

        flat = x[i].flatten().cpu().numpy()
        start = looks[0][i].flatten().cpu().numpy()
        points = transcribed(look, flat, start, norm=norm, eps=eps * (1 - 1e-6), steps=steps)
        walked = np.stack([seen[i].flatten().cpu().numpy() for seen in looks])
        assert np.allclose(walked, np.stack(points), rtol=0, atol=1e-6)


def test_l1_walks_in_three_shrinking_balls(device: torch.device) -> None:
    model = smooth_net(5, device)
    x = images(3, device)
    y = model(x).argmax(1)
    looks: list[Tensor] = []
    x_adv, oracle = run_attack("apgd-ce", watched(model, looks), x, y, norm="l1", eps=0.5, steps=20, exact=False)
    far = np.array([lengths(look - x, "l1") for look in looks]) / 0.5
    assert len(far) == 6 + 1 + 6 + 1 + 8 + 1
    assert (far.max(1) <= np.r_[[3] * 7, [2] * 7, [1] * 9]).all()
    assert (far[6] > 2.9).all()  # and they fill their balls
    assert (far[13] > 1.9).all()
    assert lengths(x_adv - x, "l1").max() <= 0.5
    assert oracle.counts.backwards.tolist() == [20] * 3


# known optima ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["apgd-ce", "apgd-t"])
@pytest.mark.parametrize(
    ("norm", "eps"), [("linf", 0.05), ("linf", 0.3), ("linf", 2.0), ("l2", 0.3), ("l2", 2.0), ("l1", 0.5), ("l1", 6.0)]
)
def test_apgd_reaches_the_optimum_of_a_linear_model(name: str, norm: str, eps: float, device: torch.device) -> None:
    """With a third of the pixels at 0 or 1. Signs end in the corner; l2 and l1 steps come to within half a percent."""
    x = images(4, device)
    model, g = linear_pair(x, gap=5.0)
    y = torch.zeros(4, dtype=torch.int64, device=device)
    # Nobody leaves at a checkpoint: the optimum is the question here, not success.
    x_adv, _ = run_attack(name, plain(model), x, y, norm=norm, eps=eps, exact=False)
    reached, best = gains(x, x_adv, g, norm, eps)
    assert (reached >= {"linf": 0.999}.get(norm, 0.995) * best).all()
    assert (reached <= best + 1e-9).all()


def test_apgd_l1_reaches_the_optimum_on_dark_images(device: torch.device) -> None:
    """784 pixels of 0 and 1, eps 15: a step or projection that forgets the box wastes three percent and more."""
    x = (images(2, device, shape=(1, 28, 28), seed=3) > 0.8).double()
    model, g = linear_pair(x, gap=5.0)
    y = torch.zeros(2, dtype=torch.int64, device=device)
    x_adv, _ = run_attack("apgd-dlr", plain(model), x, y, norm="l1", eps=15.0, exact=False)
    reached, best = gains(x, x_adv, g, "l1", 15.0)
    assert (reached >= 0.995 * best).all()


@EVERY_NAME
def test_apgd_l1_passes_over_the_steepest_coordinates_at_their_bound(name: str, device: torch.device) -> None:
    """The largest gradients all point out of the box; those that have room suffice for eps 1.2, and eps is 4."""
    x = torch.full((1, 1, 5, 10), 0.5, dtype=torch.float64, device=device)
    weight = torch.ones(2, 50, dtype=x.dtype, device=device)
    weight[1, :40] += 1.0
    weight[1, 40:] += 10.0
    x.view(-1)[40:] = 1.0
    bias = torch.tensor([121.2, 0.0], dtype=x.dtype, device=device)
    model, y = Linear(weight, bias), torch.zeros(1, dtype=torch.int64, device=device)
    assert margins(model, x, y)[0] == pytest.approx(-1.2)
    x_adv, _ = run_attack(name, plain(model), x, y, norm="l1", eps=4.0)
    assert margins(model, x_adv, y)[0] > 0


def bordered(x: Tensor, classes: int, distances: Array, norm: str, *, lead: float) -> Linear:
    """A linear model on which the image x (one) is of class 0, with borders to the others at these distances.

    Its logits are scaled so that class 0 leads class 1 by `lead`.
    """
    weight = torch.from_numpy(np.random.default_rng(classes).normal(size=(classes, x[0].numel()))).to(x)
    slopes = weight[1:] - weight[0]
    reach = np.linalg.norm(slopes.cpu().double().numpy(), ord=DUAL[norm], axis=1)
    level = (x.flatten(1) @ slopes.T)[0] + torch.from_numpy(distances * reach).to(x)
    scale = lead / float(distances[0] * reach[0])
    return Linear(scale * weight, scale * torch.cat([torch.zeros_like(level[:1]), -level]))


@EVERY_NAME
@EVERY_NORM
@pytest.mark.parametrize("classes", [2, 3, 4, 100])
def test_success_begins_at_the_distance_to_the_nearest_border(
    name: str, norm: str, classes: int, device: torch.device
) -> None:
    """Away from the box, least over classes of |m_k| / ||g_k||_q: no success at .98 of it, success at 1.02."""
    x = 0.3 + 0.4 * images(1, device)
    distance = 0.05  # three times as much may go into one coordinate
    # The others are far, and with logits of this size the cross-entropy is a matter of the nearest alone.
    model = bordered(x, classes, distance * np.r_[1.0, np.full(classes - 2, 5.0)], norm, lead=15.0)
    y = torch.zeros(1, dtype=torch.int64, device=device)
    for factor, broken in ((0.98, False), (1.02, True)):
        few = {"targets": 2} if name == "apgd-t" else {}
        x_adv, _ = run_attack(name, plain(model), x, y, norm=norm, eps=factor * distance, steps=20, **few)
        assert bool(margins(model, x_adv, y)[0] > 0) == broken


def test_targets_find_a_class_that_the_likeliest_hides(device: torch.device) -> None:
    """Class 1 is a hair away and cannot be reached at all; class 3 can, though it is the least likely at the image."""
    x = torch.full((1, 1, 2, 4), 0.5, dtype=torch.float64, device=device)
    weight = torch.zeros(4, 8, dtype=x.dtype, device=device)
    weight[3] = 1.0
    model = Linear(weight, torch.tensor([0.0, -0.1, -0.2, -4.5], dtype=x.dtype, device=device))
    y = torch.zeros(1, dtype=torch.int64, device=device)
    run = partial(run_attack, "apgd-t", plain(model), x, y, norm="linf", eps=0.1, steps=10)
    assert margins(model, run(targets=2)[0], y)[0] < 0
    assert margins(model, run(targets=3)[0], y)[0] > 0


@EVERY_NORM
def test_a_point_passed_on_the_way_is_not_lost(norm: str, device: torch.device) -> None:
    """Fooled only in a shell which the gradient leads through: most looks are right, before and after it."""
    x = torch.full((3, 2, 5, 5), 0.5, dtype=torch.float64, device=device)
    direction = torch.linspace(1, 2, 50, dtype=x.dtype, device=device)
    eps = {"linf": 0.3, "l2": 0.45, "l1": 0.45}[norm]
    end = float(direction.cpu().numpy() @ best_move(norm, x[0].flatten().cpu().numpy(), direction.cpu().numpy(), eps))

    def shell(x: Tensor) -> Tensor:
        way = (x - 0.5).flatten(1) @ direction / end
        inside = ((way > 0.5) & (way < 0.9)).to(x)
        # Value: wrong inside the shell only. Gradient: always on.
        value = (2 * inside - 1) + way - way.detach()
        return torch.stack([torch.zeros_like(value), value], dim=1)

    y = torch.zeros(3, dtype=torch.int64, device=device)
    looks: list[Tensor] = []
    x_adv, _ = run_attack("apgd-dlr", watched(shell, looks), x, y, norm=norm, eps=eps, exact=False)
    assert (margins(shell, x_adv, y) > 0).all()
    wrong = np.array([margins(shell, look, y) for look in looks]) > 0
    assert not wrong[wrong.argmax(0) + 1, np.arange(3)].all()  # it walks on, and out of the shell


# invariance -----------------------------------------------------------------------------------------------------------
@EVERY_NORM
@pytest.mark.parametrize(("name", "classes"), [("apgd-dlr", 2), ("apgd-dlr", 3), ("apgd-t", 3), ("apgd-t", 4)])
def test_ratios_do_not_heed_scale_and_shift(name: str, norm: str, classes: int, device: torch.device) -> None:
    """Margins, which stand in for few classes, do scale, but neither their steps nor their comparisons do."""
    model = smooth_net(classes, device)
    x = images(3, device)
    y = model(x).argmax(1)
    eps = {"linf": 0.02, "l2": 0.2, "l1": 0.7}[norm]
    few = {"targets": 2} if name == "apgd-t" else {}
    run = partial(run_attack, name, x=x, y=y, norm=norm, eps=eps, steps=8, exact=False, **few)
    here, _ = run(forward=plain(model))
    # The 1e-12 in the denominator and rounding of the logits cost far less than 1e-9 in a few steps.
    for other in (lambda x: 100 * model(x), lambda x: model(x) / 100, lambda x: model(x) + 7):
        assert torch.allclose(run(forward=plain(other))[0], here, rtol=0, atol=1e-9)


def test_large_logits_stop_cross_entropy_and_not_the_ratios(device: torch.device) -> None:
    """A lead of thousands: in float32 the gradient of the cross-entropy is exactly zero (arXiv 2003.01690, sec. 4)."""
    x = (0.3 + 0.4 * images(1, device)).float()
    model = bordered(x, 4, np.array([0.1, 0.12, 0.14]), "linf", lead=1e4)
    y = torch.zeros(1, dtype=torch.int64, device=device)
    run = partial(run_attack, forward=plain(model), x=x, y=y, norm="linf", eps=0.2)
    assert {name: bool(margins(model, run(name)[0], y)[0] > 0) for name in NAMES} == {
        "apgd-ce": False,
        "apgd-dlr": True,
        "apgd-t": True,
    }


# more work is never worse, and no more of it than needed --------------------------------------------------------------
@EVERY_NAME
@EVERY_NORM
def test_more_restarts_never_lose(name: str, norm: str, device: torch.device) -> None:
    """Exact: restarts and targets are keyed by number. A broken image may stop anywhere beyond the border."""
    model = smooth_net(10, device)
    x = images(8, device)
    y = model(x).argmax(1)
    eps = {"linf": 0.02, "l2": 0.2, "l1": 0.7}[norm]
    run = partial(run_attack, name, plain(model), x, y, norm=norm, eps=eps, steps=4)
    series: list[list[dict[str, Any]]] = [[{"restarts": r} for r in (1, 2, 4)]]
    if name == "apgd-t":
        series = [[{"restarts": r, "targets": 2} for r in (1, 2)], [{"targets": t} for t in (1, 3, 9)]]
    for settings in series:
        reached = np.array([margins(model, run(**setting)[0], y) for setting in settings])
        alive = reached[:-1] <= 0
        assert (reached[1:][alive] >= reached[:-1][alive] - 1e-12).all()
        assert (reached[1:][~alive] > 0).all()


@pytest.mark.parametrize(("classes", "targets"), [(2, 1), (3, 2), (4, 3), (100, 9)])
def test_few_classes_have_fewer_targets(classes: int, targets: int, device: torch.device) -> None:
    model = smooth_net(classes, device)
    x = images(2, device)
    y = model(x).argmax(1)
    _, oracle = run_attack("apgd-t", plain(model), x, y, norm="linf", eps=0.0, steps=4)
    assert oracle.counts.backwards.tolist() == [4 * targets] * 2
    assert oracle.counts.forwards.tolist() == [1 + 5 * targets] * 2


@EVERY_NAME
def test_broken_images_leave_at_the_next_checkpoint(name: str, device: torch.device) -> None:
    x = images(4, device)
    model, _ = linear_pair(x, gap=0.0)
    y = (torch.from_numpy(margins(model, x, torch.zeros(4, dtype=torch.int64))) > 0).long().to(device)
    common = {"norm": "linf", "eps": 0.8, "restarts": 3}
    x_adv, oracle = run_attack(name, plain(model), x, y, **common)
    assert (margins(model, x_adv, y) > 0).all()
    once = name == "apgd-t"  # the look at the image itself
    assert oracle.counts.forwards.tolist() == [23 + once] * 4
    assert oracle.counts.backwards.tolist() == [23] * 4
    # A view that does not decide like the model cannot know who is broken: nobody is spared.
    _, oracle = run_attack(name, plain(model), x, y, exact=False, **common)
    assert oracle.counts.forwards.tolist() == [303 + once] * 4
    assert oracle.counts.backwards.tolist() == [300] * 4


@pytest.mark.parametrize(("norm", "eps"), [("linf", 0.02), ("l1", 0.6)])
def test_a_survivor_walks_on_as_if_the_broken_had_not_been_there(norm: str, eps: float, device: torch.device) -> None:
    """Its step size, best point, target and keys must be its own after others have left."""
    model = smooth_net(10, device)
    x = images(6, device)
    y = model(x).argmax(1)
    run = partial(run_attack, "apgd-t", plain(model), norm=norm, eps=eps, steps=12, restarts=2, targets=2)
    together, oracle = run(x, y)
    spent = oracle.counts.backwards
    assert spent.min() < spent.max(), "nobody leaves early, or everybody does"
    for i in spent.argsort()[-2:].tolist():
        alone, single = run(x[i : i + 1], y[i : i + 1], names=[f"{i}:toy"])
        assert torch.allclose(alone[0], together[i], rtol=0, atol=1e-9)
        assert single.counts.backwards[0] == spent[i]


def test_within_no_budget_the_images_come_back_though_some_are_wrong(device: torch.device) -> None:
    """The radii of all phases under l1 are alike then: those that are broken leave in the last one only."""
    x = images(3, device)
    model = smooth_net(3, device)
    with torch.no_grad():
        y = model(x).argmax(1)
    y[1] = (y[1] + 1) % 3
    x_adv, _ = run_attack("apgd-ce", plain(model), x, y, norm="l1", eps=0.0, steps=20)
    assert torch.equal(x_adv, x)
