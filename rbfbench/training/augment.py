"""Random flips, shifts and light on training images."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from rbfbench.training.recipes import Schedule


def augment(x: Tensor, schedule: Schedule, generator: np.random.Generator) -> Tensor:
    """Changed copies of images; the numbers are drawn on the CPU, so a seed means the same on every device.

    Args:
        x: Images (N, H, W, C), floating point.
        schedule: How much of what.
        generator: Draws.

    Returns:
        (N, H, W, C), float32. Values may leave [0,1] where the light changes.
    """
    n, h, w, _ = x.shape
    if schedule.flip or schedule.shift:
        s = schedule.shift
        down, right = generator.integers(-s, s + 1, (2, n, 1))
        rows, columns = _reflected(np.arange(h) + down, h), _reflected(np.arange(w) + right, w)
        if schedule.flip:
            columns = np.where(generator.random((n, 1)) < 0.5, w - 1 - columns, columns)
        i, j = (torch.from_numpy(index).to(x.device) for index in (rows[:, :, None], columns[:, None, :]))
        x = x[torch.arange(n, device=x.device)[:, None, None], i, j]
    x = x.float()
    return _lit(x, schedule, generator) if schedule.contrast or schedule.colour or schedule.shading else x


def _reflected(index: np.ndarray, size: int) -> np.ndarray:
    period = max(2 * (size - 1), 1)
    index = index % period
    inside: np.ndarray = np.minimum(index, period - index)
    return inside


def _lit(x: Tensor, schedule: Schedule, generator: np.random.Generator) -> Tensor:
    """Other light on images (N, H, W, C): contrast, colour and smooth shading."""
    n, h, w, c = x.shape
    size = schedule.shading_grid
    contrast = 1 + schedule.contrast * generator.uniform(-1, 1, (n, 1, 1, 1)).astype(np.float32)
    colour = schedule.colour * generator.standard_normal((n, 1, 1, c), np.float32)
    strength = schedule.shading * generator.random((n, 1, 1, 1), np.float32)
    grid = strength * generator.standard_normal((n, size, size, c), np.float32)
    gain, offset, points, down, right = (
        torch.from_numpy(t).to(x.device)
        for t in (contrast, colour, grid, _interpolation(h, size), _interpolation(w, size))
    )
    shading = torch.einsum("hi,nijc,wj->nhwc", down, points, right)
    return (x - 0.5) * gain + 0.5 + offset + shading


def _interpolation(pixels: int, grid: int) -> np.ndarray:
    """(pixels, grid) weights of linear interpolation from grid points to pixels."""
    at = np.linspace(0, grid - 1, pixels)
    weights: np.ndarray = np.maximum(0, 1 - np.abs(at[:, None] - np.arange(grid))).astype(np.float32)
    return weights
