"""What every attack of the table promises, under every norm that it serves: an attack is tested by being listed."""

from __future__ import annotations

import inspect
import random
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from toys import ids, images, lengths, noisy, plain, run_attack, short, smooth_net

from rbfbench.attacks import ATTACKS, SUITES, VIEWS, load_suite
from rbfbench.attacks.best import Best
from rbfbench.attacks.oracle import Oracle
from rbfbench.attacks.rng import Keys
from rbfbench.errors import ModelError

CELLS = [(name, norm) for name, info in ATTACKS.items() for norm in info.norms]
EVERY_CELL = pytest.mark.parametrize(("name", "norm"), CELLS)
BUDGETED = {name for name, info in ATTACKS.items() if info.kind != "minimum-norm"}
EVERY_ATTACK = pytest.mark.parametrize("name", list(ATTACKS))
GRID = {"linf": (0.0, 0.03, 0.5, 3.0), "l2": (0.0, 0.4, 3.0, 40.0), "l1": (0.0, 0.7, 9.0, 600.0)}
MIDDLE = {norm: grid[1] for norm, grid in GRID.items()}


def check(name: str, x: Tensor, x_adv: Tensor, norm: str, eps: float) -> None:
    """Attacks that look for the nearest adversarial example keep to the box; the budget is the engine's affair."""
    if name in BUDGETED:
        check_budget(x, x_adv, norm, eps)
    else:
        check_box(x, x_adv)


def labels(model: nn.Module, x: Tensor) -> Tensor:
    """The model's own answers, so that attacks have work to do."""
    with torch.no_grad():
        return model(x).argmax(1)


def check_box(x: Tensor, x_adv: Tensor) -> None:
    assert x_adv.shape == x.shape
    assert x_adv.dtype == x.dtype
    assert x_adv.device == x.device
    assert not x_adv.requires_grad
    assert torch.isfinite(x_adv).all()
    assert x_adv.min() >= 0
    assert x_adv.max() <= 1


def check_budget(x: Tensor, x_adv: Tensor, norm: str, eps: float) -> None:
    check_box(x, x_adv)
    # Attacks aim at eps (1 - 1e-6), so in float64 rounding cannot reach eps; float32 gets the verifier's tolerance.
    most = eps if x.dtype == torch.float64 else eps * (1 + 1e-5) + 1e-6
    assert lengths(x_adv.double() - x.double(), norm).max() <= most


# box, budget, shape ---------------------------------------------------------------------------------------------------
@EVERY_CELL
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("stochastic", [False, True], ids=["plain", "noisy"])
def test_box_and_budget(name: str, norm: str, dtype: torch.dtype, stochastic: bool, device: torch.device) -> None:
    model = smooth_net(10, device, dtype)
    x = images(5, device).to(dtype)
    y = labels(model, x)
    forward, draws = (noisy(model, 0.1), 2) if stochastic else (plain(model), None)
    for eps in GRID[norm]:
        x_adv, _ = run_attack(name, forward, x, y, norm=norm, eps=eps, draws=draws, **short(name))
        check(name, x, x_adv, norm, eps)
        if eps == 0 and name in BUDGETED:
            assert torch.equal(x_adv, x)


@EVERY_CELL
@pytest.mark.parametrize("classes", [2, 100])
def test_two_and_a_hundred_classes_and_a_batch_of_one(name: str, norm: str, classes: int, device: torch.device) -> None:
    model = smooth_net(classes, device)
    x = images(1, device)
    x_adv, _ = run_attack(name, plain(model), x, labels(model, x), norm=norm, eps=MIDDLE[norm], **short(name))
    check(name, x, x_adv, norm, MIDDLE[norm])


@EVERY_CELL
def test_binary_images_in_float32_keep_the_budget(name: str, norm: str, device: torch.device) -> None:
    """Dark images of realistic size: many coordinates without room, and sums of many float32 roundings."""
    x = images(3, device, shape=(2, 28, 28)).float().round()
    weight = (images(2, device, shape=(2, 28, 28), seed=5) - 0.5).float().flatten(1)
    y = torch.zeros(3, dtype=torch.int64, device=device)
    for eps in GRID[norm][1:3]:
        x_adv, _ = run_attack(name, plain(lambda x: x.flatten(1) @ weight.T), x, y, norm=norm, eps=eps, **short(name))
        check(name, x, x_adv, norm, eps)


@EVERY_CELL
def test_an_empty_batch(name: str, norm: str, device: torch.device) -> None:
    x = images(2, device)[:0]
    y = torch.zeros(0, dtype=torch.int64, device=device)
    model = smooth_net(3, device)
    for forward, draws in ((plain(model), None), (noisy(model, 0.1), 2)):
        x_adv, _ = run_attack(name, forward, x, y, norm=norm, eps=MIDDLE[norm], draws=draws, **short(name))
        assert x_adv.shape == x.shape


# nothing else is touched ----------------------------------------------------------------------------------------------
def state(model: nn.Module) -> list[Any]:
    tensors = [tensor.clone() for tensor in model.state_dict().values()]
    return [*tensors, [m.training for m in model.modules()], [(p.requires_grad, p.grad) for p in model.parameters()]]


@EVERY_CELL
def test_inputs_model_and_global_generators_are_left_alone(name: str, norm: str, device: torch.device) -> None:
    model = smooth_net(10, device)
    x = images(4, device)
    y = labels(model, x)
    before, x_before, y_before = state(model), x.clone(), y.clone()
    generators = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()  # type: ignore[union-attr]
    with torch.no_grad():  # a caller's mode is kept, and does not hinder
        run_attack(name, noisy(model, 0.1), x, y, norm=norm, eps=MIDDLE[norm], draws=2, **short(name))
        assert not torch.is_grad_enabled()
    assert torch.equal(torch.get_rng_state(), generators[0])
    assert np.array_equal(np.random.get_state()[1], generators[1])
    assert random.getstate() == generators[2]
    assert torch.equal(x, x_before)
    assert torch.equal(y, y_before)
    assert not x.requires_grad
    for now, then in zip(state(model), before, strict=True):
        assert torch.equal(now, then) if isinstance(now, Tensor) else now == then


@EVERY_CELL
def test_the_result_is_not_the_input_itself(name: str, norm: str, device: torch.device) -> None:
    model = smooth_net(3, device)
    x = images(2, device)
    x_adv, _ = run_attack(name, plain(model), x, labels(model, x), norm=norm, eps=0.0, **short(name))
    assert x_adv.data_ptr() != x.data_ptr()


# reproducible, and each image for itself ------------------------------------------------------------------------------
@EVERY_CELL
@pytest.mark.parametrize("stochastic", [False, True], ids=["plain", "noisy"])
def test_same_seed_same_bits_and_no_dependence_on_the_batch(
    name: str, norm: str, stochastic: bool, device: torch.device
) -> None:
    """Float64 sums differ by 1e-15 between batches; 1e-9 leaves room for the few steps of a smooth net.

    A coupled attack gets whole groups by definition: only their order may not matter.
    """
    model = smooth_net(10, device)
    x, names = images(7, device), ids(7)
    y = labels(model, x)
    # Large enough that some images break in the first restart and some do not: who is alive must not matter.
    eps = GRID[norm][2] / 3
    forward, draws = (noisy(model, 0.1), 3) if stochastic else (plain(model), None)

    def run(where: list[int]) -> Tensor:
        x_adv, _ = run_attack(
            name,
            forward,
            x[where],
            y[where],
            norm=norm,
            eps=eps,
            names=[names[i] for i in where],
            draws=draws,
            exact=not stochastic,
            **short(name),
        )
        return x_adv

    whole = run(list(range(7)))
    assert torch.equal(run(list(range(7))), whole)
    shuffled = [3, 0, 6, 5, 1, 2, 4]
    assert torch.allclose(run(shuffled), whole[shuffled], rtol=0, atol=1e-9)
    for part in () if ATTACKS[name].coupled else ([0], [1, 2, 3], [4, 5, 6]):
        assert torch.allclose(run(part), whole[part], rtol=0, atol=1e-9)


@pytest.mark.parametrize(("name", "norm"), [cell for cell in CELLS if cell[0] in ("pgd", "noise", "spsa", "square")])
def test_another_seed_or_image_id_starts_elsewhere(name: str, norm: str, device: torch.device) -> None:
    model = smooth_net(10, device)
    x = images(1, device)
    y = labels(model, x)

    def first_look(**change: Any) -> Tensor:
        looks: list[Tensor] = []

        def watching(x: Tensor, keys: Keys | None) -> Tensor:
            looks.append(x.detach().clone())
            return model(x)

        run_attack(name, watching, x, y, norm=norm, eps=0.3, **short(name), **change)
        return looks[0]

    assert torch.equal(first_look(), first_look())
    assert not torch.equal(first_look(), first_look(seed=1))
    assert not torch.equal(first_look(), first_look(names=["another"]))


# odd models -----------------------------------------------------------------------------------------------------------
@EVERY_CELL
@pytest.mark.parametrize("offset", [0.0, -1e4], ids=["zero", "negative"])
def test_a_constant_model_yields_no_nan_and_no_success(
    name: str, norm: str, offset: float, device: torch.device
) -> None:
    """Every gradient is exactly zero, and every logit may be negative (a mask by 0 would then win)."""
    x = images(3, device)
    y = torch.zeros(3, dtype=torch.int64, device=device)
    constant = torch.tensor([2.0, 1.0, -1.0], dtype=x.dtype, device=device) + offset
    losses = ATTACKS[name].parameters.get("loss")
    for loss in losses.choices if losses else (None,):
        chosen = {} if loss is None else {"loss": loss}
        forward = plain(lambda x: constant + 0 * x.sum(dim=(1, 2, 3))[:, None])
        x_adv, _ = run_attack(name, forward, x, y, norm=norm, eps=MIDDLE[norm], **short(name), **chosen)
        check(name, x, x_adv, norm, MIDDLE[norm])


@EVERY_CELL
def test_a_shift_of_all_logits_changes_nothing(name: str, norm: str, device: torch.device) -> None:
    """Also with all logits negative. The shift of 100 costs 1e-14 of float64 precision in the gradient."""
    model = smooth_net(5, device)
    x = images(4, device)
    y = labels(model, x)
    same = {"norm": norm, "eps": MIDDLE[norm], **short(name)}
    here, _ = run_attack(name, plain(model), x, y, **same)
    shifted, _ = run_attack(name, plain(lambda x: model(x) - 100), x, y, **same)
    assert torch.allclose(here, shifted, rtol=0, atol=1e-9)


@EVERY_CELL
def test_images_misclassified_from_the_start_stay_so(name: str, norm: str, device: torch.device) -> None:
    model = smooth_net(2, device)
    x = images(6, device)
    y = 1 - labels(model, x)
    x_adv, _ = run_attack(name, plain(model), x, y, norm=norm, eps=MIDDLE[norm] / 100, **short(name))
    check(name, x, x_adv, norm, MIDDLE[norm])
    already = (model(x).gather(1, y[:, None]) - model(x).gather(1, 1 - y[:, None]))[:, 0]
    sure = already < -0.1  # others may be turned right by a move at random
    assert sure.any()
    assert (labels(model, x_adv)[sure] != y[sure]).all()


@pytest.mark.parametrize("name", [name for name, info in ATTACKS.items() if info.gradient])
def test_a_model_without_gradients_is_an_error_and_not_robust(name: str, device: torch.device) -> None:
    model = smooth_net(3, device)
    x = images(2, device)
    with pytest.raises(ModelError, match="the attack needs gradients"):
        run_attack(name, plain(lambda x: model(x.detach())), x, labels(model, x), norm="linf", eps=0.1, **short(name))
    model.requires_grad_(False)
    with pytest.raises(ModelError, match="the attack needs gradients"):
        run_attack(name, plain(lambda x: model(x.round().detach())), x, labels(model, x), norm="linf", eps=0.1)


def test_the_best_candidate_survives_nan_and_worse_offers(device: torch.device) -> None:
    x = images(2, device)
    y = torch.zeros(2, dtype=torch.int64, device=device)
    best = Best(x, y)
    everyone = torch.arange(2, device=device)
    good, bad = torch.full_like(x, 0.25), torch.full_like(x, 0.75)
    best.offer(everyone, good, torch.tensor([[0.0, 1.0], [0.0, -1.0]], device=device))
    best.offer(everyone, bad, torch.tensor([[0.0, 0.5], [0.0, float("nan")]], device=device))
    assert torch.equal(best.x_adv, good)
    assert best.broken.tolist() == [True, False]
    best.offer(everyone[1:], bad[1:], torch.tensor([[0.0, 2.0]], device=device))
    assert torch.equal(best.x_adv, torch.stack([good[0], bad[1]]))


# the table says what is so --------------------------------------------------------------------------------------------
@EVERY_ATTACK
def test_the_table_names_the_parameters_of_the_function(name: str) -> None:
    signature = inspect.signature(ATTACKS[name].resolve())
    fixed = ["oracle", "x", "y", "norm", "eps", "rng"]
    assert list(signature.parameters)[:6] == fixed
    assert all(signature.parameters[key].default is inspect.Parameter.empty for key in fixed)
    free = {key: value for key, value in signature.parameters.items() if key not in fixed}
    assert all(value.kind is inspect.Parameter.KEYWORD_ONLY for value in free.values())
    assert {key: value.default for key, value in free.items()} == {
        key: parameter.default for key, parameter in ATTACKS[name].parameters.items()
    }
    assert ATTACKS[name].coupled == ("particles" in free)
    kinds = {"int": "int", "float": "float", "bool": "bool", "str": "choice"}
    kinds |= {f"{kind} | None": kind for kind in ("int", "float")}
    for key, parameter in ATTACKS[name].parameters.items():
        assert kinds[str(free[key].annotation)] == parameter.kind
        if parameter.kind == "choice":
            assert parameter.default in parameter.choices


@EVERY_CELL
@pytest.mark.parametrize("draws", [None, 3])
def test_passes_bounds_the_cost_of_every_image(name: str, norm: str, draws: int | None, device: torch.device) -> None:
    model = smooth_net(10, device)
    x = images(4, device)
    y = labels(model, x)
    forward = plain(model) if draws is None else noisy(model, 0.05)
    seen = 0

    def counting(x: Tensor, keys: Keys | None) -> Tensor:
        nonlocal seen
        logits = forward(x, keys)
        seen += len(logits)
        return logits

    for given in ({}, short(name)):
        parameters = {key: value.default for key, value in ATTACKS[name].parameters.items()} | given
        bound = ATTACKS[name].passes(parameters)
        if not given and bound[0] > 500:
            continue  # too long, and the short run below goes the same way
        seen = 0
        asked = {"norm": norm, "eps": MIDDLE[norm], "draws": draws, "exact": draws is None}
        _, oracle = run_attack(name, counting, x, y, **asked, **parameters)
        assert (oracle.counts.forwards <= bound[0] * (draws or 1)).all()
        assert (oracle.counts.backwards <= bound[1] * (draws or 1)).all()
        assert oracle.counts.forwards.sum() == seen  # and the count itself is what the model was asked


@pytest.mark.parametrize("suite", list(SUITES))
def test_suites_hold_rows_of_the_table_with_complete_legal_parameters(suite: str) -> None:
    for norm in ("linf", "l2", "l1"):
        under = load_suite(suite, norm)
        assert len({row.id for row in under}) == len(under)
    rows = load_suite(suite)
    for row in rows:
        known = ATTACKS[row.attack].parameters
        assert row.view in VIEWS
        assert row.parameters.keys() == known.keys()
        for key, value in row.parameters.items():
            assert known[key].check(key, value) == value
            assert known[key].kind != "choice" or value in known[key].choices


def test_a_narrowed_oracle_counts_for_the_right_images(device: torch.device) -> None:
    model = smooth_net(3, device)
    x = images(5, device)
    keys = Keys.of(ids(5), 0)
    oracle = Oracle(noisy(model, 0.3), keys, 5, draws=2)
    whole = oracle.logits(x)
    again = Oracle(noisy(model, 0.3), keys, 5, draws=2)
    near = again[torch.tensor([False, True, True, False, True], device=device)][torch.tensor([2, 0], device=device)]
    assert len(near) == 2
    assert torch.allclose(near.logits(x[[4, 1]]), whole[[4, 1]], rtol=0, atol=1e-12)
    near.value_and_grad(x[[4, 1]], lambda z: z[:, 0])
    assert again.counts.forwards.tolist() == [0, 4, 0, 0, 4]
    assert again.counts.backwards.tolist() == [0, 2, 0, 0, 2]


def test_a_repeated_image_is_counted_each_time_and_sees_noise_of_its_own(device: torch.device) -> None:
    model = smooth_net(3, device)
    x = images(2, device)
    keys = Keys.of(ids(2), 0)
    repeated = Oracle(noisy(model, 0.3), keys, 2, draws=2)
    near = repeated[torch.tensor([1, 0, 1, 1], device=device)]
    seen = near.logits(x[[1, 0, 1, 1]])
    assert repeated.counts.forwards.tolist() == repeated.counts.drawn.tolist() == [2, 6]
    # One after the other, the same image sees the same draws.
    alone = Oracle(noisy(model, 0.3), keys, 2, draws=2)[torch.tensor([1], device=device)]
    for row in (0, 2, 3):
        assert torch.allclose(alone.logits(x[1:]), seen[row : row + 1], rtol=0, atol=1e-12)
    assert not torch.allclose(seen[0], seen[2], atol=1e-3)
    near.value_and_grad(x[[1, 0, 1, 1]], lambda z: z[:, 0])
    assert repeated.counts.backwards.tolist() == [2, 6]
    assert repeated.counts.looks.tolist() == [1, 3]
