"""Randomness keyed by what it belongs to: (seed, image id, purpose, restart, draw), never by position in a batch."""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def _word(*names: object) -> int:
    digest = hashlib.blake2b("\x1f".join(map(str, names)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little")


class Keys:
    """One 128-bit Philox key a row: the high word names the image, the low word the use and the draw.

    Equal keys give equal numbers on every device and in every batch, because each row is drawn on its own on the CPU.

    Args:
        images: (N,) uint64, one word an image.
        uses: (N,) uint64, one word a row for what the numbers are for.
    """

    def __init__(self, images: NDArray[np.uint64], uses: NDArray[np.uint64]) -> None:
        self.images = images
        self.uses = uses

    @classmethod
    def of(cls, ids: Sequence[str], seed: int) -> Keys:
        """Keys of images given by id."""
        images = np.array([_word(seed, image) for image in ids], np.uint64)
        return cls(images, np.zeros(len(ids), np.uint64))

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: NDArray[np.intp] | slice) -> Keys:
        return Keys(self.images[index], self.uses[index])

    def fold(self, *names: object) -> Keys:
        """Keys for another purpose, independent of these."""
        return Keys(self.images, self._mixed(np.full(len(self), _word(*names), np.uint64)))

    def draw(self, numbers: NDArray[np.int64]) -> Keys:
        """Keys for draw `numbers[i]` of row i."""
        return Keys(self.images, self._mixed(numbers.astype(np.uint64) + np.uint64(1)))

    def spread(self, draws: int, start: NDArray[np.int64] | None = None) -> Keys:
        """N * draws keys, image by image: draws start[i], start[i] + 1, ... of row i."""
        first = np.zeros(len(self), np.int64) if start is None else start
        repeated = Keys(np.repeat(self.images, draws), np.repeat(self.uses, draws))
        return repeated.draw((first[:, None] + np.arange(draws)).reshape(-1))

    def _mixed(self, words: NDArray[np.uint64]) -> NDArray[np.uint64]:
        # splitmix64: a bijection for each word, so different draws of one use never share a key.
        with np.errstate(over="ignore"):
            z = self.uses * np.uint64(0x9E3779B97F4A7C15) + words * np.uint64(0xD1342543DE82EF95)
            z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            mixed: NDArray[np.uint64] = z ^ (z >> np.uint64(31))
        return mixed

    def _generators(self) -> Iterator[np.random.Generator]:
        """One generator, keyed anew for each row: to be used up before the next. Making one takes ten times as long."""
        source = np.random.Philox(key=0)
        generator, fresh = np.random.Generator(source), source.state
        for pair in zip(self.uses.tolist(), self.images.tolist(), strict=True):
            fresh["state"]["key"][:] = pair
            source.state = fresh
            yield generator

    def normal(self, shape: tuple[int, ...], like: Tensor) -> Tensor:
        """Standard normal numbers (N, *shape), float32 precision, with the dtype and device of `like`."""
        out = np.empty((len(self), *shape), np.float32)
        for i, generator in enumerate(self._generators()):
            generator.standard_normal(out=out[i, ...], dtype=np.float32)  # a view even where a row is one number
        return torch.from_numpy(out).to(like)

    def uniform(self, shape: tuple[int, ...], like: Tensor) -> Tensor:
        """Uniform numbers in [0,1), (N, *shape), float32 precision, with the dtype and device of `like`."""
        out = np.empty((len(self), *shape), np.float32)
        for i, generator in enumerate(self._generators()):
            generator.random(out=out[i, ...], dtype=np.float32)  # likewise
        return torch.from_numpy(out).to(like)

    def signs(self, shape: tuple[int, ...], like: Tensor) -> Tensor:
        """Fair signs -1 and 1, one random bit each, (N, *shape), with the dtype and device of `like`."""
        count = math.prod(shape)
        words = np.empty((len(self), -(-count // 64)), "<u8")
        for i, generator in enumerate(self._generators()):
            words[i] = generator.bit_generator.random_raw(words.shape[1])
        bits = np.unpackbits(words.view(np.uint8), axis=1, count=count, bitorder="little")
        return 2 * torch.from_numpy(bits.reshape(len(self), *shape)).to(like) - 1


@contextmanager
def borrowed(device: torch.device) -> Iterator[Callable[[Keys], None]]:
    """Global generators of torch, NumPy and Python, put back afterwards (but for Apple's GPU); yields what seeds them.

    Those of torch are the processor's and that of the device; no other device is touched. For code that draws from them
    whatever we do; what it draws belongs to all the images of the keys together.
    """
    generators = [torch.default_generator]
    if device.type == "cuda":
        torch.cuda.init()  # type: ignore[no-untyped-call]  # there are no generators before
        index = torch.cuda.current_device() if device.index is None else device.index
        generators.append(torch.cuda.default_generators[index])

    def seed(keys: Keys) -> None:
        digest = hashlib.blake2b(keys.images.tobytes() + keys.uses.tobytes(), digest_size=8).digest()
        number = int.from_bytes(digest, "little") >> 1
        for generator in generators:
            generator.manual_seed(number)
        if device.type == "mps":
            torch.mps.manual_seed(number)
        np.random.seed(int.from_bytes(digest[:4], "little"))
        random.seed(digest)

    states = [generator.get_state() for generator in generators]
    numpy_state, python_state = np.random.get_state(), random.getstate()
    try:
        yield seed
    finally:
        for generator, state in zip(generators, states, strict=True):
            generator.set_state(state)
        np.random.set_state(numpy_state)
        random.setstate(python_state)
