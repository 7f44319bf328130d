"""The arrays behind the figures, against direct computations on a tiny RBF-CNN."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from rbfbench.attacks.rng import Keys
from rbfbench.data.images import Images
from rbfbench.defenses.rbf import RBFConfig, RBFReconstruction
from rbfbench.defenses.rbfcnn import RBFCNN
from rbfbench.errors import UsageError
from rbfbench.evaluation import pictures
from rbfbench.evaluation.pictures import Expansion
from rbfbench.evaluation.target import Target, inspect

CPU = torch.device("cpu")
CONFIG = RBFConfig(beta1=10.0, beta1_train=30.0, beta2=0.5, m=3)


def some_images(n: int = 5) -> Images:
    generator = np.random.default_rng(0)
    return Images(
        name="toy",
        source="made here",
        pixels=generator.integers(0, 256, (n, 6, 5, 2)).astype(np.uint8),
        labels=np.arange(n) % 3,
        indices=np.arange(n) + 100,
        classes=("a", "b", "c"),
    )


def tiny(config: RBFConfig = CONFIG) -> Target:
    generator = torch.Generator().manual_seed(0)
    means = torch.rand(7, 2, 3, 3, generator=generator)
    variances = 0.1 + torch.rand(7, generator=generator)
    net = nn.Sequential(nn.Flatten(), nn.Linear(60, 3))
    with torch.no_grad():
        net[1].weight.copy_(torch.randn(3, 60, generator=generator))
    return inspect(RBFCNN(RBFReconstruction(means, variances, config), net), "tiny", some_images(), CPU)


def plain() -> Target:
    return inspect(nn.Sequential(nn.Flatten(), nn.Linear(60, 3)), "plain", some_images(), CPU)


def rebuilt_by_hand(front: RBFReconstruction, image: np.ndarray, beta1: float) -> np.ndarray:
    """The noise-free reconstruction (C, H, W) of one image in float64, patch by patch from the formulas."""
    means, variances = front.means.double().numpy(), front.variances.double().numpy()
    total, count = np.zeros_like(image), np.zeros_like(image)
    for i in range(image.shape[1] - 2):
        for j in range(image.shape[2] - 2):
            window = np.s_[:, i : i + 3, j : j + 3]
            distance = ((image[window] - means) ** 2).sum((1, 2, 3))
            score = -distance / (2 * variances) - 0.5 * np.log(variances)
            weight = 2 ** (beta1 / (1 + np.exp(-score)))
            total[window] += np.tensordot(weight / weight.sum(), means, 1)
            count[window] += 1
    return (total / count).clip(0, 1)


# Filters --------------------------------------------------------------------------------------------------------------
def test_filters_come_by_their_mean_weight_with_their_own_variances():
    target, images = tiny(), some_images()
    bank = pictures.filter_bank(target, images)
    front = target.model.reconstruction
    weights = front.weights(front.patches(images.batch(0, 5)[0])).double().mean((0, 1))
    assert bank.use.sum() == pytest.approx(1)
    assert (np.diff(bank.use) <= 0).all()
    np.testing.assert_allclose(bank.use, weights.sort(descending=True).values, atol=1e-6)
    order = weights.argsort(descending=True)
    np.testing.assert_array_equal(bank.variances, front.variances[order].double())
    np.testing.assert_array_equal(bank.means[0], front.means[order[0]].permute(1, 2, 0).double())


@pytest.mark.parametrize(
    "ask",
    [
        lambda t, i: pictures.filter_bank(t, i),
        lambda t, i: pictures.reconstructed(t, i, norm="l2", eps=1, seed=0),
        lambda t, i: list(pictures.claim_ratios(t, i, norm="l2", eps=1, seed=0)),
    ],
    ids=["filters", "reconstruction", "claim"],
)
def test_a_model_without_rbf_front_is_refused(ask):
    with pytest.raises(UsageError, match="plain has no RBF filters"):
        ask(plain(), some_images())


# Choosing images ------------------------------------------------------------------------------------------------------
def test_chosen_images_keep_their_ids_and_labels():
    images = some_images()
    chosen = pictures.pick(images, [3, 1])
    assert chosen.ids == [images.ids[3], images.ids[1]]
    assert chosen.labels.tolist() == [0, 1]


@pytest.mark.parametrize("position", [-1, 5])
def test_an_image_that_is_not_there_is_refused(position):
    with pytest.raises(UsageError, match="0 to 4"):
        pictures.pick(some_images(), [0, position])


# Attacked images ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("norm", "order", "eps"), [("linf", np.inf, 0.1), ("l2", 2, 0.8), ("l1", 1, 4.0)])
def test_reconstructed_images_and_their_distances(norm, order, eps):
    """Distances against NumPy on the arrays returned, reconstructions against the formulas (beta2 0: no noise)."""
    target, images = tiny(dataclasses.replace(CONFIG, beta2=0.0)), some_images()
    part = pictures.reconstructed(target, images, norm=norm, eps=eps, seed=0)
    x, rec = pictures.reconstructed_clean(target, images, 0)
    assert x.shape == (5, 6, 5, 2)
    for i in range(5):
        assert np.linalg.norm((part.x_adv[i] - x[i]).ravel(), order) <= eps * (1 + 1e-5)
        assert part.before[i] == pytest.approx(np.linalg.norm(part.x_adv[i] - x[i]), abs=1e-12)
        assert part.after[i] == pytest.approx(np.linalg.norm(part.rec_adv[i] - rec[i]), abs=1e-12)
        by_hand = rebuilt_by_hand(target.model.reconstruction, part.x_adv[i].transpose(2, 0, 1), 10.0)
        np.testing.assert_allclose(part.rec_adv[i].transpose(2, 0, 1), by_hand, atol=1e-5)


def test_versions_of_an_image_share_their_noise_and_images_do_not():
    target, images = tiny(), some_images()
    x = images.batch(0, 5)[0]
    rebuilt = pictures.reconstruct(target, x, images, 0)
    torch.testing.assert_close(pictures.reconstruct(target, x, images, 0), rebuilt)
    assert not torch.allclose(pictures.reconstruct(target, x, images, 1), rebuilt, atol=1e-3)
    same = dataclasses.replace(images, pixels=images.pixels[[0] * 5])
    twins = pictures.reconstruct(target, same.batch(0, 5)[0], same, 0)
    assert not torch.allclose(twins[0], twins[1], atol=1e-3)


def test_a_gallery_starts_clean_and_keeps_each_budget():
    target, images = tiny(), some_images()
    clean, *attacked = pictures.gallery(target, images, norm="linf", radii=[0.1, 0.4], seed=0)
    np.testing.assert_array_equal(clean.images, images.floats(0, 5).transpose(0, 2, 3, 1))
    for shown, eps in zip(attacked, (0.1, 0.4), strict=True):
        assert 0.9 * eps < np.abs(shown.images - clean.images).max() <= eps * (1 + 1e-5)
        assert ((shown.confidence >= 1 / 3) & (shown.confidence <= 1)).all()
    right = [(shown.prediction == images.labels).sum() for shown in (clean, *attacked)]
    assert right[2] <= right[1] <= right[0]


def test_confidence_is_the_probability_whatever_the_model_answers():
    net = nn.Sequential(nn.Flatten(), nn.Linear(60, 3))
    images = some_images()
    x = images.batch(0, 5)[0]
    keys = Keys.of(images.ids, 0)
    expected = net(x).softmax(1).max(1)
    for model in (net, nn.Sequential(net, nn.Softmax(1))):
        got = pictures.decided(inspect(model, "m", images, CPU), x, keys)
        np.testing.assert_allclose(got.confidence, expected.values.detach(), atol=1e-5)
        np.testing.assert_array_equal(got.prediction, expected.indices)


# Saliency -------------------------------------------------------------------------------------------------------------
def test_saliency_is_the_gradient_of_the_loss_clipped_at_three_deviations():
    net = nn.Sequential(nn.Flatten(), nn.Linear(60, 3))
    with torch.no_grad():
        net[1].weight[:, 0] = 20.0 * torch.arange(3)  # one pixel far beyond the clip
    images = some_images()
    seen = pictures.saliency(inspect(net, "m", images, CPU), images, 0)
    x, y = images.batch(0, 5)
    x.requires_grad_()
    nn.functional.cross_entropy(net(x), y, reduction="sum").backward()
    for i in range(5):
        gradient = x.grad[i].permute(1, 2, 0).double().numpy()
        assert seen.lengths[i] == pytest.approx(np.linalg.norm(gradient), rel=1e-5)
        expected = 0.5 + (gradient / gradient.std()).clip(-3, 3) / 6
        np.testing.assert_allclose(seen.shown[i], expected, atol=1e-5)
    assert {0.0, 1.0} & set(seen.shown.ravel())


def test_saliency_of_a_flat_model_is_grey():
    flat = nn.Sequential(nn.Flatten(), nn.Linear(60, 3))
    nn.init.zeros_(flat[1].weight)
    seen = pictures.saliency(inspect(flat, "flat", some_images(), CPU), some_images(), 0)
    assert (seen.shown == 0.5).all()
    assert (seen.lengths == 0).all()


# Claim 1 --------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("eps", [0.05, 1e-5])  # the small one drowns in the rounding of float32 reconstructions
def test_ratios_against_a_float64_loop(eps):
    target, images = tiny(), some_images()
    front = target.model.reconstruction
    rows = list(pictures.claim_ratios(target, images, norm="linf", eps=eps, seed=0, steps=4))
    assert [(row.beta1, row.kind) for row in rows] == [
        (10.0, "random"), (10.0, "adversarial"), (30.0, "random"), (30.0, "adversarial"),
    ]  # fmt: skip
    x, keys = images.batch(0, 5)[0], Keys.of(images.ids, 0)
    delta = pictures.random_perturbation(x, keys, norm="linf", eps=eps)
    for row in (rows[0], rows[2]):
        ratios = []
        for image, d in zip(x.double().numpy(), delta.double().numpy(), strict=True):
            change = rebuilt_by_hand(front, image + d, row.beta1) - rebuilt_by_hand(front, image, row.beta1)
            ratios.append(math.sqrt((change**2).sum() / (d**2).sum()))
        assert row.mean == pytest.approx(np.mean(ratios), rel=1e-3)
        assert row.largest == pytest.approx(max(ratios), rel=1e-3)
        assert row.n == 5
    assert target.model.config == CONFIG


@pytest.mark.parametrize(("norm", "eps"), [("linf", 0.05), ("l2", 0.5), ("l1", 2.0)])
def test_the_ascent_finds_more_than_chance_within_the_budget(norm, eps):
    target, images = tiny(), some_images()
    random, adversarial = list(pictures.claim_ratios(target, images, norm=norm, eps=eps, seed=0))[:2]
    assert adversarial.mean > 1.2 * random.mean
    x, keys = images.batch(0, 5)[0], Keys.of(images.ids, 0)
    rec = target.model.front_static
    for delta in (
        pictures.random_perturbation(x, keys, norm=norm, eps=eps),
        pictures.worst_perturbation(rec, x, keys, norm=norm, eps=eps, steps=5),
    ):
        length = np.linalg.norm(delta.double().flatten(1), {"linf": np.inf, "l2": 2, "l1": 1}[norm], axis=1)
        assert (length <= eps * (1 + 1e-5)).all()
        assert ((x + delta >= -1e-6) & (x + delta <= 1 + 1e-6)).all()


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_the_ascent_finds_the_known_worst_direction(norm):
    """A map that triples one pixel and halves the rest: all of an l2 budget belongs on that pixel."""
    largest = 3.0

    def rec(x: Tensor) -> Tensor:
        gain = torch.full_like(x, 0.5)
        gain[:, 0, 0, 0] = largest
        return gain * x

    x = torch.full((2, 1, 3, 3), 0.5)
    delta = pictures.worst_perturbation(rec, x, Keys.of(["a", "b"], 0), norm=norm, eps=0.1, steps=40)
    if norm == "l2":
        # Steps of constant length circle the optimum.
        assert pictures.expansion(rec, x, delta) == pytest.approx([largest] * 2, rel=0.03)
    else:  # every pixel at its bound
        expected = math.sqrt((largest**2 + 8 * 0.25) / 9)
        assert pictures.expansion(rec, x, delta) == pytest.approx([expected] * 2, rel=1e-3)


def test_the_identity_passes_on_everything():
    x = torch.rand(3, 2, 4, 4, generator=torch.Generator().manual_seed(0))
    delta = pictures.random_perturbation(x, Keys.of(["a", "b", "c"], 0), norm="l1", eps=1.0)
    np.testing.assert_allclose(pictures.expansion(lambda z: z, x, delta), 1)


def test_a_radius_that_no_pixel_can_hold_is_refused():
    """1e-12 beside a pixel of 0.5 is nothing in float32, and nothing over nothing is no ratio."""
    with pytest.raises(UsageError, match=r"^eps = 1e-12 changes nothing: .*; give a larger radius\.$"):
        list(pictures.claim_ratios(tiny(), some_images(), norm="linf", eps=1e-12, seed=0, steps=1))


def row(kind: str, mean: float, largest: float) -> Expansion:
    return Expansion(norm="l2", eps=1.0, beta1=25.0, kind=kind, mean=mean, largest=largest, n=4)


def test_the_conclusion_follows_the_largest_ratio():
    typical = row("random", 0.27, 0.3)
    amplified = pictures.conclusion([typical, row("adversarial", 0.9, 1.05)])
    assert "27%" in amplified
    assert "1.05 (l2, beta1 25)" in amplified
    assert "amplified" in amplified
    calm = pictures.conclusion([typical, row("adversarial", 0.6, 0.8)])
    assert "no proof" in calm
    assert "amplified" not in calm
    assert "with 27% of their length" in calm  # not "27% to 27%"
    assert "with 20% to 30% of" in pictures.conclusion(
        [row("random", 0.2, 1), row("random", 0.3, 1), row("adversarial", 1, 1)]
    )
    assert "not even" in pictures.conclusion([row("random", 1.1, 1.3), row("adversarial", 2, 2.5)])
