"""Noisy copies: bounds, the law of the clipped noise, the attack behind the stored noise, and how it is moved."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage
from torch import Tensor

from rbfbench.data import Images, load_training
from rbfbench.training import copies
from rbfbench.training.copies import (
    NoisyCopies,
    adversarial_copies,
    adversarial_noise,
    gaussian_bound,
    gaussian_copies,
    unit_pixels,
)
from rbfbench.training.recipes import NOISES, Noise

PLAIN = dataclasses.replace(NOISES["default", "digits"], adversarial_steps=3)
NORMAL = NormalDist()


def noise_of(**changes: Any) -> Noise:
    return dataclasses.replace(PLAIN, **changes)


def images_of(pixels: np.ndarray, labels: np.ndarray | None = None) -> Images:
    n = len(pixels)
    return Images(
        name="toy",
        source="toy",
        pixels=pixels,
        labels=np.arange(n, dtype=np.int64) % 2 if labels is None else labels,
        indices=np.arange(n),
        classes=("a", "b"),
    )


# Gaussian copies ------------------------------------------------------------------------------------------------------
@given(
    std=st.floats(0, 2),
    bound=st.floats(0, 1),
    seed=st.integers(0, 2**32),
)
def test_gaussian_copies_stay_in_bound_and_box(std: float, bound: float, seed: int) -> None:
    x = torch.from_numpy(np.random.default_rng(seed).random((3, 2, 4, 5), np.float32))
    before = x.clone()
    out = gaussian_copies(x, noise_of(gaussian_std=std), bound, np.random.default_rng(seed))
    assert out.shape == x.shape
    assert float(out.min()) >= 0
    assert float(out.max()) <= 1
    assert float((out - x).abs().max()) <= bound + 2.0**-23  # rounding of a sum below 2
    assert torch.equal(x, before)


@pytest.mark.parametrize(("std", "bound"), [(0.35, 0.3), (0.05, 0.03), (0.03, 0.03), (0.1, 0.5)])
def test_gaussian_noise_has_the_law_of_a_clipped_normal(std: float, bound: float, device: torch.device) -> None:
    n = 200_000
    x = torch.full((n // 100, 1, 10, 10), 0.5, device=device)
    noise = gaussian_copies(x, noise_of(gaussian_std=std), bound, np.random.default_rng(0)) - x
    noise = noise.cpu().double().flatten()
    a = bound / std
    inside = 2 * NORMAL.cdf(a) - 1
    at_bound = float((noise.abs() >= bound - 1e-6).double().mean())
    assert abs(at_bound - (1 - inside)) < 5 * np.sqrt(inside * (1 - inside) / n) + 1e-5  # standard errors of a share
    variance = std**2 * (inside - 2 * a * NORMAL.pdf(a)) + bound**2 * (1 - inside)
    assert abs(float(noise.mean())) < 5 * np.sqrt(variance / n)
    # a bounded variable: the square has a standard deviation of at most E[z^4]^(1/2) <= sqrt(3) std^2
    assert abs(float(noise.square().mean()) - variance) < 5 * np.sqrt(3 / n) * std**2
    half = bound / 2  # and it is normal in between
    share = float((noise < half).double().mean())
    assert abs(share - NORMAL.cdf(half / std)) < 5 * np.sqrt(0.25 / n)


def test_gaussian_copies_are_the_same_on_every_device(device: torch.device) -> None:
    x = torch.rand(4, 3, 5, 5)
    a = gaussian_copies(x.to(device), PLAIN, 0.1, np.random.default_rng(3)).cpu()
    b = gaussian_copies(x, PLAIN, 0.1, np.random.default_rng(3))
    torch.testing.assert_close(a, b, rtol=0, atol=2.0**-23)


@given(low=st.floats(0, 0.5), width=st.floats(0, 0.5), seed=st.integers(0, 2**32))
def test_the_authors_bound_is_one_draw_within_its_range(low: float, width: float, seed: int) -> None:
    noise = noise_of(gaussian_bound=low + width, gaussian_bound_low=low)
    bound = gaussian_bound(noise, seed)
    assert low <= bound <= low + width
    assert bound == gaussian_bound(noise, seed)  # of the training, not of the call


def test_the_authors_bound_is_uniform_over_trainings() -> None:
    noise = NOISES["authors", "mnist"]
    bounds = np.array([gaussian_bound(noise, seed) for seed in range(400)])
    assert len(set(bounds)) == 400
    # U(0.15, 0.4): mean 0.275, standard deviation 0.25 / sqrt(12), of 400
    assert abs(bounds.mean() - 0.275) < 5 * 0.25 / np.sqrt(12 * 400)
    assert abs(bounds.std() - 0.25 / np.sqrt(12)) < 0.01


def test_a_given_bound_is_no_draw() -> None:
    assert {gaussian_bound(NOISES["paper", "mnist"], seed) for seed in range(20)} == {0.3}


def test_the_bound_of_a_training_holds_in_every_step() -> None:
    noise = noise_of(gaussian_std=5.0, gaussian_bound=0.4, gaussian_bound_low=0.1)
    images = images_of(np.full((50, 6, 6, 1), 0.5, np.float32))
    some = NoisyCopies(noise, images, None, seed=4)
    largest = [
        float((some.of(np.arange(50), np.random.default_rng(i), torch.device("cpu"))[0] - 0.5).abs().max())
        for i in range(5)
    ]
    assert largest == pytest.approx([gaussian_bound(noise, 4)] * 5, abs=1e-6)  # std 5: most values are clipped


# The stored noise -----------------------------------------------------------------------------------------------------
class Linear(torch.nn.Module):
    """Two classes, logits (0, <w, x>): the gradient of the loss has a constant sign, so PGD ends in a corner."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = weight

    def forward(self, x: Tensor) -> Tensor:
        z = (x * self.weight).flatten(1).sum(1)
        return torch.stack([torch.zeros_like(z), z], 1)


def made(path: Path, model: Any, images: Images, noise: Noise, device: Any = "cpu", **options: Any) -> np.ndarray:
    told: list[tuple[int, int]] = options.pop("told", [])
    return adversarial_noise(
        model,
        images,
        noise,
        path,
        device=torch.device(device),
        progress=options.pop("progress", lambda *at: told.append(at)),
        **{"seed": 0} | options,
    )


def toy(n: int = 230, device: Any = "cpu") -> tuple[Images, Linear]:
    rng = np.random.default_rng(0)
    weight = torch.from_numpy(rng.normal(size=(1, 3, 5, 4)).astype(np.float32)).to(device)
    return images_of(rng.random((n, 5, 4, 3), np.float32)), Linear(weight)


def test_stored_noise_is_the_optimal_attack_on_a_linear_model(tmp_path: Path, device: torch.device) -> None:
    images, model = toy(device=device)
    eps = 0.125
    told: list[tuple[int, int]] = []
    noise = noise_of(adversarial_eps=eps, adversarial_steps=10)
    stored = made(tmp_path / "noise.npy", model, images, noise, device, told=told)
    assert told == [(100, 230), (200, 230), (230, 230)]
    assert stored.dtype == np.float16
    sign = model.weight.cpu().sign().numpy().transpose(0, 2, 3, 1)
    worst = eps * sign * np.where(images.labels == 0, 1, -1)[:, None, None, None]
    expected = np.clip(images.pixels + worst, 0, 1) - images.pixels
    # float16 keeps 11 bits of a number below 1/8; attacks stay inside by a share of 1e-6
    np.testing.assert_allclose(stored.astype(float), expected, rtol=0, atol=eps * 2.0**-11 + 1e-6)


@pytest.mark.parametrize("eps", [0.0, 0.03, 0.3])
def test_stored_noise_obeys_its_radius_and_the_box(eps: float, tmp_path: Path) -> None:
    images = load_training("digits")[0].head(120)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 16), torch.nn.Tanh(), torch.nn.Linear(16, 10))
    stored = made(tmp_path / "noise.npy", model.requires_grad_(False), images, noise_of(adversarial_eps=eps))
    rounding = 2.0**-11  # of float16, relative
    assert float(np.abs(stored.astype(float)).max()) <= eps * (1 + rounding)
    moved = unit_pixels(images.pixels).astype(float) + stored
    assert -eps * rounding <= moved.min()
    assert moved.max() <= 1 + eps * rounding + 1e-6
    assert not eps or np.abs(stored.astype(float)).max() > eps / 2  # it is an attack


@pytest.mark.parametrize("many", [1, 99, 100, 101, 230, None, 1000])
def test_noise_is_stored_for_the_first_images(many: int | None, tmp_path: Path) -> None:
    images, model = toy()
    whole = made(tmp_path / "whole.npy", model, images, PLAIN)
    stored = made(tmp_path / "noise.npy", model, images, noise_of(stored=many))
    assert len(stored) == min(many or 230, 230)
    # Each image has its own start, keyed by its id; float32 sums over other batches round differently.
    np.testing.assert_allclose(stored.astype(float), whole[: len(stored)].astype(float), rtol=0, atol=2e-4)


def wavy(x: Tensor) -> Tensor:
    """A model whose gradient changes its sign within the ball, so that the start decides where one step leads."""
    return toy(1)[1]((30 * x).sin())


def test_the_seed_decides_the_starts(tmp_path: Path) -> None:
    images, one_step = toy()[0], noise_of(adversarial_steps=1, adversarial_eps=0.1)
    first, again, other = (
        made(tmp_path / f"{i}.npy", wavy, images, one_step, seed=seed) for i, seed in enumerate((0, 0, 1))
    )
    np.testing.assert_array_equal(first, again)
    assert np.mean(first != other) > 0.1


def test_every_image_has_a_start_of_its_own(tmp_path: Path) -> None:
    same = images_of(np.full((230, 5, 4, 3), 0.5, np.float32), np.zeros(230, np.int64))
    stored = made(tmp_path / "noise.npy", wavy, same, noise_of(adversarial_steps=1, adversarial_eps=0.1))
    assert len(np.unique(stored.reshape(230, -1), axis=0)) == 230  # also across chunks


class Stopped(BaseException):
    pass


@pytest.mark.parametrize("at", [100, 200, 230])
def test_an_interrupted_making_ends_with_the_same_noise(at: int, tmp_path: Path) -> None:
    images, model = toy()

    def stop(done: int, total: int) -> None:
        if done == at:
            raise Stopped

    whole = made(tmp_path / "whole.npy", model, images, PLAIN)
    with pytest.raises(Stopped):
        made(tmp_path / "noise.npy", model, images, PLAIN, progress=stop)
    assert not (tmp_path / "noise.npy").exists()
    np.testing.assert_array_equal(made(tmp_path / "noise.npy", model, images, PLAIN), whole)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["noise.npy", "whole.npy"]


def test_a_making_interrupted_within_a_chunk_does_the_chunk_again(tmp_path: Path) -> None:
    images, model = toy()
    whole = made(tmp_path / "whole.npy", model, images, PLAIN)
    with pytest.raises(Stopped):
        made(tmp_path / "noise.npy", model, images, PLAIN, progress=lambda done, _: (_ for _ in ()).throw(Stopped))
    part = np.load(tmp_path / "noise.npy.part", mmap_mode="r+")
    assert np.isnan(part[100:].astype(float)).all()
    part[100:150] = 0  # half a chunk reached the disk
    part.flush()
    np.testing.assert_array_equal(made(tmp_path / "noise.npy", model, images, PLAIN), whole)


def test_noise_that_is_there_is_read_and_nothing_attacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images, model = toy()
    first = made(tmp_path / "noise.npy", model, images, PLAIN)
    monkeypatch.setattr(copies, "pgd", None)
    np.testing.assert_array_equal(made(tmp_path / "noise.npy", model, images, PLAIN), first)


# Pairing --------------------------------------------------------------------------------------------------------------
def numbered(n: int) -> np.ndarray:
    """Stored noise whose value names its position: k / 1024, exact in float16."""
    return np.broadcast_to((np.arange(n) / 1024).astype(np.float16)[:, None, None, None], (n, 4, 4, 1)).copy()


def test_matched_noise_is_the_image_s_own(device: torch.device) -> None:
    index = np.array([3, 5, 77, 199])
    x = torch.full((4, 1, 4, 4), 0.25, device=device)
    out = adversarial_copies(x, index, numbered(200), noise_of(pairing="matched"), np.random.default_rng(0))
    assert ((out - x) * 1024).cpu()[:, 0, 0, 0].tolist() == index.tolist()


def test_mismatched_noise_is_any_image_s_with_equal_chance(device: torch.device) -> None:
    n, stored = 20_000, 10
    x = torch.full((n, 1, 4, 4), 0.25, device=device)
    index = np.full(n, 3)
    out = adversarial_copies(x, index, numbered(stored), PLAIN, np.random.default_rng(0))
    picked = ((out - x) * 1024).round().long().cpu()
    assert torch.equal(picked.amin((1, 2, 3)), picked.amax((1, 2, 3)))  # whole noise, not pixels of several
    counts = torch.bincount(picked[:, 0, 0, 0], minlength=stored).numpy()
    assert np.abs(counts - n / stored).max() < 5 * np.sqrt(n * 0.1 * 0.9)  # binomial standard deviation


def test_adversarial_copies_stay_in_the_box() -> None:
    x = torch.rand(50, 1, 4, 4)
    stored = np.random.default_rng(0).uniform(-0.5, 0.5, (9, 4, 4, 1)).astype(np.float16)
    out = adversarial_copies(x, np.arange(50), stored, PLAIN, np.random.default_rng(0))
    assert float(out.min()) == 0
    assert float(out.max()) == 1
    free = (out > 0) & (out < 1)
    assert float((out - x)[free].abs().max()) <= 0.5 + 2.0**-11


# Movement -------------------------------------------------------------------------------------------------------------
class Script:
    """Draws that are known: flips, then angle, then shifts, as shares of the most that the noise allows."""

    def __init__(self, *, flip: bool = False, angle: float = 0.0, right: float = 0.0, down: float = 0.0) -> None:
        self.flip, self.angle, self.shift = flip, angle, (right, down)

    def random(self, n: int) -> np.ndarray:
        return np.full(n, 0.1 if self.flip else 0.9)

    def uniform(self, low: float, high: float, shape: int | tuple[int, int]) -> np.ndarray:
        assert (low, high) == (-1, 1)
        if isinstance(shape, int):
            return np.full(shape, self.angle)
        return np.broadcast_to(np.array(self.shift)[:, None], shape)


def moved(delta: Tensor, noise: Noise, script: Any) -> Tensor:
    return copies._moved(delta, noise, script)


def random_delta(shape: tuple[int, ...], device: Any = "cpu", seed: int = 0) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).uniform(-1, 1, shape).astype(np.float32)).to(device)


def test_noise_that_may_not_move_stays(device: torch.device) -> None:
    delta = random_delta((4, 3, 5, 7), device)
    assert torch.equal(moved(delta, PLAIN, np.random.default_rng(0)), delta)


def test_flips_are_horizontal_and_happen_to_half(device: torch.device) -> None:
    delta = random_delta((400, 2, 5, 7), device)
    out = moved(delta, noise_of(flip=True), np.random.default_rng(0))
    flipped = (out == delta.flip(3)).flatten(1).all(1)
    assert torch.equal(out[~flipped], delta[~flipped])
    assert abs(int(flipped.sum()) - 200) < 5 * 10  # binomial: sqrt(400) / 2


@pytest.mark.parametrize("share", [-1.0, -0.5, 0.5, 1.0])
@pytest.mark.parametrize("axis", ["right", "down"])
def test_shifts_of_whole_pixels_are_exact(axis: str, share: float, device: torch.device) -> None:
    """A quarter of 8 pixels: 2 at most. Zero comes in; what leaves is lost."""
    delta = random_delta((3, 2, 8, 8), device)
    out = moved(delta, noise_of(shift=0.25), Script(**{axis: share})).cpu().numpy()
    pixels = int(2 * share)
    padded = np.pad(delta.cpu().numpy(), ((0, 0), (0, 0), (2, 2), (2, 2)))
    rows, columns = (2 + pixels, 2) if axis == "down" else (2, 2 + pixels)
    # coordinates are float32 in [-1,1]: 4 pixels per unit, so 1e-6 of a pixel, times differences of 2
    np.testing.assert_allclose(out, padded[:, :, rows : rows + 8, columns : columns + 8], rtol=0, atol=1e-5)


@pytest.mark.parametrize(("share", "quarters"), [(1.0, 1), (-1.0, -1), (0.0, 0)])
def test_a_quarter_turn_is_exact(share: float, quarters: int, device: torch.device) -> None:
    delta = random_delta((2, 3, 6, 6), device)
    out = moved(delta, noise_of(rotate=90), Script(angle=share)).cpu()
    torch.testing.assert_close(out, torch.rot90(delta.cpu(), quarters, (2, 3)), rtol=0, atol=1e-5)


@given(
    angle=st.floats(-1, 1),
    right=st.floats(-1, 1),
    down=st.floats(-1, 1),
    flip=st.booleans(),
    size=st.sampled_from([(8, 8), (5, 7), (9, 4)]),
)
def test_noise_moves_as_scipy_moves_it(
    angle: float, right: float, down: float, flip: bool, size: tuple[int, int]
) -> None:
    """Rotation about the centre by up to `rotate` degrees and shifts in pixels, also where images are not square."""
    h, w = size
    delta = random_delta((1, 1, h, w))
    noise = noise_of(rotate=40, shift=0.25, flip=flip)
    got = moved(delta, noise, Script(flip=flip, angle=angle, right=right, down=down))[0, 0].numpy()
    image = delta[0, 0].numpy().astype(float)
    turn = np.radians(40) * angle
    # rows first: the point that is looked up for (row, column), both counted from the centre
    matrix = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
    centre = np.array([(h - 1) / 2, (w - 1) / 2])
    offset = centre - matrix @ centre + np.array([0.25 * down * h, 0.25 * right * w])
    expected = ndimage.affine_transform(
        image[:, ::-1] if flip else image, matrix, offset, order=1, mode="grid-constant", cval=0.0
    )
    np.testing.assert_allclose(got, expected, rtol=0, atol=2e-5)  # float32 coordinates, as above


def test_every_image_moves_by_a_draw_of_its_own_within_its_range(device: torch.device) -> None:
    """A dot in the middle of each image: where it goes tells the shift."""
    delta = torch.zeros(500, 1, 33, 33, device=device)
    delta[:, :, 16, 16] = 1
    out = moved(delta, noise_of(shift=0.25, rotate=25), np.random.default_rng(0)).cpu().double()[:, 0]
    total = out.sum((1, 2))
    at = torch.arange(33, dtype=torch.float64) - 16
    down, right = (out.sum(2) @ at) / total, (out.sum(1) @ at) / total
    for place in (down, right):
        # a dot spreads over neighbours within a pixel
        assert float(place.abs().max()) <= 0.25 * 33 * np.sqrt(2) + 1
        assert len(set(place.round(decimals=6).tolist())) > 490
        # uniform shifts (rotated a little): standard deviation near 8.25 / sqrt(3) = 4.76, and a pixel's quantisation
        assert 4.2 < float(place.std()) < 5.4


# A step ---------------------------------------------------------------------------------------------------------------
def few(noise: Noise, front: Any = None) -> NoisyCopies:
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 2, 40).astype(np.int64)
    return NoisyCopies(noise, images_of(rng.integers(0, 256, (40, 4, 4, 1)).astype(np.uint8), labels), front, seed=0)


@pytest.mark.parametrize(("copies_wanted", "there", "got"), [(5, 12, 5), (12, 12, 12), (30, 12, 12)])
def test_copies_are_of_different_images_of_the_step(
    copies_wanted: int, there: int, got: int, device: torch.device
) -> None:
    some = few(noise_of(copies=copies_wanted, gaussian_std=0.0, pairing="matched"))
    index = np.arange(40)[::3][:there]
    x, y = some.of(index, np.random.default_rng(0), device)
    assert x.shape == (got, 4, 4, 1)
    assert x.device.type == device.type
    pixels = some.images.pixels / np.float32(255)
    found = [int(np.flatnonzero((np.abs(pixels - image) < 1e-6).all((1, 2, 3)))[0]) for image in x.cpu().numpy()]
    assert len(set(found)) == got
    assert set(found) <= set(index.tolist())
    assert y.tolist() == some.images.labels[found].tolist()
    some.stored = np.full((40, 4, 4, 1), 0.0, np.float16)
    both, labels = some.of(index, np.random.default_rng(0), device)
    assert torch.equal(both[:got], x)
    torch.testing.assert_close(both[got:], x, rtol=0, atol=1e-6)  # matched zero noise: the same images again
    assert labels.tolist() == [*y.tolist(), *y.tolist()]


def test_copies_pass_the_front_after_the_noise(device: torch.device) -> None:
    seen: list[Tensor] = []

    def front(x: Tensor) -> Tensor:
        seen.append(x)
        return 1 - x

    noise = noise_of(copies=6)
    bare, behind = few(noise), few(noise, front)
    bare.stored = behind.stored = np.random.default_rng(2).uniform(-0.1, 0.1, (40, 4, 4, 1)).astype(np.float16)
    plain, y = bare.of(np.arange(40), np.random.default_rng(0), device)
    out, same_y = behind.of(np.arange(40), np.random.default_rng(0), device)
    assert torch.equal(out, 1 - plain)
    assert y.tolist() == same_y.tolist()
    assert [tuple(x.shape) for x in seen] == [(12, 1, 4, 4)]
    assert not out.requires_grad


@pytest.mark.parametrize(("made_at", "due"), [(None, 0), (1, 1), (25, 25)])
def test_noise_is_due_from_its_epoch_on_until_it_is_there(made_at: int | None, due: int) -> None:
    some = few(noise_of(made_at=made_at))
    assert [some.due(epoch) for epoch in range(30)] == [epoch >= due for epoch in range(30)]
    some.stored = numbered(40)
    assert not any(some.due(epoch) for epoch in range(30))


@given(values=st.lists(st.integers(0, 255), min_size=1, max_size=20))
def test_stored_pixels_become_the_unit_pixels_of_float64(values: list[int]) -> None:
    pixels = np.array(values, np.uint8)
    unit = unit_pixels(pixels)
    assert unit.dtype == np.float32
    np.testing.assert_array_equal(unit, (pixels.astype(np.float64) / 255).astype(np.float32))
    np.testing.assert_array_equal(unit_pixels(unit), unit)
