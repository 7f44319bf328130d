"""Labelled images with ids that survive a change of container."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch

_CHUNK = 512  # images converted at a time while hashing


@dataclass(frozen=True, eq=False, kw_only=True)
class Images:
    """Images as stored, converted to model inputs batch by batch.

    Attributes:
        name: What the user asked for: "cifar10", "npz:FILE", "folder:DIR" ...
        source: One clause for people that says which images these are.
        pixels: (N,H,W,C), uint8 or float32 in [0,1].
        labels: (N,) int64.
        indices: (N,) int64, position in the file the images came from.
        classes: Class names in label order.
    """

    name: str
    source: str
    pixels: NDArray[np.uint8] | NDArray[np.float32]
    labels: NDArray[np.int64]
    indices: NDArray[np.int64]
    classes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def n_classes(self) -> int:
        """Number of classes; for an npz file the largest label plus one."""
        return len(self.classes)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape of one model input, (C,H,W)."""
        height, width, channels = self.pixels.shape[1:]
        return channels, height, width

    def part(self, start: int, stop: int, source: str | None = None) -> Images:
        """Images start to stop (exclusive), without copying pixels.

        Args:
            start: First position, counted from 0.
            stop: Position after the last; may lie beyond the end.
            source: What to call the part, if not what the whole is called.
        """
        cut = slice(start, stop)
        return replace(
            self,
            source=source or self.source,
            pixels=self.pixels[cut],
            labels=self.labels[cut],
            indices=self.indices[cut],
        )

    def head(self, n: int) -> Images:
        """The first n images, or all if there are fewer."""
        return self.part(0, n)

    def floats(self, start: int, stop: int) -> NDArray[np.float32]:
        """Images start to stop as the model sees them: (n,C,H,W) float32 in [0,1], always a copy."""
        nchw = np.array(self.pixels[start:stop].transpose(0, 3, 1, 2), dtype=np.float32, order="C")
        if self.pixels.dtype == np.uint8:
            nchw /= np.float32(255)
        # -0.0 equals 0.0 but has other bytes, which would give the same image two ids
        nchw += np.float32(0)
        return nchw

    def batch(self, start: int, stop: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Images start to stop and their labels as tensors that share no memory with the data.

        Returns:
            x (n,C,H,W) float32 in [0,1] and y (n,) int64, on the CPU.
        """
        import torch

        return torch.from_numpy(self.floats(start, stop)), torch.from_numpy(self.labels[start:stop].copy())

    def at(self, positions: NDArray[np.intp]) -> tuple[torch.Tensor, torch.Tensor]:
        """Images at some positions, in that order, and their labels; as `batch`."""
        picked = replace(
            self, pixels=self.pixels[positions], labels=self.labels[positions], indices=self.indices[positions]
        )
        return picked.batch(0, len(positions))

    @cached_property
    def ids(self) -> list[str]:
        """One id per image: its index and 12 hex digits of the SHA-256 of its float32 NCHW bytes."""
        hashes = (
            hashlib.sha256(image.astype("<f4", copy=False).tobytes()).hexdigest()[:12]
            for start in range(0, len(self), _CHUNK)
            for image in self.floats(start, start + _CHUNK)
        )
        return [f"{index}:{digest}" for index, digest in zip(self.indices.tolist(), hashes, strict=True)]

    @cached_property
    def digest(self) -> str:
        """SHA-256 (hex) over ids and labels in order."""
        lines = (f"{image} {label}\n" for image, label in zip(self.ids, self.labels.tolist(), strict=True))
        return hashlib.sha256("".join(lines).encode()).hexdigest()
