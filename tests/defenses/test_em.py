"""Non-parametric EM: its steps against loops, and what it finds in patches whose groups are known."""

from __future__ import annotations

import dataclasses
import itertools
import math

import numpy as np
import pytest
import torch
from torch import Tensor

from rbfbench.data import load_data
from rbfbench.defenses import em
from rbfbench.defenses.em import EM_PRESETS, EMConfig, assign, fit_filters, match_scores, sample_patches
from rbfbench.errors import ModelError


def state(device: torch.device | str = "cpu") -> tuple[Tensor, Tensor, Tensor]:
    """300 patches of 4 pixels, 5 filters of different widths."""
    rng = np.random.default_rng(0)
    arrays = rng.random((300, 4)), rng.random((5, 4)), rng.uniform(0.01, 0.2, 5)
    return tuple(torch.from_numpy(a).to(device) for a in arrays)  # type: ignore[return-value]


def looped_owner(patches: Tensor, means: Tensor, variances: Tensor, reject_below: float) -> list[int]:
    owners = []
    for z in patches.tolist():
        best, owner = -math.inf, -1
        for k, (mu, v) in enumerate(zip(means.tolist(), variances.tolist(), strict=True)):
            score = math.log(1 / math.sqrt(v)) - sum((a - b) ** 2 for a, b in zip(z, mu, strict=True)) / (2 * v)
            if score > best:
                best, owner = score, k
        owners.append(owner if best >= reject_below else len(means))
    return owners


@pytest.mark.parametrize("reject_below", [-math.inf, -1.0, 0.5, math.inf])
def test_e_step_gives_each_patch_to_its_best_filter(reject_below: float, device: torch.device) -> None:
    patches, means, variances = state(device)
    owner = assign(patches, means, variances, reject_below).tolist()
    assert owner == looped_owner(patches, means, variances, reject_below)
    rejected = owner.count(5)
    assert {-math.inf: rejected == 0, math.inf: rejected == 300}.get(reject_below, 0 < rejected < 300)


def test_e_step_without_filters_rejects_all() -> None:
    patches, means, variances = state()
    assert assign(patches, means[:0], variances[:0], -1.0).tolist() == [0] * 300  # index K = 0 is "rejected"


def test_match_score_is_not_spoilt_by_cancellation() -> None:
    patches, means, _ = state()
    scores = match_scores(torch.cat([means, patches]), means, torch.full((5,), 1e-20, dtype=torch.float64))
    assert scores.isfinite().all()
    # At its own mean a squared distance below 0 would score above the peak -ln(V)/2.
    assert float(scores.max()) <= 0.5 * math.log(1e20)


def test_m_step_is_mean_and_mean_squared_distance_of_the_members(device: torch.device) -> None:
    patches, _, _ = state(device)
    owner = torch.tensor([0] * 100 + [1] * 50 + [2] + [3] * 2 + [5] * 147, device=device)  # 4 owns none; 5 is rejected
    means, variances = em._update(patches, owner, 5, EMConfig(wish=5))
    groups = [patches[owner == k] for k in (0, 1, 3, 5)]  # 2 owns one patch, which is too few
    expected = [
        ([math.fsum(column) / len(g) for column in g.T.tolist()], g.tolist()) for g in (group.cpu() for group in groups)
    ]
    assert len(means) == len(variances) == len(expected)
    for mean, variance, (centre, members) in zip(means.tolist(), variances.tolist(), expected, strict=True):
        assert mean == pytest.approx(centre, rel=1e-13)
        squares = [(a - b) ** 2 for z in members for a, b in zip(z, centre, strict=True)]
        # E|z|^2 - |mu|^2 cancels from about 1.3 to 0.3: an error of some 1e-15.
        assert variance == pytest.approx(math.fsum(squares) / len(members), abs=1e-13)


@pytest.mark.parametrize(("rejected", "founded"), [(0, 0), (1, 0), (2, 0), (3, 1), (200, 1)])
def test_rejected_patches_found_at_most_one_filter_and_only_with_their_share(rejected: int, founded: int) -> None:
    patches = torch.rand(2000, 4, dtype=torch.float64)  # min_share 0.001: more than 2 patches
    owner = torch.zeros(2000, dtype=torch.long)
    owner[: rejected or None] = 1 if rejected else 0
    means, _ = em._update(patches, owner, 1, EMConfig(wish=5))
    assert len(means) == 1 + founded


def test_filters_of_equal_patches_get_the_smallest_variance() -> None:
    patches = torch.full((50, 4), 0.25, dtype=torch.float64)
    _, variances = em._update(patches, torch.zeros(50, dtype=torch.long), 1, EMConfig(wish=5))
    assert 1e-20 <= float(variances) < 1e-15  # 0 up to the rounding of |z|^2 - |mu|^2


@pytest.mark.parametrize("value", [0.0, 1.0, 0.1])
def test_constant_images_give_one_filter_without_nan(value: float, device: torch.device) -> None:
    images = torch.full((20, 2, 6, 6), value, device=device)
    config = EMConfig(wish=3, updates=30, freeze_after=20, images_per_update=10, patch_fraction=1.0)
    means, variances = fit_filters(lambda a, b: images[a:b], 20, config)
    assert means.shape == (1, 2, 3, 3)
    assert variances.shape == (1,)
    assert means.device.type == device.type
    # float32 images in float64: the mean of equal numbers, up to the rounding of a sum of 160
    np.testing.assert_allclose(means.cpu(), images[:1, :, :3, :3].double().cpu(), rtol=1e-13)
    assert 1e-20 <= float(variances) < 1e-14


CORNERS = torch.tensor([[int(bit) for bit in f"{word:09b}"] for word in (0, 73, 146, 292, 511, 438)]).double()


def patchwork(prototypes: Tensor, images: int, noise: float, seed: int = 0) -> Tensor:
    """Images (N, 1, 3, 3) of one patch each, in turn one of the prototypes, with Gaussian noise."""
    generator = torch.Generator().manual_seed(seed)
    pure = prototypes[torch.arange(images) % len(prototypes)]
    return (pure + noise * torch.randn(pure.shape, generator=generator, dtype=torch.float64)).view(-1, 1, 3, 3)


def test_well_separated_groups_are_found_with_their_centres_and_spreads(device: torch.device) -> None:
    """Six corners of the cube [0,1]^9, 1.7 or more apart; noise 0.03 a pixel makes V = 9 * 0.03^2."""
    assert float(torch.pdist(CORNERS).min()) > 1.7
    images = patchwork(CORNERS, 1200, 0.03).to(device)
    config = EMConfig(wish=6, updates=120, freeze_after=100, images_per_update=600, patch_fraction=1.0)
    means, variances = fit_filters(lambda a, b: images[a:b], 1200, config)
    distance = torch.cdist(CORNERS, means.flatten(1).cpu())
    nearest, which = distance.min(dim=1)
    assert len(means) == len(set(which.tolist())) == 6
    # The last update saw 600 images, 100 of each corner: |mean error| ~ sqrt(9) * 0.03 / 10 = 0.009; four times that.
    assert float(nearest.max()) < 0.036
    # V is a mean of 900 squares less what the mean fits: relative error sqrt(2 / 900) = 0.047, bias 0.01.
    np.testing.assert_allclose(variances.cpu(), 9 * 0.03**2, rtol=0.25)


def test_filters_grow_by_at_most_one_an_update_and_not_once_frozen() -> None:
    images = patchwork(CORNERS, 600, 0.1)
    config = EMConfig(wish=40, updates=100, freeze_after=50, images_per_update=300, patch_fraction=1.0)
    counts: list[int] = []
    fit_filters(lambda a, b: images[a:b], 600, config, progress=lambda update, k: counts.append(k))
    assert len(counts) == 100
    assert counts[0] == 1  # no filter explains anything yet, and all the rejected found one
    steps = np.diff(counts)
    assert steps.max() == 1
    assert counts[49] == 5  # of 6 groups, so that it would go on growing
    assert steps[49:].max() <= 0  # updates 51 to 100 only move or drop filters
    unfrozen: list[int] = []
    config = dataclasses.replace(config, freeze_after=100)
    fit_filters(lambda a, b: images[a:b], 600, config, progress=lambda update, k: unfrozen.append(k))
    assert unfrozen[:50] == counts[:50]
    assert unfrozen[-1] > counts[-1]


def written_schedule(alpha: float, filters: int, share: float, wish: int) -> float:
    """The authors' rule, with their constant 0.6913 = 0.05 (1 + e)^2 in full."""
    gain = 0.05 * (1 + math.e) ** 2
    return alpha + gain / ((1 + math.exp(filters / wish)) * (1 + math.exp(min(share / 0.001, 700)))) - 0.05


def test_threshold_follows_the_schedule(monkeypatch: pytest.MonkeyPatch) -> None:
    """Alpha starts at 1 and moves by the share that was rejected and the filters there are after the update."""
    images = patchwork(CORNERS, 600, 0.1)
    limits: list[float] = []
    shares: list[float] = []

    def watched(patches: Tensor, means: Tensor, variances: Tensor, reject_below: float) -> Tensor:
        owner = assign(patches, means, variances, reject_below)
        limits.append(reject_below)
        shares.append(float((owner == len(means)).double().mean()))
        return owner

    monkeypatch.setattr(em, "assign", watched)
    counts: list[int] = []
    config = EMConfig(wish=5, updates=120, freeze_after=110, images_per_update=300, patch_fraction=1.0)
    fit_filters(lambda a, b: images[a:b], 600, config, progress=lambda update, k: counts.append(k))
    alpha = 1.0
    for limit, share, filters in zip(limits[:110], shares[:110], counts[:110], strict=True):
        assert limit == pytest.approx(-2.5 + math.log(alpha) if alpha > 0 else -math.inf, abs=1e-9)
        alpha = written_schedule(alpha, filters, share, 5)
    assert set(limits[110:]) == {-math.inf}
    falls = sum(b < a for a, b in itertools.pairwise(limits[:110]))
    assert 10 < falls < 100  # the schedule was seen going both ways


def test_schedule_rests_at_the_wished_count_with_the_least_founding_share() -> None:
    assert written_schedule(1.5, 10, 0.001, 10) == pytest.approx(1.5, abs=1e-15)
    rest = em._decay(1.0) * em._decay(1.0)
    assert em.STEP_DOWN * (rest / em._decay(1.0) ** 2 - 1) == 0
    assert em.STEP_DOWN / em._decay(1.0) ** 2 == pytest.approx(0.6913, abs=5e-5)  # the constant in the authors' file
    assert em._decay(1e6) == pytest.approx(0, abs=1e-300)  # a share of 1 against 0.001 must not overflow
    # Fewer filters push the threshold up, more let it fall, never by more than 0.05.
    assert written_schedule(0.0, 5, 0.001, 10) > 0 > written_schedule(0.0, 15, 0.001, 10) >= -0.05


@pytest.mark.parametrize("alpha", [0.0, -1.0])
def test_nothing_is_rejected_once_alpha_is_spent(alpha: float) -> None:
    assert em._threshold(alpha) == -math.inf


def test_fit_depends_on_the_seed_alone(device: torch.device) -> None:
    images = torch.rand(30, 1, 10, 10, generator=torch.Generator().manual_seed(0)).to(device)
    config = EMConfig(wish=5, updates=15, images_per_update=12, patch_fraction=0.3)

    def fit(seed: int) -> tuple[Tensor, Tensor]:
        torch.manual_seed(int(torch.randint(1000, ()).item()))  # the global generator must not matter
        return fit_filters(lambda a, b: images[a:b], 30, config, seed=seed)

    (means, variances), (again, again_v), (other, _) = fit(3), fit(3), fit(4)
    if device.type == "cpu":
        assert torch.equal(means, again)
        assert torch.equal(variances, again_v)
    else:  # index_add_ on CUDA sums in any order
        torch.testing.assert_close(means, again, rtol=0, atol=1e-9)
    assert means.shape != other.shape or not torch.equal(means, other)


def test_images_are_visited_in_order_again_and_again() -> None:
    images = torch.rand(25, 1, 4, 4)
    asked: list[tuple[int, int]] = []

    def batch(start: int, stop: int) -> Tensor:
        asked.append((start, stop))
        return images[start:stop]

    fit_filters(batch, 25, EMConfig(wish=3, updates=5, images_per_update=10, patch_fraction=1.0))
    assert asked[1:] == [(0, 10), (10, 20), (20, 25), (0, 10), (10, 20)]  # the first call only asks for the shape


def test_sampled_patches_are_distinct_windows_of_the_images() -> None:
    images = torch.arange(2 * 3 * 5 * 6, dtype=torch.float32).view(2, 3, 5, 6)
    patches = sample_patches(images, 3, 0.5, torch.Generator().manual_seed(0))
    windows = {
        tuple(images[n, :, i : i + 3, j : j + 3].flatten().tolist())
        for n in range(2)
        for i in range(3)
        for j in range(4)
    }
    taken = [tuple(patch) for patch in patches.tolist()]
    assert patches.dtype == torch.float64
    assert len(taken) == len(set(taken)) == 12
    assert set(taken) < windows


def test_a_single_patch_is_not_enough() -> None:
    with pytest.raises(ModelError, match="EM found no filter"):
        fit_filters(lambda a, b: torch.rand(b - a, 1, 3, 3), 1, EMConfig(wish=3, updates=3, patch_fraction=1.0))


def test_more_filters_than_allowed_end_the_fit_with_the_way_out() -> None:
    images = patchwork(CORNERS, 1200, 0.03)
    config = EMConfig(wish=6, updates=120, freeze_after=100, images_per_update=600, patch_fraction=1.0, most=3)
    with pytest.raises(
        ModelError, match=r"^EM found too many filters: 4 after update \d+, .* 3; wish for fewer"
    ) as caught:
        fit_filters(lambda a, b: images[a:b], 1200, config)
    assert caught.value.exit_code == 3


def test_mnist_grows_towards_the_authors_count() -> None:
    """The full fit finds 18-30 filters (authors: 24); 200 images an update give 22-26 in 160 updates (seeds 0-3)."""
    images = load_data("mnist")
    config = dataclasses.replace(EM_PRESETS["mnist"], updates=160, freeze_after=140, images_per_update=200)
    means, variances = fit_filters(lambda a, b: images.batch(a, b)[0], len(images), config)
    assert 18 <= len(means) <= 30
    assert means.shape[1:] == (1, 3, 3)
    assert float(means.min()) >= 0
    assert float(means.max()) <= 1
    # Two thirds of all patches are black: one filter is theirs and has (nearly) no variance, the others are broad.
    black = int(means.flatten(1).sum(1).argmin())
    assert float(means[black].abs().max()) < 1e-6
    assert float(variances[black]) < 1e-10
    assert 0.05 < float(variances.median()) < 0.5
