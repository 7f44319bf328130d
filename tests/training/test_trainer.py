"""The trainer: the seed decides the weights, whatever interrupts it, and nothing of another training is taken over."""

from __future__ import annotations

import dataclasses
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from rbfbench.data import Images, load_training
from rbfbench.defenses.classifiers import CLASSIFIERS, DigitsCNN
from rbfbench.defenses.em import EM_PRESETS, EMConfig
from rbfbench.defenses.rbf import PRESETS
from rbfbench.defenses.rbfcnn import RBFCNN
from rbfbench.errors import LoadError, ModelError
from rbfbench.training import trainer
from rbfbench.training.recipes import RECIPES, SCHEDULES
from rbfbench.training.trainer import Progress, Trained, TrainSpec, augment, smoothed, train


@pytest.fixture(autouse=True)
def short_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    """EM of 40 updates: the trainer needs some filters here, not good ones."""
    config = EMConfig(wish=10, updates=40, images_per_update=100, patch_fraction=0.2)
    monkeypatch.setitem(EM_PRESETS, "digits", config)


@pytest.fixture(autouse=True)
def dropout(monkeypatch: pytest.MonkeyPatch) -> None:
    """A net that draws from the global generator in training, as the one for MNIST does."""
    monkeypatch.setitem(CLASSIFIERS, "digits-cnn", lambda n: nn.Sequential(nn.Dropout(0.1), DigitsCNN(n)))


@cache
def digits() -> tuple[Images, Images]:
    images, validation = load_training("digits")
    return images.head(300), validation.head(60)


def spec_of(recipe: str = "rcnn", **schedule: Any) -> TrainSpec:
    return TrainSpec(
        name=recipe,
        dataset="digits",
        recipe=RECIPES[recipe],
        schedule=dataclasses.replace(SCHEDULES["digits"], **{"epochs": 2, "shift": 1, "flip": True} | schedule),
        rbf=PRESETS["default"] if RECIPES[recipe].rbf else None,
        seed=0,
        precision="float32",
        data_digest=digits()[0].digest,
    )


def quiet(stage: str, done: int, total: int, remark: str) -> None:
    """No progress shown."""


def fit(spec: TrainSpec, workdir: Path, device: torch.device | str = "cpu", progress: Progress = quiet) -> Trained:
    return train(spec, *digits(), workdir, device=torch.device(device), progress=progress)


def same(first: nn.Module, second: nn.Module) -> bool:
    a, b = first.state_dict(), second.state_dict()
    return list(a) == list(b) and all(torch.equal(a[name], b[name]) for name in a)


def assert_same(first: Trained, second: Trained, device: torch.device) -> None:
    if device.type == "cpu":
        assert same(first.model, second.model)
        assert first.history == second.history
        return
    # CUDA's convolutions sum in any order: 1e-7 a step, amplified over 10 steps of Adam at 3e-3
    b = second.model.state_dict()
    for name, tensor in first.model.state_dict().items():
        torch.testing.assert_close(tensor, b[name], rtol=0, atol=1e-3)


class Killed(BaseException):
    """Stands for the signal that ends a training; no handler for errors may catch it."""


def killed_after(stage: str, done: int) -> Progress:
    def progress(now: str, count: int, total: int, remark: str) -> None:
        if (now, count) == (stage, done):
            raise Killed

    return progress


@pytest.mark.parametrize("recipe", RECIPES)
def test_the_seed_decides_the_weights(recipe: str, tmp_path: Path, device: torch.device) -> None:
    spec = spec_of(recipe)
    first = fit(spec, tmp_path / "a", device)
    torch.manual_seed(1234)  # no global generator matters
    np.random.seed(1234)
    second = fit(spec, tmp_path / "b", device)
    assert_same(first, second, device)
    other = fit(dataclasses.replace(spec, seed=1), tmp_path / "c", device)
    assert not same(first.model, other.model)
    assert isinstance(first.model, RBFCNN) == RECIPES[recipe].rbf
    assert not first.model.training
    assert first.blueprint.rbf == spec.rbf
    assert first.blueprint.n_classes == 10


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
@pytest.mark.parametrize(
    ("stage", "done"),
    [("filters", 40), ("reconstructions", 200), ("epoch 1/3", 5), ("epochs", 1), ("epoch 2/3", 7), ("epochs", 3)],
)
def test_a_killed_training_resumes_to_the_very_same_weights(
    stage: str, done: int, optimizer: Literal["adam", "sgd"], tmp_path: Path
) -> None:
    spec = spec_of(optimizer=optimizer, epochs=3, lr=3e-3 if optimizer == "adam" else 0.05)
    whole = fit(spec, tmp_path / "whole")
    with pytest.raises(Killed):
        fit(spec, tmp_path / "cut", progress=killed_after(stage, done))
    torch.manual_seed(77)
    resumed = fit(spec, tmp_path / "cut")
    assert_same(whole, resumed, torch.device("cpu"))
    assert [epoch["epoch"] for epoch in resumed.history] == [1, 2, 3]
    assert not list((tmp_path / "cut").glob("*.part"))


def test_resuming_repeats_no_finished_epoch(tmp_path: Path) -> None:
    with pytest.raises(Killed):
        fit(spec_of(), tmp_path, progress=killed_after("epochs", 1))
    stages: list[str] = []
    fit(spec_of(), tmp_path, progress=lambda stage, *_: stages.append(stage))
    assert set(stages) == {"epoch 2/2", "epochs"}


def test_training_learns_something(tmp_path: Path) -> None:
    trained = fit(spec_of("cnn", epochs=12, flip=False, shift=0), tmp_path)
    assert trained.history[-1]["loss"] < 0.6 * trained.history[0]["loss"]
    assert trained.history[-1]["validation_accuracy"] > 0.6  # chance: 0.1
    assert trained.wall_s > 0


CHANGES: dict[str, dict[str, Any]] = {
    "seed": {"seed": 1},
    "data": {"data_digest": "0" * 64},
    "constants": {"rbf": dataclasses.replace(PRESETS["default"], beta1_train=30.0)},
    "recipe": {"recipe": dataclasses.replace(RECIPES["rcnn"], smoothing=0.2)},
    "schedule": {"schedule": dataclasses.replace(SCHEDULES["digits"], epochs=5)},
    "precision": {"precision": "bfloat16"},
}


@pytest.mark.parametrize("stage", ["reconstructions", "epochs"])
@pytest.mark.parametrize("change", CHANGES)
def test_a_folder_of_another_training_is_refused_untouched(change: str, stage: str, tmp_path: Path) -> None:
    """Also before its first checkpoint: its filters would otherwise be taken for those of the new training."""
    spec = spec_of()
    with pytest.raises(Killed):
        fit(spec, tmp_path, progress=killed_after(stage, 1 if stage == "epochs" else 300))
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert ("checkpoint.pt" in before) == (stage == "epochs")
    with pytest.raises(LoadError) as caught:
        fit(dataclasses.replace(spec, **CHANGES[change]), tmp_path)
    assert str(caught.value).startswith(f"cannot resume from {tmp_path}: it holds a training with other settings; ")
    assert "\n" not in str(caught.value)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    fit(spec, tmp_path)  # and its own settings still resume it


def poisoned(monkeypatch: pytest.MonkeyPatch, after: int) -> None:
    """Make the targets, and so the loss, infinite from one step on."""
    steps = []

    def targets(y: Tensor, n_classes: int, smoothing: float) -> Tensor:
        steps.append(1)
        return smoothed(y, n_classes, smoothing) * (torch.inf if len(steps) > after else 1)

    monkeypatch.setattr(trainer, "smoothed", targets)


def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_epoch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = spec_of(epochs=3)
    whole = fit(spec, tmp_path / "whole")
    with monkeypatch.context() as patch:
        poisoned(patch, after=7)  # 5 steps an epoch: in the second
        with pytest.raises(ModelError) as caught:
            fit(spec, tmp_path / "cut")
    path = tmp_path / "cut" / "checkpoint.pt"
    assert str(caught.value).startswith("training stopped in epoch 2: the loss is not finite; ")
    assert str(path) in str(caught.value)
    state = torch.load(path, weights_only=True)
    assert state["epoch"] == 1
    assert all(tensor.isfinite().all() for tensor in state["model"].values())
    assert_same(whole, fit(spec, tmp_path / "cut"), torch.device("cpu"))


def test_in_the_first_epoch_no_checkpoint_is_promised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    poisoned(monkeypatch, after=2)
    with pytest.raises(ModelError, match=r"stopped in epoch 1: the loss is not finite; lower the learning rate\.$"):
        fit(spec_of(), tmp_path)
    assert not (tmp_path / "checkpoint.pt").exists()


def test_weights_that_overflow_in_the_last_step_of_an_epoch_are_not_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One step an epoch, of length 1e44: too long for float32, after a loss of 1e6."""
    monkeypatch.setattr(trainer, "smoothed", lambda y, n, smoothing: 1e6 * smoothed(y, n, smoothing))
    steps: list[tuple[str, int]] = []
    with pytest.raises(ModelError, match="stopped in epoch 1"):
        fit(
            spec_of("cnn", optimizer="sgd", lr=1e38, batch=300),
            tmp_path,
            progress=lambda stage, done, *_: steps.append((stage, done)),
        )
    assert steps == [("epoch 1/2", 1)]  # told after a step whose loss was finite
    assert not (tmp_path / "checkpoint.pt").exists()


def test_reconstructions_are_computed_once_and_those_of_the_model(tmp_path: Path, device: torch.device) -> None:
    stages: list[tuple[str, int]] = []
    spec = dataclasses.replace(spec_of(epochs=1), rbf=PRESETS["authors"])  # beta1 is 125 in training, 25 later
    trained = fit(spec, tmp_path, device, lambda stage, done, *_: stages.append((stage, done)))
    computed = [done for stage, done in stages if stage == "reconstructions"]
    assert computed == [100, 200, 300, 60]
    (path,) = tmp_path.glob("train-*.npy")
    cached = np.load(path, allow_pickle=False)
    images, _ = digits()
    assert cached.dtype == np.float16
    assert cached.shape == (300, 8, 8, 1)
    assert isinstance(trained.model, RBFCNN)
    model = trained.model.cpu().train()
    with torch.no_grad():
        exact = model.front_static(images.batch(0, 300)[0]).permute(0, 2, 3, 1).numpy()
    # float16 has 11 bits: half a unit of 2^-11 below 1; on CUDA float32 sums differ by far less
    np.testing.assert_allclose(cached.astype(np.float32), exact, rtol=0, atol=2.0**-12 + 1e-5)
    with torch.no_grad():
        at_test = model.eval().front_static(images.batch(0, 300)[0]).permute(0, 2, 3, 1).numpy()
    assert np.abs(cached - at_test).max() > 0.01
    stages.clear()
    (tmp_path / "checkpoint.pt").unlink()
    fit(spec, tmp_path, device, lambda stage, done, *_: stages.append((stage, done)))
    assert {stage for stage, _ in stages} == {"epoch 1/1", "epochs"}


def test_stored_pixels_keep_every_8_bit_value_apart() -> None:
    images, _ = digits()
    values = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)
    stored = trainer._stored(dataclasses.replace(images, pixels=values))
    np.testing.assert_array_equal(np.rint(stored.astype(np.float64) * 255), values)
    floats = trainer._stored(dataclasses.replace(images, pixels=values.astype(np.float32) / np.float32(255)))
    np.testing.assert_array_equal(stored, floats)


@pytest.mark.parametrize(("n_classes", "smoothing"), [(10, 0.1), (2, 0.1), (3, 0.0)])
def test_targets_are_those_of_the_authors_clipping(n_classes: int, smoothing: float, device: torch.device) -> None:
    y = torch.arange(n_classes, device=device).flip(0)
    targets = smoothed(y, n_classes, smoothing).cpu().tolist()
    for row, label in zip(targets, y.tolist(), strict=True):
        for number, value in enumerate(row):
            expected = 1 - smoothing if number == label else smoothing / (n_classes - 1)
            assert value == pytest.approx(expected, abs=1e-7)  # one rounding to float32


def test_recipes_are_trained_on_their_own_targets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, set[float]] = {}
    for recipe in RECIPES:
        amounts = seen.setdefault(recipe, set())

        def targets(y: Tensor, n: int, smoothing: float, amounts: set[float] = amounts) -> Tensor:
            amounts.add(smoothing)
            return smoothed(y, n, smoothing)

        monkeypatch.setattr(trainer, "smoothed", targets)
        fit(spec_of(recipe, epochs=1), tmp_path / recipe)
    assert seen == {"cnn": {0.0}, "cnn-ls": {0.1}, "rcnn": {0.1}}


def ramp(n: int = 400) -> np.ndarray:
    """Images (n, 5, 6, 2) in which every pixel has its own value."""
    return np.arange(n * 60, dtype=np.float32).reshape(n, 5, 6, 2)


def shifted(image: np.ndarray, down: int, right: int) -> np.ndarray:
    """The image seen through a window moved by this much, reflected at the border, pixel by pixel."""

    def inside(i: int, size: int) -> int:
        i = abs(i)
        return 2 * (size - 1) - i if i >= size else i

    rows = [inside(i + down, 5) for i in range(5)]
    columns = [inside(j + right, 6) for j in range(6)]
    return image[rows][:, columns]


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("shift", [0, 2])
def test_augmentation_only_flips_and_shifts(shift: int, flip: bool) -> None:
    schedule = dataclasses.replace(SCHEDULES["digits"], shift=shift, flip=flip)
    x = ramp()
    out = augment(x, schedule, np.random.default_rng(0))
    assert out.shape == x.shape
    assert out.dtype == x.dtype
    moves = [(f, d, r) for f in {False, flip} for d in range(-shift, shift + 1) for r in range(-shift, shift + 1)]
    seen = {move: 0 for move in moves}
    for before, after in zip(x, out, strict=True):
        fits = [
            (f, d, r) for f, d, r in moves if np.array_equal(shifted(before[:, ::-1] if f else before, d, r), after)
        ]
        assert len(fits) == 1
        seen[fits[0]] += 1
    assert min(seen.values()) > 0  # every move happens: 400 images, at most 50 equally likely moves
    assert np.array_equal(x, ramp())  # in a copy: the cached images stay


def test_augmentation_follows_its_generator() -> None:
    schedule = SCHEDULES["cifar10"]
    first, again, other = (augment(ramp(), schedule, np.random.default_rng(seed)) for seed in (0, 0, 1))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_every_image_is_used_once_an_epoch_in_an_order_of_its_own() -> None:
    first, second = (
        np.concatenate(list(trainer._batches(103, 20, np.random.default_rng((0, epoch))))) for epoch in (0, 1)
    )
    assert sorted(first) == sorted(second) == list(range(103))
    assert not np.array_equal(first, second)


def test_shading_keeps_the_picture_and_follows_its_strength() -> None:
    x = np.random.default_rng(0).random((200, 16, 16, 3)).astype(np.float16)
    plain = dataclasses.replace(SCHEDULES["digits"], shift=0, flip=False)
    offsets = augment(x, dataclasses.replace(plain, colour=0.1), np.random.default_rng(1)) - x.astype(np.float32)
    # One offset a channel, the same for all pixels up to rounding; 600 of them have the asked spread within 5 s.e.
    assert np.ptp(offsets, axis=(1, 2)).max() < 1e-5
    assert abs(offsets[:, 0, 0].std() - 0.1) < 5 * 0.1 / np.sqrt(2 * 600)
    contrast = augment(x, dataclasses.replace(plain, contrast=0.3), np.random.default_rng(1)) - 0.5
    factor = (contrast * (x - 0.5)).sum((1, 2, 3)) / ((x - 0.5) ** 2).sum((1, 2, 3))
    assert 0.7 <= factor.min() < 0.75
    assert 1.25 < factor.max() <= 1.3 + 1e-3
    shading = augment(x, dataclasses.replace(plain, shading=0.2), np.random.default_rng(1)) - x.astype(np.float32)
    # Smooth: neighbours differ by less than a step of the grid can, and the mean square is s^2 E[u^2] at a grid point.
    assert np.abs(np.diff(shading, axis=1)).max() < np.ptp(shading) / 2
    assert abs(np.mean(shading[:, 0, 0] ** 2) - 0.2**2 / 3) < 0.2**2 / 3 * 0.5


def test_a_damaged_checkpoint_is_named(tmp_path: Path) -> None:
    fit(spec_of(), tmp_path)
    checkpoint = tmp_path / "checkpoint.pt"
    checkpoint.write_bytes(checkpoint.read_bytes()[:1000])
    with pytest.raises(LoadError, match=r"checkpoint\.pt"):
        fit(spec_of(), tmp_path)
