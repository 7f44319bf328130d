"""One resumable trainer for every recipe."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import pickle
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rbfbench.attacks.rng import Keys
from rbfbench.data.images import Images
from rbfbench.defenses.checkpoint import Blueprint, build
from rbfbench.defenses.em import EMConfig, fit_filters
from rbfbench.defenses.rbf import RBFConfig
from rbfbench.defenses.rbfcnn import RBFCNN
from rbfbench.errors import LoadError, ModelError
from rbfbench.training.adversary import adversarial, trades_loss
from rbfbench.training.augment import augment
from rbfbench.training.copies import NoisyCopies, adversarial_noise, unit_pixels
from rbfbench.training.files import replacing, resuming
from rbfbench.training.optimisation import optimizer_of
from rbfbench.training.recipes import Adversary, Noise, Recipe, Schedule

SEEDS = 2**63  # that torch tells apart

Progress = Callable[[str, int, int, str], None]  # (stage, done, total, remark)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainSpec:
    """Everything that decides the weights; a checkpoint of another spec is refused.

    Attributes:
        name: The recipe's name.
        dataset: Name of the data set.
        preset: Which constants it started from.
        recipe: What to train.
        schedule: Optimisation.
        noise: Noisy copies, or None.
        adversary: Adversarial examples made in each step, or None.
        rbf: Constants of the RBF front, or None.
        em: Constants of its filters; None without a front, or where the source brings filters.
        source: Digest of the model that makes the stored noise, and whose filters are taken; None without one.
        start: Digest of the model whose weights the classifier starts from; None starts from random ones.
        seed: Seed of everything random.
        precision: "float32" or "bfloat16".
        data_digest: Digest of the training images.
    """

    name: str
    dataset: str
    preset: str
    recipe: Recipe
    schedule: Schedule
    noise: Noise | None
    adversary: Adversary | None
    rbf: RBFConfig | None
    em: EMConfig | None
    source: str | None
    start: str | None = None
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


def model_digest(model: nn.Module) -> str:
    """SHA-256 (hex) over the names and values of a model's tensors."""
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        digest.update(name.encode() + tensor.cpu().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def train(
    spec: TrainSpec,
    images: Images,
    validation: Images,
    workdir: Path,
    *,
    source: nn.Module | None = None,
    start: nn.Module | None = None,
    device: torch.device,
    progress: Progress,
) -> Trained:
    """Fit filters, reconstruct the training images once, and train the classifier; resumes what `workdir` holds.

    Args:
        spec: What to train.
        images: Training images.
        validation: Images of the training file kept for choosing between schedules; never the ones reported.
        workdir: Folder of the checkpoint, the filters, the cached reconstructions and the stored noise.
        source: Trained model that makes the stored noise, and brings the filters; `spec.source` is its digest.
        start: Trained model whose classifier is trained on; `spec.start` is its digest.
        device: Where to train.
        progress: Told (stage, done, total, remark) after every step worth showing.

    Raises:
        LoadError: `workdir` belongs to another spec, or a file in it is damaged or cannot be written.
        ModelError: The classifier, the source or the start does not fit, or the loss is not finite; then the last good
            checkpoint stays.
    """
    blueprint = Blueprint(
        classifier=spec.schedule.classifier,
        dataset=spec.dataset,
        n_classes=images.n_classes,
        rbf=spec.rbf,
        recipe=dataclasses.asdict(spec),
    )
    _check_source(spec, source)
    _check_start(spec, start, source)
    _check_classifier(build(blueprint, None), spec.schedule.classifier, images)
    workdir.mkdir(parents=True, exist_ok=True)
    _claim(workdir / "spec.txt", spec)
    torch.manual_seed(spec.seed)
    filters = _filters(spec, images, workdir, source or start, progress) if spec.rbf else None
    model = build(blueprint, filters).to(device).to(memory_format=torch.channels_last)
    classifier, pixels, held_out = model, _stored(images), _stored(validation)
    if isinstance(model, RBFCNN):
        classifier = model.classifier
        pixels = _reconstructions(model, images, workdir / "train.npy", device, progress)
        held_out = _reconstructions(model, validation, workdir / "validation.npy", device, progress)
    if start is not None:
        classifier.load_state_dict((start.classifier if isinstance(start, RBFCNN) else start).state_dict())
    run = _Run(spec, classifier, len(pixels), workdir / "checkpoint.pt", device)
    front = model.front_static if isinstance(model, RBFCNN) else None
    copies = NoisyCopies(spec.noise, images, front, spec.seed) if spec.noise else None
    while run.epoch < spec.schedule.epochs:
        if copies and copies.due(run.epoch):
            maker = model if source is None or copies.noise.made_at else source
            copies.stored = adversarial_noise(
                _static(maker.eval().to(device)),
                images,
                copies.noise,
                workdir / "noise.npy",
                seed=spec.seed,
                device=device,
                progress=lambda done, total: progress("adversarial noise", done, total, ""),
            )
            model.train()  # the sharpness of training
        run.one_epoch(pixels, images.labels, copies, progress)
        run.history[-1]["validation_accuracy"] = _accuracy(classifier, held_out, validation.labels, device)
        run.save()
        progress("epochs", run.epoch, spec.schedule.epochs, _remark(run.history[-1]))
    if isinstance(model, RBFCNN) and spec.schedule.settle:
        settle(model, images, spec.schedule.settle, seed=spec.seed, device=device, progress=progress)
    return Trained(model.eval(), blueprint, run.history, run.wall_s)


@torch.inference_mode()
def settle(
    model: RBFCNN, images: Images, n: int, *, seed: int, device: torch.device, progress: Progress = lambda *_: None
) -> None:
    """Take batch-norm statistics anew, in place, from what the classifier sees at test time: noisy reconstructions.

    It was trained on noise-free ones, whose statistics the noise of a decision shifts (arXiv 1603.04779 does so for new
    data). Weights stay; a net without batch norm stays whole.

    Args:
        model: The model, with the noise of its configuration.
        images: Training images.
        n: How many of them, from the first.
        seed: Seed of the noise, one draw an image.
        device: Where the model is.
        progress: Told after every batch.
    """
    model.eval()
    norms = [module for module in model.classifier.modules() if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the plain mean over all batches
        norm.train()
    n = min(n, len(images)) if norms else 0
    keys = Keys.of(images.head(n).ids, seed).fold("settle")
    # Of even size: each batch counts alike, and one image alone has no variance.
    for where in np.array_split(np.arange(n), -(-n // 100)) if n else ():
        x, _ = images.batch(int(where[0]), int(where[-1]) + 1)
        model.classify(model.front(x.to(device), keys[where]))
        progress("batch norm", int(where[-1]) + 1, n, "")
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    model.eval()


def _check_source(spec: TrainSpec, source: nn.Module | None) -> None:
    if (None if source is None else model_digest(source)) != spec.source:
        raise ModelError("the source cannot be used", "it is not the one that the settings name", "give that one")
    if spec.noise and spec.noise.made_at is None and source is None:
        raise ModelError("there is no adversarial noise", "no trained model is there to make it", "give a source")


def _check_start(spec: TrainSpec, start: nn.Module | None, source: nn.Module | None) -> None:
    if (None if start is None else model_digest(start)) != spec.start:
        raise ModelError("the start cannot be used", "it is not the one that the settings name", "give that one")
    if isinstance(start, RBFCNN) and isinstance(source, RBFCNN):
        mine, theirs = (model.reconstruction.means.cpu() for model in (start, source))
        if not torch.equal(mine, theirs):
            raise ModelError(
                "the start cannot be used", "its filters are not those of the source", "give a start made with it"
            )


def _check_classifier(classifier: nn.Module, name: str, images: Images) -> None:
    """Refuse a net for images of another shape, which torch would do in many lines after the filters are fitted."""
    try:
        with torch.inference_mode():
            classifier.eval()(images.batch(0, 1)[0])
    except RuntimeError as error:
        raise ModelError(
            f"classifier {name} cannot be trained on these images",
            f"it does not take images of shape {images.shape}",
            "choose another one",
        ) from error


def _claim(path: Path, spec: TrainSpec) -> None:
    """Refuse a folder of another training, before its filters, reconstructions or weights are taken for this one's."""
    came_to_nothing = {file.name for file in path.parent.iterdir()} <= {path.name}
    if not path.is_file() or came_to_nothing:
        with replacing(path) as part:
            part.write_text(repr(spec))
    if path.read_text() != repr(spec):
        raise LoadError(
            f"cannot resume from {path.parent}",
            "it holds a training with other settings",
            "give the same settings, another --out, or remove that folder",
        )


def _remark(epoch: dict[str, float]) -> str:
    copies = f", copies {epoch['copies_accuracy']:.1%}" if "copies_accuracy" in epoch else ""
    held_out = f"held out {epoch['validation_accuracy']:.1%}"
    return f"loss {epoch['loss']:.3f}, train {epoch['train_accuracy']:.1%}{copies}, {held_out}"


def _stored(images: Images) -> np.ndarray:
    """Pixels (N, H, W, C) as float16 in [0,1]: half the memory of float32, exact enough for 8-bit images."""
    return unit_pixels(images.pixels).astype(np.float16)


def _filters(
    spec: TrainSpec, images: Images, workdir: Path, known: nn.Module | None, progress: Progress
) -> tuple[Tensor, Tensor]:
    """Those of the source or the start, so that noise and weights meet the same front; else fitted to the images."""
    if isinstance(known, RBFCNN):
        return known.reconstruction.means.cpu().double(), known.reconstruction.variances.cpu().double()
    path = workdir / "filters.npz"
    if path.is_file():
        with resuming(path), np.load(path, allow_pickle=False) as file:
            return torch.from_numpy(file["means"]), torch.from_numpy(file["variances"])
    if spec.em is None:
        raise ModelError(
            "there are no RBF filters", "the training says neither how to fit nor whose to take", "give em or a source"
        )
    config = spec.em
    means, variances = fit_filters(
        lambda start, stop: images.batch(start, stop)[0],
        len(images),
        config,
        seed=spec.seed,
        progress=lambda update, k: progress("filters", update, config.updates, f"{k} filters"),
    )
    with replacing(path) as part, part.open("wb") as file:
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
        with replacing(path) as part, part.open("wb") as file:
            np.save(file, out)
    with resuming(path):
        loaded: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
    return loaded


def _static(model: nn.Module) -> Callable[[Tensor], Tensor]:
    """The model without its noise."""
    return (lambda x: model.classify(model.front_static(x))) if isinstance(model, RBFCNN) else model


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
        self.optimizer, self.scheduler = optimizer_of(spec.schedule, model, self.steps)
        self.epoch, self.wall_s = 0, 0.0
        self.history: list[dict[str, float]] = []
        if path.is_file():
            self._restore(_checkpoint(path, device))

    def _stop(self) -> NoReturn:
        kept = f"; {self.path} holds the last good epoch" if self.epoch else ""
        raise ModelError(
            f"training stopped in epoch {self.epoch + 1}",
            "the loss is not finite",
            f"start anew with a lower lr{kept}",
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
        """Write the checkpoint; through memory, because torch hides what the disk said."""
        state = io.BytesIO()
        torch.save(self._state(), state)
        with replacing(self.path) as part:
            part.write_bytes(state.getbuffer())

    def _attacked(self, x: Tensor, y: Tensor, index: np.ndarray, adversary: Adversary) -> Tensor:
        """Adversarial examples (N, C, H, W) of x; behind x itself where clean images are trained on too."""
        keys = Keys.of([str(i) for i in index], self.spec.seed).fold("adversary", self.epoch)
        x_adv = adversarial(self.model, x, y, adversary, keys)
        return x_adv if adversary.beta is None else torch.cat([x, x_adv])

    def _loss(self, logits: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """The loss, and the logits (N, classes) whose accuracy is told."""
        targets = smoothed(y, logits.shape[1], self.spec.recipe.smoothing)
        beta = self.spec.adversary.beta if self.spec.adversary else None
        if beta is None:
            return F.cross_entropy(logits, targets), logits
        clean, attacked = logits[: len(y)], logits[len(y) :]
        return trades_loss(clean, attacked, targets, beta), clean

    def one_epoch(self, pixels: np.ndarray, labels: np.ndarray, copies: NoisyCopies | None, progress: Progress) -> None:
        """One pass in an order that depends on the seed and the epoch only, so that a resumed run repeats it."""
        began = time.monotonic()
        schedule = self.spec.schedule
        generator = np.random.default_rng((self.spec.seed, self.epoch))
        torch.manual_seed((self.spec.seed * 1_000_003 + self.epoch) % SEEDS)  # dropout
        self.model.train()
        loss_sum, right, seen = 0.0, np.zeros(2, np.int64), np.zeros(2, np.int64)  # of clean images, of copies
        for step, index in enumerate(_batches(len(labels), schedule.batch, generator)):
            x, targets = torch.from_numpy(pixels[index]).to(self.device), labels[index]
            if copies:
                noisy, more = copies.of(index, generator, self.device)
                x, targets = torch.cat([x.float(), noisy]), np.concatenate([targets, more])
            inputs = augment(x, schedule, generator).permute(0, 3, 1, 2)
            y = torch.from_numpy(targets).to(self.device)
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.spec.precision == "bfloat16"):
                if self.spec.adversary:
                    inputs = self._attacked(inputs, y, index, self.spec.adversary)
                logits = self.model(inputs.contiguous(memory_format=torch.channels_last)).float()
            loss, logits = self._loss(logits, y)
            if not torch.isfinite(loss):
                self._stop()
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            self.optimizer.step()
            self.scheduler.step()
            loss_sum += loss.item() * len(y)
            hits = (logits.argmax(1) == y).cpu().numpy()
            right += hits[: len(index)].sum(), hits[len(index) :].sum()
            seen += len(index), len(y) - len(index)
            done = self.epoch * self.steps + step + 1
            progress(f"epoch {self.epoch + 1}/{schedule.epochs}", done, schedule.epochs * self.steps, "")
        # The last step has no later loss to show that it went wrong.
        if not all(parameter.isfinite().all() for parameter in self.model.parameters()):
            self._stop()
        self.epoch += 1
        self.wall_s += time.monotonic() - began
        entry = {"epoch": self.epoch, "loss": loss_sum / int(seen.sum()), "train_accuracy": right[0] / int(seen[0])}
        if copies:
            entry["copies_accuracy"] = right[1] / int(seen[1])
        self.history.append({name: float(value) for name, value in entry.items()} | {"epoch": self.epoch})


def smoothed(y: Tensor, n_classes: int, smoothing: float) -> Tensor:
    """Targets (N, n_classes): 1 - smoothing for the true class, the rest shared by the others (authors' clipping)."""
    one_hot = F.one_hot(y, n_classes).float()
    return one_hot * (1 - smoothing) + (1 - one_hot) * smoothing / (n_classes - 1)


def _batches(n: int, size: int, generator: np.random.Generator) -> Iterator[np.ndarray]:
    order = generator.permutation(n)
    for start in range(0, n, size):
        yield np.sort(order[start : start + size])  # sorted: the cached reconstructions are read from disk in order


@torch.inference_mode()
def _accuracy(model: nn.Module, pixels: np.ndarray, labels: np.ndarray, device: torch.device) -> float:
    model.eval()
    correct = 0
    for start in range(0, len(labels), 250):
        x = torch.from_numpy(np.array(pixels[start : start + 250])).permute(0, 3, 1, 2).to(device, torch.float32)
        correct += int((model(x).argmax(1).cpu().numpy() == labels[start : start + 250]).sum())
    return correct / len(labels)
