"""One resumable trainer for every recipe."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import pickle
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rbfbench.data.images import Images
from rbfbench.defenses.checkpoint import Blueprint, build
from rbfbench.defenses.em import EM_PRESETS, EMConfig, fit_filters
from rbfbench.defenses.rbf import RBFConfig
from rbfbench.defenses.rbfcnn import RBFCNN
from rbfbench.errors import LoadError, ModelError
from rbfbench.training.recipes import Recipe, Schedule

Progress = Callable[[str, int, int, str], None]  # (stage, done, total, remark)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainSpec:
    """Everything that decides the weights; a checkpoint of another spec is refused."""

    name: str
    dataset: str
    recipe: Recipe
    schedule: Schedule
    rbf: RBFConfig | None
    seed: int
    precision: str
    data_digest: str


@dataclasses.dataclass(frozen=True)
class Trained:
    """A trained model and what its card tells."""

    model: nn.Module
    blueprint: Blueprint
    history: list[dict[str, float]]
    wall_s: float


def train(
    spec: TrainSpec, images: Images, validation: Images, workdir: Path, *, device: torch.device, progress: Progress
) -> Trained:
    """Fit filters, reconstruct the training images once, and train the classifier; resumes what `workdir` holds.

    Args:
        spec: What to train.
        images: Training images.
        validation: Images of the training file kept for choosing between schedules; never the ones reported.
        workdir: Folder of the checkpoint and the cached reconstructions.
        device: Where to train.
        progress: Told (stage, done, total, remark) after every step worth showing.

    Raises:
        LoadError: `workdir` belongs to another spec.
        ModelError: The loss is not finite; the last good checkpoint stays.
    """
    workdir.mkdir(parents=True, exist_ok=True)
    _claim(workdir / "spec.txt", spec)
    torch.manual_seed(spec.seed)
    filters = _filters(spec, images, workdir, progress) if spec.rbf else None
    blueprint = Blueprint(
        classifier=spec.schedule.classifier,
        dataset=spec.dataset,
        n_classes=images.n_classes,
        rbf=spec.rbf,
        recipe=dataclasses.asdict(spec),
    )
    model = build(blueprint, filters).to(device).to(memory_format=torch.channels_last)
    classifier, pixels, held_out = model, _stored(images), _stored(validation)
    if isinstance(model, RBFCNN):
        classifier = model.classifier
        pixels = _reconstructions(model, images, workdir / "train.npy", device, progress)
        held_out = _reconstructions(model, validation, workdir / "validation.npy", device, progress)
    run = _Run(spec, classifier, len(pixels), workdir / "checkpoint.pt", device)
    while run.epoch < spec.schedule.epochs:
        run.one_epoch(pixels, images.labels, progress)
        run.history[-1]["validation_accuracy"] = _accuracy(classifier, held_out, validation.labels, device)
        run.save()
        progress("epochs", run.epoch, spec.schedule.epochs, _remark(run.history[-1]))
    return Trained(model.eval(), blueprint, run.history, run.wall_s)


def _claim(path: Path, spec: TrainSpec) -> None:
    """Refuse a folder of another training, before its filters, reconstructions or weights are taken for this one's."""
    if not path.is_file():
        with _replacing(path) as part:
            part.write_text(repr(spec))
    if path.read_text() != repr(spec):
        raise LoadError(
            f"cannot resume from {path.parent}",
            "it holds a training with other settings",
            "give the same settings, another --out, or remove that folder",
        )


def _remark(epoch: dict[str, float]) -> str:
    return f"loss {epoch['loss']:.3f}, train {epoch['train_accuracy']:.1%}, held out {epoch['validation_accuracy']:.1%}"


def _stored(images: Images) -> np.ndarray:
    """Pixels (N, H, W, C) as float16 in [0,1]: half the memory of float32, exact enough for 8-bit images."""
    scale = 255 if images.pixels.dtype == np.uint8 else 1
    return np.divide(images.pixels, scale, dtype=np.float32).astype(np.float16)


def _filters(spec: TrainSpec, images: Images, workdir: Path, progress: Progress) -> tuple[Tensor, Tensor]:
    path = workdir / "filters.npz"
    if path.is_file():
        with np.load(path, allow_pickle=False) as file:
            return torch.from_numpy(file["means"]), torch.from_numpy(file["variances"])
    config = EM_PRESETS.get(spec.dataset, EMConfig(wish=10))
    means, variances = fit_filters(
        lambda start, stop: images.batch(start, stop)[0],
        len(images),
        config,
        seed=spec.seed,
        progress=lambda update, k: progress("filters", update, config.updates, f"{k} filters"),
    )
    with _replacing(path) as part, part.open("wb") as file:
        np.savez(file, means=means.numpy(), variances=variances.numpy())
    return means, variances


def _reconstructions(model: RBFCNN, images: Images, path: Path, device: torch.device, progress: Progress) -> np.ndarray:
    """Noise-free reconstructions (N, H, W, C) float16 at the training sharpness, from `path` if they are there."""
    key = hashlib.sha256(images.digest.encode())
    key.update(repr(model.config).encode())
    key.update(model.reconstruction.means.cpu().numpy().tobytes())
    path = path.with_name(f"{path.stem}-{key.hexdigest()[:12]}.npy")
    if not path.is_file():
        out = np.empty((len(images), *images.pixels.shape[1:]), np.float16)
        model.train()
        with torch.inference_mode():
            for start in range(0, len(images), 100):
                x, _ = images.batch(start, start + 100)
                out[start : start + 100] = model.front_static(x.to(device)).permute(0, 2, 3, 1).cpu().numpy()
                progress("reconstructions", min(start + 100, len(images)), len(images), "")
        with _replacing(path) as part, part.open("wb") as file:
            np.save(file, out)
    loaded: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
    return loaded


class _replacing:
    """A temporary path beside `path` that takes its place when the block ends well."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.part = path.with_name(f"{path.name}.{os.getpid()}.part")

    def __enter__(self) -> Path:
        return self.part

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.part.replace(self.path)
        else:
            self.part.unlink(missing_ok=True)


def _checkpoint(path: Path, device: torch.device) -> dict[str, Any]:
    try:
        state: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
    except (RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise LoadError(f"cannot resume from {path}", "the file is damaged", "remove it to start anew") from error
    return state


class _Run:
    """The state of one training: everything that a checkpoint holds."""

    def __init__(self, spec: TrainSpec, model: nn.Module, n: int, path: Path, device: torch.device) -> None:
        self.spec, self.model, self.path, self.device = spec, model, path, device
        self.steps = -(-n // spec.schedule.batch)
        self.optimizer, self.scheduler = _optimizer(spec.schedule, model, self.steps)
        self.epoch, self.wall_s = 0, 0.0
        self.history: list[dict[str, float]] = []
        if path.is_file():
            self._restore(_checkpoint(path, device))

    def _stop(self) -> NoReturn:
        kept = f"; {self.path} holds the last good epoch" if self.epoch else ""
        raise ModelError(
            f"training stopped in epoch {self.epoch + 1}", "the loss is not finite", f"lower the learning rate{kept}"
        )

    def _state(self) -> dict[str, Any]:
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "epoch": self.epoch,
            "wall_s": self.wall_s,
            "history": self.history,
        }

    def _restore(self, state: dict[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scheduler.load_state_dict(state["scheduler"])
        self.epoch, self.wall_s, self.history = state["epoch"], state["wall_s"], state["history"]

    def save(self) -> None:
        with _replacing(self.path) as part:
            torch.save(self._state(), part)

    def one_epoch(self, pixels: np.ndarray, labels: np.ndarray, progress: Progress) -> None:
        """One pass in an order that depends on the seed and the epoch only, so that a resumed run repeats it."""
        began = time.monotonic()
        generator = np.random.default_rng((self.spec.seed, self.epoch))
        torch.manual_seed(self.spec.seed * 1_000_003 + self.epoch)  # dropout
        self.model.train()
        loss_sum, correct, seen = 0.0, 0, 0
        for step, index in enumerate(_batches(len(labels), self.spec.schedule.batch, generator)):
            x = augment(pixels[index], self.spec.schedule, generator)
            inputs = torch.from_numpy(x).permute(0, 3, 1, 2).to(self.device, torch.float32)
            y = torch.from_numpy(labels[index]).to(self.device)
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.spec.precision == "bfloat16"):
                logits = self.model(inputs.contiguous(memory_format=torch.channels_last)).float()
            loss = F.cross_entropy(logits, smoothed(y, logits.shape[1], self.spec.recipe.smoothing))
            if not torch.isfinite(loss):
                self._stop()
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            self.optimizer.step()
            self.scheduler.step()
            loss_sum += loss.item() * len(y)
            correct += int((logits.argmax(1) == y).sum())
            seen += len(y)
            epochs, done = self.spec.schedule.epochs, self.epoch * self.steps + step + 1
            progress(f"epoch {self.epoch + 1}/{epochs}", done, epochs * self.steps, "")
        # The last step has no later loss to show that it went wrong.
        if not all(parameter.isfinite().all() for parameter in self.model.parameters()):
            self._stop()
        self.epoch += 1
        self.wall_s += time.monotonic() - began
        self.history.append({"epoch": self.epoch, "loss": loss_sum / seen, "train_accuracy": correct / seen})


def smoothed(y: Tensor, n_classes: int, smoothing: float) -> Tensor:
    """Targets (N, n_classes): 1 - smoothing for the true class, the rest shared by the others (authors' clipping)."""
    one_hot = F.one_hot(y, n_classes).float()
    return one_hot * (1 - smoothing) + (1 - one_hot) * smoothing / (n_classes - 1)


def augment(x: np.ndarray, schedule: Schedule, generator: np.random.Generator) -> np.ndarray:
    """Randomly flipped, shifted and shaded copies of images (N, H, W, C)."""
    if schedule.flip:
        flips = generator.random(len(x)) < 0.5
        x = np.where(flips[:, None, None, None], x[:, :, ::-1], x)
    if schedule.shift:
        s, (h, w) = schedule.shift, x.shape[1:3]
        padded = np.pad(x, ((0, 0), (s, s), (s, s), (0, 0)), mode="reflect")
        top, left = generator.integers(0, 2 * s + 1, (2, len(x)))
        x = np.stack([image[i : i + h, j : j + w] for image, i, j in zip(padded, top, left, strict=True)])
    return _shaded(x, schedule, generator) if schedule.contrast or schedule.colour or schedule.shading else x


def _shaded(x: np.ndarray, schedule: Schedule, generator: np.random.Generator) -> np.ndarray:
    """Other light on images (N, H, W, C): contrast, colour and smooth shading; values may leave [0,1]."""
    n, h, w, c = x.shape
    contrast = 1 + schedule.contrast * generator.uniform(-1, 1, (n, 1, 1, 1)).astype(np.float32)
    colour = schedule.colour * generator.standard_normal((n, 1, 1, c), np.float32)
    strength = schedule.shading * generator.random((n, 1, 1, 1), np.float32)
    size = schedule.shading_grid
    grid = strength * generator.standard_normal((n, size, size, c), np.float32)
    shading = np.einsum("hi,nijc,wj->nhwc", _interpolation(h, size), grid, _interpolation(w, size), optimize=True)
    lit: np.ndarray = (x.astype(np.float32) - 0.5) * contrast + 0.5 + colour + shading
    return lit


def _interpolation(pixels: int, grid: int) -> np.ndarray:
    """(pixels, grid) weights of linear interpolation from grid points to pixels."""
    at = np.linspace(0, grid - 1, pixels)
    weights: np.ndarray = np.maximum(0, 1 - np.abs(at[:, None] - np.arange(grid))).astype(np.float32)
    return weights


def _batches(n: int, size: int, generator: np.random.Generator) -> Iterator[np.ndarray]:
    order = generator.permutation(n)
    for start in range(0, n, size):
        yield np.sort(order[start : start + size])  # sorted: the cached reconstructions are read from disk in order


def _optimizer(
    schedule: Schedule, model: nn.Module, steps: int
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
    total = schedule.epochs * steps
    optimizer: torch.optim.Optimizer
    if schedule.optimizer == "adam":
        optimizer = torch.optim.Adam(model.parameters(), lr=schedule.lr, eps=1e-7)
        return optimizer, torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, total)
    optimizer = torch.optim.SGD(
        model.parameters(), lr=schedule.lr, momentum=0.9, nesterov=True, weight_decay=schedule.weight_decay
    )
    peak = 0.2 * total
    return optimizer, torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / peak, max(0.0, (total - step) / (total - peak)))
    )


@torch.inference_mode()
def _accuracy(model: nn.Module, pixels: np.ndarray, labels: np.ndarray, device: torch.device) -> float:
    model.eval()
    correct = 0
    for start in range(0, len(labels), 250):
        x = torch.from_numpy(np.array(pixels[start : start + 250])).permute(0, 3, 1, 2).to(device, torch.float32)
        correct += int((model(x).argmax(1).cpu().numpy() == labels[start : start + 250]).sum())
    return correct / len(labels)
