"""What a run finds out about a model that is not what it passes for: random now and then, or tied to its batch."""

from __future__ import annotations

import itertools

import pytest
import torch
from test_engine import CPU, Brightness, NoisyAsAWhole, NoisyBrightness, fired, images, noisy_rbfcnn, row, run
from torch import Tensor, nn

from rbfbench.attacks.rng import Keys
from rbfbench.evaluation.asked_again import SEEN, TOGETHER, answers_changed, null_off_clean
from rbfbench.evaluation.target import inspect
from rbfbench.results.intervals import score


class Seldom(Brightness):
    """Another answer in every 20th pass: the two passes that inspect a model find it deterministic."""

    def __init__(self) -> None:
        super().__init__()
        self.passes = itertools.count(1)

    def forward(self, x: Tensor) -> Tensor:
        logits = super().forward(x)
        return logits.flip(1) if next(self.passes) % 20 == 0 else logits


class BesideOthers(Brightness):
    """Logits less their mean over the batch, as with batch norm in training mode."""

    def forward(self, x: Tensor) -> Tensor:
        logits = super().forward(x)
        return logits - logits.mean(0)


@pytest.mark.parametrize("model", [Seldom, BesideOthers])
def test_a_model_whose_answers_change_is_told(model):
    outcome = run(model(), [row("fgsm")], images(300))
    assert not outcome.run.model["stochastic"]
    assert "answers-changed" in fired(outcome)


def test_a_model_that_keeps_its_answers_is_not_suspected():
    assert "answers-changed" not in fired(run(Brightness(), [row("fgsm")]))
    assert "answers-changed" not in fired(run(noisy_rbfcnn(), [row("fgsm", "eot")]))  # random, and known to be


@pytest.mark.parametrize("n", [1, 3, TOGETHER + 1, SEEN + 5])
def test_each_of_the_first_images_is_asked_about_twice_and_beside_others(n):
    data, seen = images(n), []
    target = inspect(Brightness(), "toy", data, CPU)
    keys = Keys.of(data.ids, 0)
    decide = target.decide

    def watched(x: Tensor, keys: Keys) -> Tensor:
        seen.append(list(keys.images))
        return decide(x, keys)

    target.decide = watched
    found = answers_changed(target, data, keys, data.labels)
    assert not found.fired
    count = min(n, SEEN)
    first = seen[: -(-count // TOGETHER)]
    assert sorted(itertools.chain(*seen)) == sorted(2 * list(keys.images[:count]))
    assert max(map(len, seen)) <= TOGETHER
    if n > 1:
        assert not {frozenset(batch) for batch in first} & {frozenset(batch) for batch in seen[len(first) :]}


def test_a_clear_answer_other_than_that_of_the_run_counts_and_a_tie_does_not():
    data = images(4)
    keys = Keys.of(data.ids, 0)
    other = data.labels.copy()
    other[1] = 1 - other[1]
    assert "1 of 4" in answers_changed(inspect(Brightness(), "toy", data, CPU), data, keys, other).detail

    def undecided(x: Tensor) -> Tensor:
        return torch.zeros(len(x), 2)

    assert not answers_changed(inspect(undecided, "toy", data, CPU), data, keys, other).fired


def test_noise_that_is_drawn_once_for_a_pass_is_told_and_noise_of_each_image_is_not():
    assert "noise-shared" in fired(run(NoisyAsAWhole(), [row("fgsm", "eot")]))
    assert "noise-shared" not in fired(run(NoisyBrightness(), [row("fgsm", "eot")]))
    assert "noise-shared" not in fired(run(noisy_rbfcnn(), [row("fgsm", "eot")]))


@pytest.mark.parametrize(("right", "decisions", "told"), [(0.84, 3, False), (0.83, 3, True), (0.83, 1, False)])
def test_clean_accuracies_farther_apart_than_independent_noise_allows_are_told(right, decisions, told):
    """Of 100 images with 3 decisions four standard deviations are at most 4 sqrt(1/600) = 16.3 points."""
    assert null_off_clean(score(100, 100), score(100 * right, 100), decisions).fired is told


class Opaque(nn.Module):
    """Random, and without a gradient: there is no noise to average a gradient over."""

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        return Brightness()(x + 0.01 * torch.randn_like(x))


def test_a_random_model_without_a_gradient_is_not_told_to_average_it():
    assert "noise-not-attacked" not in fired(run(Opaque(), [row("square", "none", queries=5)]))
    assert "noise-not-attacked" in fired(run(NoisyBrightness(), [row("square", "none", queries=5)]))


class Sharded(nn.Module):
    """Random, and for batches of eight only."""

    def forward(self, x: Tensor) -> Tensor:
        assert len(x) % 8 == 0
        return Brightness()(x + torch.randn(1))


def test_a_model_is_asked_about_its_noise_in_batches_that_it_took():
    assert inspect(Sharded(), "toy", images(), CPU).card["noise_shared"]
