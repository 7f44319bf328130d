"""Attacks that look for the nearest adversarial example: closed-form distances, the box, confidence, sparsity."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import brentq, minimize_scalar
from torch import Tensor
from toys import DUAL, Array, Linear, best_move, images, lengths, linear_pair, margins, plain, run_attack, smooth_net

from rbfbench.attacks import ATTACKS
from rbfbench.attacks.ead import shrink
from rbfbench.attacks.rng import Keys

# Shares above the closed-form minimum: DeepFool's overshoot of 2%; Adam and FISTA with few steps on smooth problems;
# the bound of cw-linf falls in steps of 10%.
CASES: list[tuple[str, str, float, dict[str, Any]]] = [
    ("deepfool", "l2", 1.021, {}),
    ("deepfool", "linf", 1.021, {}),
    ("cw-l2", "l2", 1.02, {"steps": 300, "initial_c": 0.1}),
    ("cw-linf", "linf", 1.1, {"steps": 200}),
    ("ead", "l1", 1.05, {"steps": 800, "initial_c": 0.1}),
]
EVERY = pytest.mark.parametrize(("name", "norm", "share", "settings"), CASES, ids=[f"{c[0]}-{c[1]}" for c in CASES])


def run(name: str, model: Callable[[Tensor], Tensor], x: Tensor, y: Tensor, norm: str, **settings: Any) -> Tensor:
    return run_attack(name, plain(model), x, y, norm=norm, eps=0.0, **settings)[0]


def interior(n: int, device: torch.device) -> Tensor:
    return 0.4 + 0.2 * images(n, device)


def linear(classes: int, x: Tensor, seed: int = 4) -> tuple[Linear, Tensor, Array]:
    """A linear model near whose borders all images lie, its answers, and each image's distance matrix of gaps."""
    rng = np.random.default_rng(seed)
    weight = torch.from_numpy(rng.normal(size=(classes, x[0].numel()))).to(x)
    bias = -(weight @ x.mean(0).flatten())
    model = Linear(weight, bias.detach())
    with torch.no_grad():
        y = model(x).argmax(1)
    return model, y, weight.cpu().numpy()


def closed_form(model: Linear, x: Tensor, y: Tensor, weight: Array, norm: str) -> Array:
    """Min over classes of the gap over the dual norm of the difference of weights."""
    with torch.no_grad():
        logits = model(x).cpu().numpy()
    shortest = []
    for row, label in zip(logits, y.tolist(), strict=True):
        others = [k for k in range(len(row)) if k != label]
        shortest.append(
            min((row[label] - row[k]) / np.linalg.norm(weight[label] - weight[k], ord=DUAL[norm]) for k in others)
        )
    return np.array(shortest)


@EVERY
@pytest.mark.parametrize("classes", [2, 10])
def test_the_least_distance_of_a_linear_model(
    name: str, norm: str, share: float, settings: dict[str, Any], *, classes: int, device: torch.device
) -> None:
    x = interior(6, device)
    model, y, weight = linear(classes, x)
    x_adv = run(name, model, x, y, norm, **settings)
    least = closed_form(model, x, y, weight, norm)
    assert (margins(model, x_adv, y) > 0).all()
    reached = lengths(x_adv - x, norm)
    assert (reached >= least * (1 - 1e-9)).all()
    # DeepFool adds 1e-4 to the length of its step, by definition.
    assert (reached <= share * (least + 1e-4)).all()


@EVERY
def test_the_box_is_kept_and_the_least_distance_within_it_is_not_undercut(
    name: str, norm: str, share: float, settings: dict[str, Any], device: torch.device
) -> None:
    """Binarised images: every pixel is at a bound, and must be able to leave it."""
    x = images(4, device).round()
    model, g = linear_pair(x, gap=0.0)
    with torch.no_grad():
        y = model(x).argmax(1)
    x_adv = run(name, model, x, y, norm, **settings)
    assert x_adv.min() >= 0
    assert x_adv.max() <= 1
    assert (margins(model, x_adv, y) > 0).all()
    gaps = -margins(model, x, y)
    for i, gap in enumerate(gaps):
        towards = g.cpu().numpy() * (1 if y[i] == 0 else -1)
        flat = x[i].flatten().cpu().numpy()

        def left(eps: float, flat: Array = flat, towards: Array = towards, gap: float = gap) -> float:
            return float(towards @ best_move(norm, flat, towards, eps)) - gap

        most = {"linf": 1.0, "l2": 10.0, "l1": 60.0}[norm]
        least = brentq(left, 0, most)
        reached = lengths(x_adv[i : i + 1] - x[i : i + 1], norm)[0]
        assert reached >= least * (1 - 1e-6)
        # Elastic net steps move every coordinate together, and its l1 end waits for those that the box stops.
        assert reached <= (1.15 if name == "ead" else share) * (least + 1e-4)


@pytest.mark.parametrize(("name", "norm"), [("cw-l2", "l2"), ("ead", "l1")])
def test_confidence_is_reached_and_costs_distance(name: str, norm: str, device: torch.device) -> None:
    x = interior(4, device)
    model, y, _ = linear(3, x)
    near = run(name, model, x, y, norm, steps=200, initial_c=0.1)
    sure = run(name, model, x, y, norm, steps=200, initial_c=0.1, kappa=0.5)
    assert (margins(model, sure, y) >= 0.5 - 1e-9).all()
    assert (lengths(sure - x, norm) > lengths(near - x, norm)).all()


def test_the_step_of_fista_is_the_least_of_its_objective(device: torch.device) -> None:
    rng = np.random.default_rng(0)
    for beta in (0.01, 0.3):
        for _ in range(20):
            x, point = rng.random(), rng.normal(0.5, 1)

            def objective(v: float, x: float = x, point: float = point, beta: float = beta) -> float:
                return (v - point) ** 2 / 2 + beta * abs(v - x)

            found = shrink(*(torch.tensor([v], dtype=torch.float64) for v in (x, point)), beta).item()
            best = minimize_scalar(objective, bounds=(0, 1), method="bounded", options={"xatol": 1e-9}).x
            # The minimiser stops within 1e-9 of the minimum, but a flat one is found to the root of the precision.
            assert objective(found) <= objective(best) + 1e-9
            assert 0 <= found <= 1


def test_a_larger_weight_of_l1_is_sparser(device: torch.device) -> None:
    x = interior(6, device)
    model, y, _ = linear(3, x)
    changed = [
        float(((run("ead", model, x, y, "l1", steps=200, initial_c=0.1, beta=beta) - x).abs() > 1e-6).double().mean())
        for beta in (1e-4, 0.1)
    ]
    assert changed[1] < changed[0]


@pytest.mark.parametrize(("name", "norm"), [(c[0], c[1]) for c in CASES])
def test_where_nothing_is_found_the_image_comes_back(name: str, norm: str, device: torch.device) -> None:
    x = interior(2, device)
    y = torch.zeros(2, dtype=torch.int64, device=device)

    def constant(x: Tensor) -> Tensor:
        level = 0 * x.sum(dim=(1, 2, 3))
        return torch.stack([level + 1, level], dim=1)

    small = {key: value for key, value in {"steps": 5, "search_steps": 2}.items() if key in ATTACKS[name].parameters}
    assert torch.equal(run(name, constant, x, y, norm, **small), x)


@pytest.mark.parametrize(("name", "norm"), [*((c[0], c[1]) for c in CASES), ("fab-t", "l2")])
def test_a_point_that_only_one_look_finds_wrong_is_no_example(name: str, norm: str, device: torch.device) -> None:
    """The model answers wrongly when it meets a point for the first time, and never again."""
    x = interior(1, device)
    model, y, _ = linear(3, x)
    met: set[bytes] = set()

    def flaky(x: Tensor, keys: Keys | None) -> Tensor:
        logits = torch.nn.functional.one_hot(y, 3) + 1e-3 * model(x)
        point = x.detach().cpu().numpy().tobytes()
        first = point not in met
        met.add(point)
        return logits.roll(1, dims=1) if first else logits

    settings = {"steps": 6, "search_steps": 2, "targets": 2}
    asked = {key: value for key, value in settings.items() if key in ATTACKS[name].parameters}
    x_adv, _ = run_attack(name, flaky, x, y, norm=norm, eps=0.1, draws=1, exact=False, **asked)
    assert torch.equal(x_adv, x)


@pytest.mark.parametrize("scale", [2.0**-10, 2.0**10])
def test_cw_linf_does_not_depend_on_the_scale_of_the_logits(scale: float, device: torch.device) -> None:
    """Powers of two round nothing, so the walk is the same to the last bit."""
    x = images(4, device)
    model = smooth_net(4, device)
    with torch.no_grad():
        y = model(x).argmax(1)
    plainly = run("cw-linf", model, x, y, "linf", steps=50)
    assert (lengths(plainly - x, "linf") > 0).any()
    assert torch.equal(run("cw-linf", lambda x: scale * model(x), x, y, "linf", steps=50), plainly)
