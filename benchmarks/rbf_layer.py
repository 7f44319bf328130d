"""Speed, memory and error of the RBF layer: the fast path against plain autograd over the same formula.

Prints, for forward and backward over a batch of CIFAR-10 images, the ratio of times measured alternating in one
process (median and quartiles over the rounds), the peak memory of each, the relative L2 error of values and
gradients against float64, and what 10 and 50 draws of noise cost, in units of one draw.

Usage: python benchmarks/rbf_layer.py [--batch 100] [--rounds 10] [--threads 2]
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from rbfbench.data import load_data
from rbfbench.defenses import shipped_path
from rbfbench.defenses.checkpoint import load
from rbfbench.defenses.rbf import CENTRE, RBFReconstruction

Reconstruct = Callable[[RBFReconstruction, Tensor], Tensor]


def plain(layer: RBFReconstruction, x: Tensor) -> Tensor:
    """Scores, gates, weights and their product, each kept by autograd."""
    weights = layer.weights(layer.patches(x))
    return layer.stitch(weights @ (layer.means - CENTRE).flatten(1), (x.shape[2], x.shape[3]))


def fast(layer: RBFReconstruction, x: Tensor) -> Tensor:
    """What the model runs."""
    return layer.static(x)


WAYS: dict[str, Reconstruct] = {"plain": plain, "fast": fast}
DRAWS = (1, 10, 50)


def step(way: Reconstruct, layer: RBFReconstruction, x: Tensor, upstream: Tensor) -> tuple[Tensor, Tensor]:
    """Values and the gradient of <values, upstream>."""
    x = x.clone().requires_grad_()
    out = way(layer, x)
    return out.detach(), torch.autograd.grad((out * upstream).sum(), x)[0]


def samples_of(layer: RBFReconstruction, draws: int) -> Tensor:
    """Noisy samples (K, draws * C, h, w) of one image: drawing the numbers is not timed."""
    k, c, h, w = layer.means.shape
    noise = torch.randn(k, draws * c, h, w, generator=torch.Generator().manual_seed(0))
    return (layer.means - CENTRE).repeat(1, draws, 1, 1) + 1.75 * layer.variances[:, None, None, None] * noise


def noisy_step(layer: RBFReconstruction, x: Tensor, draws: int, samples: Tensor) -> None:
    """Forward and backward of all draws of every image, from samples to sums of patches."""
    x = x.clone().requires_grad_()
    sums, _ = layer._mix(x, samples.expand(len(x), -1, -1, -1, -1))
    torch.autograd.grad(sums, x, torch.ones_like(sums))


def timed(calls: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each call in each round, the calls in turn."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds + 1):
        for name, call in calls.items():
            began = time.perf_counter()
            call()
            times[name].append(time.perf_counter() - began)
    return {name: seconds[1:] for name, seconds in times.items()}  # the first round warms up


def ratios(above: list[float], below: list[float]) -> str:
    """Median and quartiles of the ratios of rounds."""
    low, middle, high = statistics.quantiles((a / b for a, b in zip(above, below, strict=True)), n=4)
    return f"{middle:.2f} ({low:.2f} to {high:.2f})"


def setting(batch: int, sharpness: str) -> tuple[RBFReconstruction, Tensor, Tensor]:
    """The shipped CIFAR-10 filters at test ("eval", beta1 25) or training sharpness (125), images, and a cotangent."""
    path = shipped_path("rcnn", "cifar10")
    if path is None:
        raise SystemExit("no shipped CIFAR-10 weights")
    layer = load(path)[0].reconstruction
    layer.config = type(layer.config)(beta1=25.0 if sharpness == "eval" else 125.0)
    x, _ = load_data("cifar10").batch(0, batch)
    return layer, x, torch.randn(x.shape, generator=torch.Generator().manual_seed(0))


def peak_megabytes(name: str, batch: int, queue: multiprocessing.Queue[float]) -> None:
    """Peak resident memory that one step adds, in a process of its own (Linux)."""
    layer, x, upstream = setting(batch, "eval")
    step(WAYS[name], layer, x[:1], upstream[:1])
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew; getrusage would report the parent's
    before = resident("VmRSS")
    step(WAYS[name], layer, x, upstream)
    queue.put((resident("VmHWM") - before) / 1024)


def resident(field: str) -> int:
    """A line of /proc/self/status, in kB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:"))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)

    for sharpness in ("eval", "train"):
        layer, x, upstream = setting(given.batch, sharpness)
        exact = step(plain, layer.double(), x.double(), upstream.double())
        layer.float()
        for name, way in WAYS.items():
            got = step(way, layer, x, upstream)
            errors = [float((a - b).norm() / b.norm()) for a, b in zip(got, exact, strict=True)]
            print(
                f"beta1 {layer.config.beta1:g} {name}: relative error {errors[0]:.1e} values, {errors[1]:.1e} gradients"
            )

    layer, x, upstream = setting(given.batch, "eval")
    calls = {name: partial(step, way, layer, x, upstream) for name, way in WAYS.items()}
    calls |= {f"{draws} draws": partial(noisy_step, layer, x, draws, samples_of(layer, draws)) for draws in DRAWS}
    times = timed(calls, given.rounds)
    print(f"{given.rounds} rounds, {given.threads} threads, batch {given.batch}; median (quartiles)")
    print("plain / fast:", ratios(times["plain"], times["fast"]))
    for draws in DRAWS[1:]:
        print(f"{draws} draws / 1 draw:", ratios(times[f"{draws} draws"], times["1 draws"]))

    context = multiprocessing.get_context("spawn")
    for name in WAYS:
        queue: multiprocessing.Queue[float] = context.Queue()
        process = context.Process(target=peak_megabytes, args=(name, given.batch, queue))
        process.start()
        process.join()  # first: one that died has put nothing in, and would be waited for
        if process.exitcode:
            raise SystemExit(f"{name}: the process that measures memory ended with {process.exitcode}")
        print(f"{name}: {queue.get():.0f} MB more at the peak of one step")


if __name__ == "__main__":
    main()
