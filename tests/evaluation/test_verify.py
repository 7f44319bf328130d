"""The verifier against hand-made cheats: none of them may pass for an adversarial example."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from rbfbench.attacks.norms import NORMS
from rbfbench.attacks.rng import Keys
from rbfbench.defenses.rbf import PRESETS
from rbfbench.evaluation.target import Target
from rbfbench.evaluation.verify import eight_bit, leaning, verify, within_budget

EPS = {"linf": 0.1, "l2": 0.5, "l1": 2.0}


def by_brightness(x: Tensor) -> Tensor:
    """Class 1 iff the mean pixel is above one half."""
    brightness = x.flatten(1).mean(1) - 0.5
    return torch.stack([-brightness, brightness], 1)


def judge(model, x: Tensor, x_adv: Tensor, y: Tensor, norm: str = "linf", **changes):
    target = Target(model, "toy", torch.device("cpu"), n_classes=2, **changes)
    keys = Keys.of([str(i) for i in range(len(x))], 0)
    return verify(target, x, x_adv, y, norm=norm, eps=EPS[norm], keys=keys, passes=5)


@pytest.fixture
def dark() -> tuple[Tensor, Tensor]:
    return torch.full((4, 1, 4, 4), 0.45), torch.zeros(4, dtype=torch.long)


def test_an_honest_success_is_confirmed(dark):
    x, y = dark
    verdict = judge(by_brightness, x, x + 0.09, y)
    assert verdict.valid.all()
    assert (verdict.correct == 0).all()
    assert (verdict.selection < 0).all()
    assert verdict.wrong_any.all()


@pytest.mark.parametrize("norm", NORMS)
def test_one_percent_over_the_budget_is_invalid(dark, norm):
    x, y = dark
    direction = torch.ones_like(x)
    delta = direction / NORMS[norm].length(direction)[0]
    over = judge(by_brightness, x, x + 1.01 * EPS[norm] * delta, y, norm)
    assert not over.valid.any()
    assert judge(by_brightness, x, x + 0.99 * EPS[norm] * delta, y, norm).valid.all()


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_candidate_that_is_not_finite_is_invalid(dark, value):
    x, y = dark
    x_adv = x.clone()
    x_adv[1, 0, 2, 2] = value
    assert judge(by_brightness, x, x_adv, y).valid.tolist() == [True, False, True, True]


def test_a_candidate_outside_the_box_is_invalid_even_within_the_budget():
    x = torch.full((1, 1, 2, 2), 0.98)
    assert not judge(by_brightness, x, x + 0.05, torch.tensor([1])).valid.any()


def test_an_unchanged_image_of_the_right_class_is_no_success(dark):
    x, y = dark
    verdict = judge(by_brightness, x, x.clone(), y)
    assert (verdict.correct == 1).all()
    assert (verdict.selection > 0).all()


def test_leaning_is_the_mean_of_tanh_of_the_margin():
    logits = torch.tensor([[[2.0, 0.5]], [[-1.0, 0.0]], [[0.0, 40.0]]])  # three decisions on one image
    expected = (math.tanh(1.5) + math.tanh(-1.0) - 1) / 3
    assert leaning(logits, torch.tensor([0])).tolist() == pytest.approx([expected], abs=1e-12)
    assert leaning(logits, torch.tensor([1])).tolist() == pytest.approx([-expected], abs=1e-12)


def test_what_is_always_wrong_leans_farther_than_what_is_very_wrong_at_times():
    always, at_times = torch.full((10, 1), -0.6), torch.tensor([[1.0]] * 4 + [[-9.0]] * 6)
    y = torch.tensor([0])
    sure, luck = (leaning(torch.stack([m, torch.zeros_like(m)], dim=2), y).item() for m in (always, at_times))
    assert -1 < sure < luck < 0


def test_a_random_model_is_scored_and_chosen_on_decisions_of_their_own():
    """The first `passes` decisions score, the others choose."""
    asked = []

    class Counting(Target):
        def decide(self, x: Tensor, keys: Keys, decisions: int = 1) -> Tensor:
            asked.append(decisions)
            right = torch.tensor([5.0, 0.0]).expand(decisions, len(x), 2)
            return torch.cat([right[: decisions // 2], right.flip(2)[decisions // 2 :]]) if decisions > 1 else right

    x = torch.full((3, 1, 2, 2), 0.4)
    target = Counting(by_brightness, "toy", torch.device("cpu"), n_classes=2, stochastic=True)
    y, keys = torch.zeros(3, dtype=torch.long), Keys.of(["a", "b", "c"], 0)
    verdict = verify(target, x, x, y, norm="linf", eps=0.1, keys=keys, passes=5)
    assert asked[0] == 10
    assert (verdict.correct == 1).all()
    assert not verdict.wrong_any.any()
    assert verdict.selection.tolist() == pytest.approx([-math.tanh(5.0)] * 3)


def test_decisions_that_do_not_fit_into_one_pass_are_the_same_in_several():
    class Keyed(nn.Module):
        config = PRESETS["default"]

        def front_static(self, x: Tensor) -> Tensor:
            return x

        def front(self, x: Tensor, keys: Keys, draws: int | None = None) -> Tensor:
            sizes.append(len(keys))
            repeated = x.repeat_interleave(len(keys) // len(x), dim=0)
            return repeated + keys.normal(tuple(x.shape[1:]), x)

        def classify(self, images: Tensor) -> Tensor:
            return by_brightness(images)

    x, keys = torch.rand(3, 1, 4, 4), Keys.of(["a", "b", "c"], 0)
    found = []
    for max_rows in (2, 7, 1000):
        sizes: list[int] = []
        target = Target(Keyed(), "toy", torch.device("cpu"), n_classes=2, stochastic=True, m=2, max_rows=max_rows)
        assert target.keyed
        found.append(target.decide(x, keys, 5))
        assert max(sizes) <= max_rows
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


def test_what_rounding_does_not_change_scores_the_same_on_the_8_bit_grid():
    """Also where the draws belong to all images of a call: the first of many decisions is the only one of one."""

    class Noisy(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return 10 * by_brightness(x) + torch.randn(len(x), 2)

    x = torch.randint(0, 256, (300, 1, 4, 4)) / 255
    target = Target(Noisy(), "toy", torch.device("cpu"), n_classes=2, stochastic=True, max_rows=256)
    keys, y = Keys.of([str(i) for i in range(300)], 0), (x.flatten(1).mean(1) > 0.5).long()
    verdict = verify(target, x, x, y, norm="linf", eps=0.1, keys=keys, passes=10)
    assert 0.3 < verdict.correct.mean() < 1
    assert torch.equal(verdict.correct, verdict.correct_8bit)


def test_nan_logits_are_told_from_answers(dark):
    x, y = dark

    def breaks_on_bright(images: Tensor) -> Tensor:
        logits = by_brightness(images)
        logits[images.flatten(1).mean(1) > 0.5] = math.nan
        return logits

    verdict = judge(breaks_on_bright, x, x + 0.09, y)
    assert not verdict.answered.any()


def test_float32_rounding_of_an_exact_step_is_within_the_budget():
    x = torch.rand(64, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    x_adv = (x + 0.1 * torch.sign(torch.randn(x.shape, generator=torch.Generator().manual_seed(1)))).clamp(0, 1)
    assert within_budget(x, x_adv, "linf", 0.1)[0].all()


@given(st.integers(0, 2**31))
def test_rounding_to_8_bits_goes_towards_the_image_and_ends_on_the_grid(seed):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randint(0, 256, (2, 3, 5, 5), generator=generator) / 255
    x_adv = torch.rand(x.shape, generator=generator)
    rounded = eight_bit(x, x_adv)
    levels = rounded.double() * 255
    assert (levels - levels.round()).abs().max() < 1e-4
    assert ((rounded - x).abs() <= (x_adv - x).abs() + 1e-6).all()
    assert ((rounded - x_adv).abs() <= 1 / 255 + 1e-6).all()


def test_an_image_on_the_grid_stays_what_it_is():
    x = (torch.arange(256) / 255).view(1, 1, 16, 16)
    assert torch.equal((eight_bit(torch.zeros_like(x), x) * 255).round(), (x * 255).round())
    assert torch.equal((eight_bit(torch.ones_like(x), x) * 255).round(), (x * 255).round())


def test_rounding_never_moves_a_pixel_beyond_the_image_that_lies_off_the_grid() -> None:
    """Digits have 17 grey levels, which are no 8-bit ones: rounding must not add to the perturbation."""
    x = torch.tensor([[[[5 / 16, 5 / 16, 5 / 16, 11 / 16]]]])
    x_adv = torch.tensor([[[[5 / 16, 5 / 16 + 1e-4, 0.4, 0.2]]]])
    rounded = eight_bit(x, x_adv)
    assert rounded[0, 0, 0, 0] == x[0, 0, 0, 0]
    assert ((rounded - x).abs() <= (x_adv - x).abs() + 1e-7).all()
    assert rounded[0, 0, 0, 2] * 255 == pytest.approx(102.0)
