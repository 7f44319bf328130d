"""Random flips, shifts and light on training images, against loops over pixels and the statistics they promise."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from torch import Tensor

from rbfbench.training.augment import augment
from rbfbench.training.recipes import SCHEDULES, Schedule

PLAIN = dataclasses.replace(SCHEDULES["default", "digits", False], shift=0, flip=False)


def ramp(n: int = 400) -> Tensor:
    """Images (n, 5, 6, 2) in which every pixel has its own value, all exact in float32."""
    return torch.arange(n * 60, dtype=torch.float32).view(n, 5, 6, 2)


def shifted(image: np.ndarray, down: int, right: int) -> np.ndarray:
    """The image seen through a window moved by this much, reflected at the border, pixel by pixel."""

    def inside(i: int, size: int) -> int:
        while not 0 <= i < size:
            i = -i if i < 0 else 2 * (size - 1) - i
        return i

    rows = [inside(i + down, 5) for i in range(5)]
    columns = [inside(j + right, 6) for j in range(6)]
    return image[rows][:, columns]


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("shift", [0, 2])
def test_augmentation_only_flips_and_shifts(shift: int, flip: bool, device: torch.device) -> None:
    schedule = dataclasses.replace(PLAIN, shift=shift, flip=flip)
    x = ramp().to(device)
    out = augment(x, schedule, np.random.default_rng(0))
    assert out.shape == x.shape
    assert out.device.type == device.type
    moves = [(f, d, r) for f in {False, flip} for d in range(-shift, shift + 1) for r in range(-shift, shift + 1)]
    seen = dict.fromkeys(moves, 0)
    for before, after in zip(ramp().numpy(), out.cpu().numpy(), strict=True):
        fits = [
            (f, d, r) for f, d, r in moves if np.array_equal(shifted(before[:, ::-1] if f else before, d, r), after)
        ]
        assert len(fits) == 1
        seen[fits[0]] += 1
    assert min(seen.values()) > 0  # every move happens: 400 images, at most 50 equally likely moves
    assert torch.equal(x.cpu(), ramp())  # in a copy: the cached images stay


@pytest.mark.parametrize("shift", [4, 5, 9, 23])
def test_shifts_beyond_the_image_are_reflected_as_often_as_it_takes(shift: int) -> None:
    out = augment(ramp(60), dataclasses.replace(PLAIN, shift=shift), np.random.default_rng(0)).numpy()
    moves = range(-shift, shift + 1)
    for before, after in zip(ramp(60).numpy(), out, strict=True):
        assert any(np.array_equal(shifted(before, down, right), after) for down in moves for right in moves)


def test_an_image_of_one_pixel_stays() -> None:
    x = torch.tensor([0.25, 0.75]).view(2, 1, 1, 1)
    assert torch.equal(augment(x, dataclasses.replace(PLAIN, shift=3, flip=True), np.random.default_rng(0)), x)


FULL = SCHEDULES["default", "cifar10", False]  # flips, shifts, contrast, colour and shading


@pytest.mark.parametrize("schedule", [PLAIN, dataclasses.replace(PLAIN, flip=True), FULL], ids=["none", "flip", "all"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_float32_comes_out_whatever_goes_in(schedule: Schedule, dtype: torch.dtype, device: torch.device) -> None:
    x = torch.from_numpy(np.random.default_rng(0).random((6, 8, 8, 3))).to(device, dtype)
    out = augment(x, schedule, np.random.default_rng(1))
    assert out.dtype == torch.float32
    if schedule is PLAIN:
        assert torch.equal(out, x.float())


def test_augmentation_follows_its_generator_on_every_device(device: torch.device) -> None:
    x = ramp() / ramp().max()
    first, again, other = (augment(x.to(device), FULL, np.random.default_rng(seed)) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    on_cpu = augment(x, FULL, np.random.default_rng(0))
    # The draws are the CPU's; only sums of products over the 16 x 16 grid may round differently.
    torch.testing.assert_close(first.cpu(), on_cpu, rtol=0, atol=1e-5)


def test_shading_keeps_the_picture_and_follows_its_strength(device: torch.device) -> None:
    x = np.random.default_rng(0).random((200, 16, 16, 3)).astype(np.float16)

    def lit(**light: float) -> np.ndarray:
        schedule = dataclasses.replace(PLAIN, **light)
        return augment(torch.from_numpy(x).to(device), schedule, np.random.default_rng(1)).cpu().numpy()

    offsets = lit(colour=0.1) - x.astype(np.float32)
    # One offset a channel, the same for all pixels up to rounding; 600 of them have the asked spread within 5 s.e.
    assert np.ptp(offsets, axis=(1, 2)).max() < 1e-5
    assert abs(offsets[:, 0, 0].std() - 0.1) < 5 * 0.1 / np.sqrt(2 * 600)
    contrast = lit(contrast=0.3) - 0.5
    factor = (contrast * (x - 0.5)).sum((1, 2, 3)) / ((x - 0.5) ** 2).sum((1, 2, 3))
    assert 0.7 <= factor.min() < 0.75
    assert 1.25 < factor.max() <= 1.3 + 1e-3
    shading = lit(shading=0.2) - x.astype(np.float32)
    # Smooth: neighbours differ by less than a step of the grid can, and the mean square is s^2 E[u^2] at a grid point.
    assert np.abs(np.diff(shading, axis=1)).max() < np.ptp(shading) / 2
    assert abs(np.mean(shading[:, 0, 0] ** 2) - 0.2**2 / 3) < 0.2**2 / 3 * 0.5
