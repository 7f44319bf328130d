"""Noisy copies of training images, as rCNN+ is trained on (arXiv 2004.02183, section IV).

This is augmentation with noise that looks adversarial, not adversarial training: the adversarial noise is made once,
and by default an image gets the noise of another one.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from rbfbench.attacks.gradient import pgd
from rbfbench.attacks.oracle import Oracle
from rbfbench.attacks.rng import Keys
from rbfbench.data.images import Images
from rbfbench.training.files import replacing, resuming
from rbfbench.training.recipes import Noise

CHUNK = 100  # images attacked at once


def unit_pixels(pixels: np.ndarray) -> np.ndarray:
    """Stored pixels as float32 in [0,1]."""
    scale = 255 if pixels.dtype == np.uint8 else 1
    unit: np.ndarray = np.divide(pixels, scale, dtype=np.float32)
    return unit


def adversarial_noise(
    model: Callable[[Tensor], Tensor],
    images: Images,
    noise: Noise,
    path: Path,
    *,
    seed: int,
    device: torch.device,
    progress: Callable[[int, int], None],
) -> np.ndarray:
    """The stored noise x_adv - x (N, H, W, C) float16, from `path` if it is there; an interrupted making goes on.

    Args:
        model: From images (N, C, H, W) in [0,1] to logits, without noise of its own.
        images: Training images; the first `noise.stored` are attacked.
        noise: Radius and steps of the PGD.
        path: Where it is kept.
        seed: Seeds the starts of the PGD.
        device: Where the model lives.
        progress: Told (done, total) images.

    Raises:
        LoadError: The file is damaged, or cannot be written.
    """
    if not path.is_file():
        images = images if noise.stored is None else images.head(noise.stored)
        part = path.with_name(f"{path.name}.part")
        if not part.is_file():
            with replacing(part) as new, new.open("wb") as file:
                np.save(file, np.full(images.pixels.shape, np.nan, np.float16))
        with resuming(part):
            np.load(part, mmap_mode="r", allow_pickle=False)  # r+ would fill a file cut short with zeros: no noise
            made = np.load(part, mmap_mode="r+", allow_pickle=False)
        keys = Keys.of(images.ids, seed).fold("stored noise")
        for start in range(0, len(images), CHUNK):
            here = slice(start, min(start + CHUNK, len(images)))
            if np.isnan(made[here]).any():
                x, y = (t.to(device) for t in images.batch(here.start, here.stop))
                oracle = Oracle(lambda rows, _: model(rows), None, len(x))
                x_adv = pgd(
                    oracle,
                    x,
                    y,
                    norm="linf",
                    eps=noise.adversarial_eps,
                    rng=keys[here],
                    steps=noise.adversarial_steps,
                )
                made[here] = (x_adv - x).permute(0, 2, 3, 1).cpu().numpy()
                made.flush()
            progress(here.stop, len(images))
        part.replace(path)
    # The model that made its noise itself has been trained on since.
    todo = "remove it to make it anew" if noise.made_at is None else f"remove {path.parent} to start anew"
    with resuming(path, todo):
        stored: np.ndarray = np.load(path, allow_pickle=False)
    return stored


def gaussian_bound(noise: Noise, seed: int) -> float:
    """Bound of the Gaussian noise, drawn once for a training if the noise says so (as the authors' script does)."""
    if noise.gaussian_bound_low is None:
        return noise.gaussian_bound
    return float(np.random.default_rng((seed, 0x626F756E64)).uniform(noise.gaussian_bound_low, noise.gaussian_bound))


def gaussian_copies(x: Tensor, noise: Noise, bound: float, generator: np.random.Generator) -> Tensor:
    """X (N, C, H, W) with clipped normal noise, in [0,1]."""
    drawn = generator.standard_normal(tuple(x.shape), np.float32) * np.float32(noise.gaussian_std)
    return (x + torch.from_numpy(drawn).to(x.device).clamp(-bound, bound)).clamp(0, 1)


def adversarial_copies(
    x: Tensor, index: np.ndarray, stored: np.ndarray, noise: Noise, generator: np.random.Generator
) -> Tensor:
    """X (N, C, H, W) with stored noise, in [0,1]; `index` are the positions of x in the training images."""
    pick = index if noise.pairing == "matched" else generator.integers(0, len(stored), len(x))
    delta = torch.from_numpy(stored[pick]).permute(0, 3, 1, 2).to(x.device, torch.float32)
    return (x + _moved(delta, noise, generator)).clamp(0, 1)


def _moved(delta: Tensor, noise: Noise, generator: np.random.Generator) -> Tensor:
    """Noise (N, C, H, W) flipped, rotated and shifted at random; zero comes in from outside."""
    n, _, h, w = delta.shape
    if noise.flip:
        flips = torch.from_numpy(generator.random(n) < 0.5).to(delta.device)
        delta = torch.where(flips[:, None, None, None], delta.flip(3), delta)
    if not (noise.rotate or noise.shift):
        return delta
    angle = np.radians(noise.rotate) * generator.uniform(-1, 1, n)
    right, down = 2 * noise.shift * generator.uniform(-1, 1, (2, n))  # the image is 2 wide in these coordinates
    theta = np.array([[np.cos(angle), -np.sin(angle) * h / w, right], [np.sin(angle) * w / h, np.cos(angle), down]])
    where = torch.from_numpy(theta.transpose(2, 0, 1).astype(np.float32)).to(delta.device)
    grid = F.affine_grid(where, list(delta.shape), align_corners=False)
    return F.grid_sample(delta, grid, align_corners=False)


class NoisyCopies:
    """The noisy copies of each step, as the classifier sees them.

    Args:
        noise: What they are.
        images: Training images.
        front: What stands before the classifier: reconstructs images (N, C, H, W), or None.
        seed: Of the training.

    Attributes:
        stored: The adversarial noise, once it is made; without it the copies are Gaussian only.
    """

    def __init__(self, noise: Noise, images: Images, front: Callable[[Tensor], Tensor] | None, seed: int) -> None:
        self.noise, self.images, self.front = noise, images, front
        self.bound = gaussian_bound(noise, seed)
        self.stored: np.ndarray | None = None

    def due(self, epoch: int) -> bool:
        """Whether the adversarial noise is to be made before this epoch, counted from 0."""
        return self.stored is None and epoch >= (self.noise.made_at or 0)

    @torch.no_grad()
    def of(
        self, index: np.ndarray, generator: np.random.Generator, device: torch.device
    ) -> tuple[Tensor, NDArray[np.int64]]:
        """Copies (k, H, W, C) of some of the training images at `index`, and their labels (k,)."""
        chosen = np.sort(generator.choice(index, min(self.noise.copies, len(index)), replace=False))
        x = torch.from_numpy(unit_pixels(self.images.pixels[chosen])).permute(0, 3, 1, 2).to(device)
        parts = [gaussian_copies(x, self.noise, self.bound, generator)]
        if self.stored is not None:
            parts.append(adversarial_copies(x, chosen, self.stored, self.noise, generator))
        copies = torch.cat(parts)
        if self.front:
            copies = self.front(copies)
        return copies.permute(0, 2, 3, 1), np.tile(self.images.labels[chosen], len(parts))
