"""Attacks of foolbox and ART on toys whose answer is known: the same here as there, counted, seeded and silent."""

from __future__ import annotations

import inspect
import random
import subprocess
import sys
import warnings
from collections.abc import Callable
from functools import partial
from importlib import import_module
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from toys import ids, images, lengths, linear_pair, margins, noisy, plain, run_attack, smooth_net

from rbfbench.attacks import ATTACKS
from rbfbench.attacks.oracle import Forward, Objective, Oracle
from rbfbench.attacks.rng import Keys
from rbfbench.errors import ModelError, UsageError
from rbfbench.interop import LIBRARIES, ForeignAttackInfo, attack_info
from rbfbench.interop.art import BUDGET, FIXED, NEAREST
from rbfbench.interop.foolbox import LEFT_OUT
from rbfbench.interop.shown import Shown

SHRINK = 1 - 1e-6


def run(
    name: str,
    forward: Forward,
    x: Tensor,
    y: Tensor,
    *,
    norm: str,
    eps: float,
    seed: int = 0,
    draws: int | None = None,
    objective: Objective = "loss-of-mean",
    max_rows: int = 10_000,
    **changed: Any,
) -> tuple[Tensor, Oracle]:
    """Run a foreign attack with all its parameters, `changed` among them; `draws` None means a view without noise."""
    info = attack_info(name)
    assert changed.keys() <= info.parameters.keys()
    assert norm in info.norms
    keys = Keys.of(ids(len(x)), seed)
    view_keys = None if draws is None else keys.fold("view")
    oracle = Oracle(forward, view_keys, len(x), draws=draws or 1, objective=objective, max_rows=max_rows)
    parameters = {key: parameter.default for key, parameter in info.parameters.items()} | changed
    return info.resolve()(oracle, x, y, norm=norm, eps=eps, rng=keys.fold(name), **parameters), oracle


def labelled(n: int, device: torch.device, classes: int = 4) -> tuple[torch.nn.Module, Tensor, Tensor]:
    """A smooth net, images, and its own answers."""
    net, x = smooth_net(classes, device), images(n, device)
    with torch.no_grad():
        return net, x, net(x).argmax(1)


def watching(model: Callable[[Tensor], Tensor]) -> tuple[Forward, list[Tensor]]:
    """A view, and every batch that it is shown."""
    looks: list[Tensor] = []

    def forward(x: Tensor, keys: Keys | None) -> Tensor:
        looks.append(x.detach().clone())
        return model(x)

    return forward, looks


# the same attack here as there ----------------------------------------------------------------------------------------
@pytest.mark.parametrize(("name", "norm", "size"), [("LinfPGD", "linf", 0.03), ("L2PGD", "l2", 0.02)])
def test_foolbox_pgd_walks_like_ours(name: str, norm: str, size: float, device: torch.device) -> None:
    """Every iterate, in float64; the linf walk meets ball and box, the l2 one only the box (projections differ)."""
    net, x, y = labelled(4, device)
    theirs, their_looks = watching(net)
    ours, our_looks = watching(net)
    common = {"norm": norm, "eps": 0.1 if norm == "linf" else 0.5, "steps": 8, "random_start": False}
    x_adv, oracle = run(f"foolbox:{name}", theirs, x, y, abs_stepsize=size, **common)
    run_attack("pgd", ours, x, y, step_size=size, **common)
    assert len(their_looks) == len(our_looks) == 9
    for there, here in zip(their_looks, our_looks, strict=True):
        assert torch.allclose(there, here, rtol=0, atol=1e-9)
    assert torch.allclose(x_adv, our_looks[-1], rtol=0, atol=1e-9)
    assert oracle.counts.forwards.tolist() == [9] * 4
    assert oracle.counts.backwards.tolist() == [8] * 4


def test_art_fgsm_is_ours(device: torch.device) -> None:
    """ART computes in float32: 6e-8 on numbers up to 1; signs are equal, since no gradient here is that small."""
    net, x, y = labelled(4, device)
    here, _ = run_attack("fgsm", plain(net), x, y, norm="linf", eps=0.1)
    there, oracle = run("art:FastGradientMethod", plain(net), x, y, norm="linf", eps=0.1)
    assert torch.allclose(there, here, rtol=0, atol=1e-6)
    assert oracle.counts.backwards.tolist() == [1] * 4


def test_art_pgd_walks_like_ours(device: torch.device) -> None:
    """ART's first look only finds the number of classes; then its iterates are ours, as above."""
    net, x, y = labelled(4, device)
    theirs, their_looks = watching(net)
    ours, our_looks = watching(net)
    common = {"norm": "linf", "eps": 0.1}
    there, _ = run("art:ProjectedGradientDescentPyTorch", theirs, x, y, max_iter=6, eps_step=0.03, **common)
    run_attack("pgd", ours, x, y, steps=6, step_size=0.03, random_start=False, **common)
    assert len(their_looks[0]) == 1
    for there_at, here_at in zip(their_looks[1:7], our_looks[:6], strict=True):
        assert torch.allclose(there_at, here_at, rtol=0, atol=1e-6)
    assert torch.allclose(there, our_looks[6], rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "changed", "most"),
    [
        ("foolbox:L2CarliniWagnerAttack", {"steps": 100, "binary_search_steps": 4, "initial_const": 1.0}, 1.1),
        ("foolbox:L2DeepFoolAttack", {}, 1.03),
        # Few steps and a coarse search for the constant, as ART has them: the example is found, and not the nearest.
        ("art:CarliniL2Method", {"batch_size": 2, "initial_const": 1.0, "binary_search_steps": 3}, 2.0),
        ("art:DeepFool", {"batch_size": 2, "epsilon": 0.02, "max_iter": 5}, 1.03),
    ],
)
def test_nearest_examples_of_a_linear_model(
    name: str, changed: dict[str, Any], most: float, device: torch.device
) -> None:
    """The distance to the border is known; nobody comes nearer. Two per cent are overshot by DeepFool's default."""
    x = 0.3 + 0.4 * images(2, device)  # away from the box
    model, g = linear_pair(x, gap=1.0)
    y = model(x).argmax(1)
    x_adv, oracle = run(name, plain(model), x, y, norm="l2", eps=1e-3, **changed)  # the budget is none of its business
    nearest = np.abs(margins(model, x, y)) / np.linalg.norm(g.cpu().numpy())
    found = lengths(x_adv - x, "l2")
    assert (margins(model, x_adv, y) > 0).all()
    assert (found >= nearest * (1 - 1e-6)).all()
    assert (found <= nearest * most).all()
    assert attack_info(name).kind == "minimum-norm"
    assert (oracle.counts.backwards > 0).all()


@pytest.mark.parametrize(
    ("name", "changed"),
    [
        ("foolbox:HopSkipJumpAttack", {"steps": 2, "initial_gradient_eval_steps": 10}),
        ("foolbox:BoundaryAttack", {"steps": 30}),
        ("art:HopSkipJump", {"max_iter": 1, "init_eval": 10}),
        ("art:BoundaryAttack", {"max_iter": 3}),
    ],
)
def test_attacks_on_decisions_find_the_other_class_without_gradients(
    name: str, changed: dict[str, Any], device: torch.device
) -> None:
    """Random images fall on both sides of the border, so a start is found within the tries; the box holds the end."""
    x = 0.3 + 0.4 * images(2, device)
    model, _ = linear_pair(x, gap=0.0)
    y = model(x).argmax(1)
    x_adv, oracle = run(name, plain(lambda x: model(x).round()), x, y, norm="l2", eps=1e-3, **changed)
    assert (margins(model, x_adv, y) > 0).all()
    assert x_adv.min() >= 0
    assert x_adv.max() <= 1
    assert oracle.counts.backwards.sum() == 0
    assert not attack_info(name).gradient


def test_images_without_a_start_do_not_stop_the_others(device: torch.device) -> None:
    """Every image of noise is of class 0: nothing leads there from an image of class 0, everything from one of 1."""
    x = torch.stack([torch.full((1, 6, 6), 0.5), torch.full((1, 6, 6), 0.95)]).double().to(device)

    def model(x: Tensor) -> Tensor:
        bright = 20 * (x.flatten(1).mean(1) - 0.8)  # 36 uniform pixels: mean 0.5, standard deviation 0.05
        return torch.stack([-bright, bright], 1)

    y = torch.tensor([0, 1], device=device)
    x_adv, _ = run(
        "foolbox:BoundaryAttack", plain(model), x, y, norm="l2", eps=1.0, steps=20, start_directions=5, start_steps=20
    )
    assert torch.equal(x_adv[0], x[0])
    assert model(x_adv).argmax(1).tolist() == [0, 0]
    # An image that is wrong by itself is its own nearest example, and no steps are spent on it.
    already, oracle = run(
        "foolbox:BoundaryAttack", plain(model), x, 1 - y, norm="l2", eps=1.0, steps=50, start_directions=5
    )
    assert torch.equal(already, x)
    assert oracle.counts.forwards.max() < 10


# traps of theirs, which the verifier is to see ------------------------------------------------------------------------
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
def test_art_square_accepts_l1_and_moves_nothing(dtype: torch.dtype, device: torch.device) -> None:
    x = images(3, device, shape=(1, 16, 16)).to(dtype)
    model, _ = linear_pair(x, gap=1.0)
    y = model(x).argmax(1)
    common = {"eps": 5.0, "max_iter": 10}
    still, _ = run("art:SquareAttack", plain(model), x, y, norm="l1", **common)
    assert torch.equal(still, x)  # every bit, also of images that float32 cannot hold
    moved, _ = run("art:SquareAttack", plain(model), x, y, norm="linf", **common | {"eps": 0.05})
    assert (moved != x).flatten(1).any(dim=1).all()
    assert lengths(moved - x, "linf").max() <= 0.05 + 1e-6  # float32


def test_eps_step_is_arts_or_the_budget_or_what_is_given(device: torch.device) -> None:
    """One step of a linear model's linf attack is as long as the step."""
    x = torch.full((1, 1, 4, 4), 0.5, dtype=torch.float64, device=device)
    model, _ = linear_pair(x, gap=0.0)
    y = model(x).argmax(1)
    one = partial(run, "art:BasicIterativeMethod", plain(model), x, y, norm="linf", max_iter=1)
    for eps, given, step in ((0.3, {}, 0.1), (0.03, {}, 0.03), (0.3, {"eps_step": 0.2}, 0.2)):
        x_adv, _ = one(eps=eps, **given)
        assert lengths(x_adv - x, "linf")[0] == pytest.approx(step, abs=1e-6)


# the model that they see ----------------------------------------------------------------------------------------------
def flat_at_the_mean(x: Tensor) -> Tensor:
    """No gradient within 0.05 of the clean image in every pixel; beyond, class 1 grows with the sum."""
    way = (x - 0.5).flatten(1)
    value = (torch.relu(way - 0.05) - torch.relu(-way - 0.05)).sum(1) * 20 - 4
    return torch.stack([torch.zeros_like(value), value], dim=1)


@pytest.mark.parametrize("name", ["foolbox:LinfFastGradientAttack", "art:FastGradientMethod"])
@pytest.mark.parametrize("max_rows", [10_000, 30])
def test_attacks_on_the_noise_use_the_noise(name: str, max_rows: int, device: torch.device) -> None:
    """Only draws show the way; without noise nothing moves."""
    x = torch.full((8, 1, 2, 4), 0.5, dtype=torch.float64, device=device)
    y = torch.zeros(8, dtype=torch.int64, device=device)
    still, oracle = run(name, plain(flat_at_the_mean), x, y, norm="linf", eps=0.2)
    assert torch.equal(still, x)
    assert oracle.counts.flat.tolist() == oracle.counts.looks.tolist() == [1] * 8
    moved, oracle = run(name, noisy(flat_at_the_mean, 0.1), x, y, norm="linf", eps=0.2, draws=20, max_rows=max_rows)
    assert (margins(flat_at_the_mean, moved, y) > 0).all()
    assert oracle.counts.backwards.tolist() == [20] * 8


def test_the_noise_is_averaged_and_fresh_however_many_rows_are_asked_for(device: torch.device) -> None:
    net, x, _ = labelled(3, device)
    seen: list[tuple[int, int]] = []

    def forward(x: Tensor, keys: Keys | None) -> Tensor:
        assert keys is not None
        seen.extend(zip(keys.images.tolist(), keys.uses.tolist(), strict=True))
        return noisy(net, 0.3)(x, keys)

    keys = Keys.of(ids(3), 0)
    shown = Shown(Oracle(forward, keys, 3, draws=4), x)
    whole = shown(x)
    assert torch.allclose(whole, Oracle(noisy(net, 0.3), keys, 3, draws=4).logits(x), rtol=0, atol=1e-12)
    counts = shown.oracle.counts
    for rows in (1, 1, 2, 5, 7, 1, 1, 3):
        some = shown(x[:1].expand(rows, -1, -1, -1))
        assert some.shape == (rows, 4)
        assert counts.forwards.sum() == counts.drawn.sum() == len(seen)
        assert counts.forwards.max() - counts.forwards.min() <= 4  # one point more than another image, at most
    assert len(set(seen)) == len(seen)  # no draw twice
    assert shown(x.float()).dtype == torch.float32
    probabilities = Shown(Oracle(plain(net), None, 3), x, probabilities=True)(x)
    assert torch.allclose(probabilities, net(x).softmax(1), rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("name", "changed"), [("art:NewtonFool", {"max_iter": 2}), ("art:SimBA", {"max_iter": 20, "attack": "px"})]
)
def test_attacks_on_probabilities_get_them(name: str, changed: dict[str, Any], device: torch.device) -> None:
    """SimBA raises on logits; both lower the true class's probability."""
    net, x, y = labelled(2, device)
    x_adv, _ = run(name, plain(net), x, y, norm="l2", eps=0.5, **changed)
    with torch.no_grad():
        before, after = (net(at).softmax(1).gather(1, y[:, None]) for at in (x, x_adv))
    assert (after < before).all()


def test_points_beyond_the_room_are_taken_in_turn(device: torch.device) -> None:
    net, x, _ = labelled(2, device)
    forward, looks = watching(net)
    many = x.repeat(9, 1, 1, 1)
    assert torch.allclose(Shown(Oracle(forward, None, 2, max_rows=5), x)(many), net(many), rtol=0, atol=1e-12)
    assert [len(look) for look in looks] == [5, 5, 5, 3]


@pytest.mark.parametrize(
    ("name", "changed"),
    [
        ("art:HopSkipJump", {"max_iter": 2, "init_eval": 7}),
        ("art:CarliniL2Method", {"max_iter": 2, "binary_search_steps": 2}),
        ("foolbox:BoundaryAttack", {"steps": 12, "start_directions": 20}),
    ],
)
@pytest.mark.parametrize("draws", [None, 3])
def test_all_that_the_model_is_asked_is_counted(
    name: str, changed: dict[str, Any], draws: int | None, device: torch.device
) -> None:
    net, x, y = labelled(3, device, 3)
    rows = 0

    def forward(x: Tensor, keys: Keys | None) -> Tensor:
        nonlocal rows
        logits = net(x) if keys is None else noisy(net, 0.01)(x, keys)
        rows += len(logits)
        return logits

    _, oracle = run(name, forward, x, y, norm="l2", eps=0.5, draws=draws, **changed)
    assert oracle.counts.forwards.sum() == rows > 0
    if name.startswith("art"):  # foolbox leaves the images without a start alone
        assert oracle.counts.forwards.max() - oracle.counts.forwards.min() <= 2 * (draws or 1)


@pytest.mark.parametrize("name", ["foolbox:LinfPGD", "art:ProjectedGradientDescent"])
def test_a_model_without_gradients_is_an_error_and_not_robust(name: str, device: torch.device) -> None:
    net, x, y = labelled(2, device)
    net.requires_grad_(False)
    with pytest.raises(ModelError, match="the attack needs gradients"):
        run(name, plain(lambda x: net(x.detach())), x, y, norm="linf", eps=0.1)


@pytest.mark.parametrize("name", ["foolbox:LinfPGD", "art:FastGradientMethod"])
def test_the_mean_of_losses_is_refused(name: str, device: torch.device) -> None:
    net, x, y = labelled(2, device)
    with pytest.raises(UsageError, match="leave --objective out"):
        run(name, noisy(net, 0.1), x, y, norm="linf", eps=0.1, draws=2, objective="mean-of-losses")


# box, budget, bits ----------------------------------------------------------------------------------------------------
RANDOM = [
    ("foolbox:L1PGD", "l1", {"steps": 3}),  # draws from torch
    ("foolbox:PointwiseAttack", "l2", {"start_steps": 20}),  # from NumPy
    ("art:SquareAttack", "linf", {"max_iter": 4}),  # from NumPy and Python
    ("art:AutoProjectedGradientDescent", "l2", {"max_iter": 3, "nb_random_init": 2}),
    ("art:HopSkipJump", "l2", {"max_iter": 1, "init_eval": 5}),  # from a generator that wants fresh entropy
]
EVERY_RANDOM = pytest.mark.parametrize(("name", "norm", "changed"), RANDOM)


@EVERY_RANDOM
def test_same_seed_same_bits_and_another_seed_another_walk(
    name: str, norm: str, changed: dict[str, Any], device: torch.device
) -> None:
    net, x, y = labelled(2, device)

    def looks(seed: int) -> tuple[Tensor, list[Tensor]]:
        forward, seen = watching(net)
        x_adv, _ = run(name, forward, x, y, norm=norm, eps=0.5, seed=seed, **changed)
        return x_adv, seen

    once, walk = looks(0)
    np.random.rand(3)
    again, same = looks(0)
    assert torch.equal(once, again)
    assert all(torch.equal(a, b) for a, b in zip(walk, same, strict=True))
    _, other = looks(1)
    assert not all(a.shape == b.shape and torch.equal(a, b) for a, b in zip(walk, other, strict=False))


@EVERY_RANDOM
def test_model_inputs_and_global_generators_are_left_alone(
    name: str, norm: str, changed: dict[str, Any], device: torch.device
) -> None:
    net, x, y = labelled(2, device)
    modes, x_before = [m.training for m in net.modules()], x.clone()
    generators = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()  # type: ignore[union-attr]
    with torch.no_grad():  # a caller's mode is kept, and does not hinder
        x_adv, _ = run(name, noisy(net, 0.01), x, y, norm=norm, eps=0.5, draws=2, **changed)
        assert not torch.is_grad_enabled()
    assert torch.equal(torch.get_rng_state(), generators[0])
    assert np.array_equal(np.random.get_state()[1], generators[1])
    assert random.getstate() == generators[2]
    assert np.random.RandomState.__module__ == "numpy.random.mtrand"
    assert torch.equal(x, x_before)
    assert [m.training for m in net.modules()] == modes
    assert all(p.grad is None and p.requires_grad for p in net.parameters())
    assert x_adv.shape == x.shape
    assert x_adv.dtype == x.dtype
    assert not x_adv.requires_grad
    assert x_adv.min() >= 0
    assert x_adv.max() <= 1
    if attack_info(name).kind == "budget":
        assert lengths(x_adv - x, norm).max() <= 0.5 + 1e-6


@pytest.mark.parametrize("name", ["foolbox:LinfPGD", "art:FastGradientMethod"])
def test_no_images_no_budget_and_one_image(name: str, device: torch.device) -> None:
    net, x, y = labelled(2, device)
    empty, _ = run(name, plain(net), x[:0], y[:0], norm="linf", eps=0.1)
    assert empty.shape == x[:0].shape
    still, _ = run(name, plain(net), x, y, norm="linf", eps=0.0)
    assert torch.equal(still, x)
    assert still.data_ptr() != x.data_ptr()
    one, _ = run(name, plain(net), x[:1], y[:1], norm="linf", eps=0.1)
    assert 0 < lengths(one - x[:1], "linf")[0] <= 0.1


def test_they_say_nothing(capfd: pytest.CaptureFixture[str], device: torch.device) -> None:
    """AutoAttack's parts draw bars of their own; the start of a walk along the border warns where it finds none."""
    x = images(2, device, shape=(1, 8, 8))
    model, _ = linear_pair(x, gap=0.0)
    y = model(x).argmax(1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run("art:AutoAttack", plain(model), x, y, norm="linf", eps=0.5)
        run("foolbox:BoundaryAttack", plain(lambda x: 0 * model(x)), x, 0 * y, norm="l2", eps=0.5, start_directions=2)
    assert capfd.readouterr() == ("", "")


# rows -----------------------------------------------------------------------------------------------------------------
def known() -> list[str]:
    import foolbox  # here, not above: importing it without a word is what is tested first

    classes = {name: value for name, value in vars(foolbox.attacks).items() if inspect.isclass(value)}
    refused = {"Attack", *LEFT_OUT, "L0FMNAttack"}
    fine = [name for name in classes if name not in refused and "BrendelBethge" not in name]  # the last need numba
    return [f"foolbox:{name}" for name in fine] + [f"art:{name}" for name in BUDGET | NEAREST]


def constructor(name: str) -> Any:
    library, _, attack = name.partition(":")
    return getattr(import_module("foolbox.attacks" if library == "foolbox" else "art.attacks.evasion"), attack)


def test_there_is_a_row_for_every_attack_with_every_argument_of_its_constructor() -> None:
    """What the run does not set, the row has: no default of a library decides a result unseen."""
    ours = {*FIXED, "norm", "eps", "estimator", "classifier"}, {"init_attack", "tensorboard", "distance", "constraint"}
    for name in known():
        info = attack_info(name)
        assert isinstance(info, ForeignAttackInfo)
        taken = inspect.signature(constructor(name)).parameters
        by_run = ours[name.startswith("foolbox")]
        by_row = {key for key in info.parameters if not key.startswith("start_")}
        named = {key for key, value in taken.items() if value.kind in (value.POSITIONAL_OR_KEYWORD, value.KEYWORD_ONLY)}
        assert by_row.isdisjoint(by_run), name
        assert by_row <= named <= by_row | by_run, name
        for key, parameter in info.parameters.items():
            default = parameter.default
            text = str(default).lower() if isinstance(default, bool) else str(default)
            assert default is None or parameter.parse(key, text) == default, (name, key)
            if parameter.kind == "choice":
                assert len(parameter.choices) > 1, (name, key)
                assert default is None or default in parameter.choices
        forwards, backwards = info.passes({key: parameter.default for key, parameter in info.parameters.items()})
        assert forwards >= backwards >= info.gradient
        assert info.gradient or not backwards
        assert info.norms
        assert info.kind in ("budget", "minimum-norm")
        assert not info.batch_invariant
        assert info.reference
        assert info.about
        assert "\n" not in info.about
        assert info.release.split()[0] in ("foolbox", "adversarial-robustness-toolbox")
        assert callable(info.resolve())


def test_rows_say_what_is_so() -> None:
    pgd = attack_info("foolbox:LinfPGD")
    assert (pgd.norms, pgd.kind, pgd.gradient) == (("linf",), "budget", True)
    assert {key: value.default for key, value in pgd.parameters.items()} == {
        "rel_stepsize": 0.01 / 0.3,
        "abs_stepsize": None,
        "steps": 40,
        "random_start": True,
    }
    assert pgd.parameters["steps"].parse("steps", "10") == 10
    with pytest.raises(UsageError, match="at least 1"):
        pgd.parameters["steps"].parse("steps", "0")
    assert attack_info("foolbox:HopSkipJumpAttack").norms == ("linf", "l2")
    assert attack_info("foolbox:EADAttack").norms == ("l1",)
    assert attack_info("foolbox:L2CarliniWagnerAttack").reference == "arXiv 1608.04644"
    assert attack_info("art:CarliniLInfMethod").norms == ("linf",)
    assert attack_info("art:SquareAttack").norms == ("linf", "l2", "l1")
    assert not attack_info("art:SquareAttack").gradient
    assert attack_info("art:AutoProjectedGradientDescent").parameters["loss_type"].default is None


def test_arguments_reach_the_constructor(monkeypatch: pytest.MonkeyPatch, device: torch.device) -> None:
    from art.attacks import evasion
    from foolbox import attacks

    given: dict[str, Any] = {}

    def recording(base: Any) -> Any:
        class Recording(base):
            def __init__(self, *args: Any, **named: Any) -> None:
                given.update(named)
                super().__init__(*args, **named)

        Recording.__name__ = base.__name__
        Recording.__signature__ = inspect.signature(base)
        return Recording

    net, x, y = labelled(2, device)
    monkeypatch.setattr(attacks, "LinfPGD", recording(attacks.LinfPGD))
    run("foolbox:LinfPGD", plain(net), x, y, norm="linf", eps=0.1, steps=2)
    assert given == {"rel_stepsize": 0.01 / 0.3, "abs_stepsize": None, "steps": 2, "random_start": True}
    given.clear()
    monkeypatch.setattr(evasion, "SquareAttack", recording(evasion.SquareAttack))
    run("art:SquareAttack", plain(net), x, y, norm="linf", eps=0.1, max_iter=2)
    assert given == {
        "norm": np.inf,
        "eps": 0.1 * SHRINK,
        "max_iter": 2,
        "p_init": 0.8,
        "nb_restarts": 1,
        "batch_size": 128,
        "verbose": False,
        "adv_criterion": None,
        "loss": None,
    }


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("foolbox:LinfPDG", "did you mean 'LinfPGD'"),
        ("art:SqareAttack", "did you mean 'SquareAttack'"),
        ("pdg", "did you mean 'pgd'"),
        ("torchattacks:PGD", "choose one of art, foolbox"),
        ("foolbox:DatasetAttack", "needs a data set"),
        ("foolbox:SpatialAttack", "bounds no norm"),
        ("foolbox:L0FMNAttack", "measures l0"),
        ("art:SaliencyMapMethod", "bounds none of our norms"),
        ("art:importlib", "unknown ART attack"),
    ],
)
def test_attacks_that_cannot_be_run_are_refused_by_name(name: str, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        attack_info(name)


def test_parameters_that_a_library_refuses_are_the_users_error(device: torch.device) -> None:
    net, x, y = labelled(1, device)
    with pytest.raises(UsageError, match="art:SimBA cannot be set up: The batch size `batch_size` has to be 1"):
        run("art:SimBA", plain(net), x, y, norm="l2", eps=0.1, batch_size=2)
    with pytest.raises(UsageError, match="directions must be larger than 0"):
        run("foolbox:LinearSearchBlendedUniformNoiseAttack", plain(net), x, y, norm="l2", eps=0.1, directions=0)


def test_own_attacks_need_no_foreign_library() -> None:
    """And asking for them loads neither torch nor a library, which take seconds."""
    code = (
        "import sys; from rbfbench.interop import attack_info; attack_info('pgd');"
        f"print([m for m in ('torch', *{LIBRARIES}) if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    assert attack_info("pgd") is ATTACKS["pgd"]
