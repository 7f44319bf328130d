"""The trainer: the seed decides the weights, whatever interrupts it, and nothing of another training is taken over."""

from __future__ import annotations

import copy
import dataclasses
import errno
import tempfile
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from rbfbench.attacks.rng import Keys
from rbfbench.data import Images, load_training
from rbfbench.defenses.classifiers import CLASSIFIERS, DigitsCNN
from rbfbench.defenses.em import EMConfig, fit_filters
from rbfbench.defenses.rbf import PRESETS, RBFReconstruction
from rbfbench.defenses.rbfcnn import RBFCNN
from rbfbench.errors import LoadError, ModelError
from rbfbench.training import copies, trainer
from rbfbench.training.augment import augment
from rbfbench.training.files import replacing
from rbfbench.training.recipes import NOISES, RECIPES, SCHEDULES, adversary_of
from rbfbench.training.trainer import Progress, Trained, TrainSpec, model_digest, settle, smoothed, train

SCHEDULE = SCHEDULES["default", "digits", False]
NOISE = dataclasses.replace(NOISES["default", "digits"], adversarial_steps=2)
EM = EMConfig(wish=10, updates=40, images_per_update=100, patch_fraction=0.2)  # some filters, not good ones


@pytest.fixture(autouse=True)
def dropout(monkeypatch: pytest.MonkeyPatch) -> None:
    """A net that draws from the global generator in training, as the one for MNIST does."""
    monkeypatch.setitem(CLASSIFIERS, "digits-cnn", lambda n: nn.Sequential(nn.Dropout(0.1), DigitsCNN(n)))


@cache
def digits() -> tuple[Images, Images]:
    images, validation = load_training("digits")
    return images.head(300), validation.head(60)


@cache
def _sources() -> dict[str, nn.Module]:
    """Small models to make the noise of other recipes; theirs are other filters than those of EM here."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        plain, behind = DigitsCNN(), DigitsCNN()
    other = dataclasses.replace(EM, updates=45)
    means, variances = fit_filters(lambda start, stop: digits()[0].batch(start, stop)[0], 300, other, seed=9)
    front = RBFReconstruction(means.float(), variances.float(), PRESETS["default"])
    return {"cnn-ls": plain.eval(), "rcnn": RBFCNN(front, behind).eval()}


def source_of(recipe: str) -> nn.Module | None:
    name = RECIPES[recipe].source
    return copy.deepcopy(_sources()[name]) if name else None


def spec_of(recipe: str = "rcnn", noise: dict[str, Any] | None = None, **schedule: Any) -> TrainSpec:
    row, source = RECIPES[recipe], source_of(recipe)
    return TrainSpec(
        name=recipe,
        dataset="digits",
        preset="default",
        recipe=row,
        schedule=dataclasses.replace(SCHEDULE, **{"epochs": 2, "shift": 1, "flip": True} | schedule),
        noise=dataclasses.replace(NOISE, **noise or {}) if row.source else None,
        adversary=adversary_of("digits", row),
        rbf=PRESETS["default"] if row.rbf else None,
        em=EM if row.rbf and not row.source else None,
        source=model_digest(source) if source else None,
        seed=0,
        precision="float32",
        data_digest=digits()[0].digest,
    )


def quiet(stage: str, done: int, total: int, remark: str) -> None:
    """No progress shown."""


def fit(spec: TrainSpec, workdir: Path, device: torch.device | str = "cpu", progress: Progress = quiet) -> Trained:
    source = source_of(spec.name) if spec.source else None
    return train(spec, *digits(), workdir, source=source, device=torch.device(device), progress=progress)


@cache
def undisturbed(spec: TrainSpec) -> Trained:
    with tempfile.TemporaryDirectory() as folder:
        return fit(spec, Path(folder))


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


def test_a_seed_beyond_what_torch_takes_trains_too(tmp_path: Path) -> None:
    spec = dataclasses.replace(spec_of("cnn", epochs=1), seed=20_000_000_000_000)
    assert not fit(spec, tmp_path).model.training


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
@pytest.mark.parametrize(
    ("stage", "done"),
    [("filters", 40), ("reconstructions", 200), ("epoch 1/3", 5), ("epochs", 1), ("epoch 2/3", 7), ("epochs", 3)],
)
def test_a_killed_training_resumes_to_the_very_same_weights(
    stage: str, done: int, optimizer: Literal["adam", "sgd"], tmp_path: Path
) -> None:
    spec = spec_of(optimizer=optimizer, epochs=3, lr=3e-3 if optimizer == "adam" else 0.05)
    killed_and_resumed(spec, tmp_path, stage, done)


@pytest.mark.parametrize(
    ("recipe", "made_at", "stage", "done"),
    [
        ("rcnn+", None, "reconstructions", 200),
        ("rcnn+", None, "adversarial noise", 200),
        ("rcnn+", None, "adversarial noise", 300),
        ("rcnn+", None, "epoch 2/3", 7),
        ("rcnn+", 1, "epoch 1/3", 3),
        ("rcnn+", 1, "epochs", 1),
        ("rcnn+", 1, "adversarial noise", 200),
        ("rcnn+", 1, "epoch 2/3", 7),
        ("rcnn+", 2, "epochs", 2),
        ("cnn-ls-noise", None, "adversarial noise", 100),
        ("cnn-ls-noise", 1, "adversarial noise", 100),
        ("cnn-ls-noise", 1, "epoch 3/3", 12),
    ],
)
def test_a_killed_training_on_noisy_copies_resumes_to_the_very_same_weights(
    recipe: str, made_at: int | None, stage: str, done: int, tmp_path: Path
) -> None:
    killed_and_resumed(spec_of(recipe, {"made_at": made_at}, epochs=3), tmp_path, stage, done)


def killed_and_resumed(spec: TrainSpec, folder: Path, stage: str, done: int) -> None:
    whole = undisturbed(spec)
    with pytest.raises(Killed):
        fit(spec, folder, progress=killed_after(stage, done))
    torch.manual_seed(77)
    resumed = fit(spec, folder)
    assert_same(whole, resumed, torch.device("cpu"))
    assert [epoch["epoch"] for epoch in resumed.history] == [1, 2, 3]
    assert not list(folder.glob("*.part"))


def test_no_image_is_attacked_again_after_a_kill(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    attacked: list[int] = []
    pgd = copies.pgd

    def counted(oracle: Any, x: Tensor, *rest: Any, **options: Any) -> Tensor:
        attacked.append(len(x))
        return pgd(oracle, x, *rest, **options)

    monkeypatch.setattr(copies, "pgd", counted)
    with pytest.raises(Killed):
        fit(spec_of("rcnn+"), tmp_path, progress=killed_after("adversarial noise", 200))
    assert sum(attacked) == 200
    attacked.clear()
    fit(spec_of("rcnn+"), tmp_path)
    assert sum(attacked) == 100
    attacked.clear()
    (tmp_path / "checkpoint.pt").unlink()
    fit(spec_of("rcnn+"), tmp_path)
    assert not attacked


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
    "schedule": {"schedule": dataclasses.replace(SCHEDULE, epochs=5)},
    "precision": {"precision": "bfloat16"},
    "filters": {"em": dataclasses.replace(EM, wish=11)},
    "preset": {"preset": "paper"},
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


def test_settings_that_came_to_nothing_do_not_block_the_folder(tmp_path: Path) -> None:
    mistaken = spec_of()
    assert mistaken.em
    with pytest.raises(ModelError, match="too many filters"):
        fit(dataclasses.replace(mistaken, em=dataclasses.replace(mistaken.em, most=1)), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["spec.txt"]
    assert_same(undisturbed(mistaken), fit(mistaken, tmp_path), torch.device("cpu"))


@pytest.mark.parametrize(
    "change",
    [
        {"noise": dataclasses.replace(NOISE, adversarial_eps=0.1)},
        {"noise": dataclasses.replace(NOISE, pairing="matched")},
        {"noise": dataclasses.replace(NOISE, gaussian_std=0.1)},
        {"name": "rcnn+", "recipe": RECIPES["rcnn+"], "source": spec_of("rcnn+").source},
    ],
    ids=["radius", "pairing", "gaussian", "source"],
)
def test_noise_of_another_training_is_not_taken_over(change: dict[str, Any], tmp_path: Path) -> None:
    spec = spec_of("cnn-ls-noise")
    with pytest.raises(Killed):
        fit(spec, tmp_path, progress=killed_after("epoch 1/2", 1))
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert "noise.npy" in before
    with pytest.raises(LoadError, match="it holds a training with other settings"):
        fit(dataclasses.replace(spec, **change), tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    assert_same(undisturbed(spec), fit(spec, tmp_path), torch.device("cpu"))


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
    # Not "go on": a folder is of one setting, so a lower rate is another training.
    assert str(caught.value).endswith(f"start anew with a lower lr; {path} holds the last good epoch.")
    state = torch.load(path, weights_only=True)
    assert state["epoch"] == 1
    assert all(tensor.isfinite().all() for tensor in state["model"].values())
    assert_same(whole, fit(spec, tmp_path / "cut"), torch.device("cpu"))


def test_in_the_first_epoch_no_checkpoint_is_promised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    poisoned(monkeypatch, after=2)
    with pytest.raises(ModelError, match=r"stopped in epoch 1: the loss is not finite; start anew with a lower lr\.$"):
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


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_mixed_precision_is_for_the_steps_of_the_net_alone(
    precision: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, device: torch.device
) -> None:
    """Weights, loss, reconstructions and the accuracies in between stay float32; and it resumes all the same."""
    seen: set[tuple[bool, torch.dtype]] = set()

    def watched(n: int) -> nn.Module:
        net = DigitsCNN(n)
        net.features[0].register_forward_hook(lambda module, _, out: seen.add((module.training, out.dtype)))
        return net

    monkeypatch.setitem(CLASSIFIERS, "digits-cnn", watched)
    spec = dataclasses.replace(spec_of("rcnn+"), precision=precision)
    trained = fit(spec, tmp_path / "whole", device)
    assert seen == {(False, torch.float32), (True, getattr(torch, precision))}
    assert {parameter.dtype for parameter in trained.model.parameters()} == {torch.float32}
    assert trained.history[-1]["loss"] < trained.history[0]["loss"]
    with pytest.raises(Killed):
        fit(spec, tmp_path / "killed", device, killed_after("epoch 2/2", 7))
    assert_same(trained, fit(spec, tmp_path / "killed", device), device)


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
    hard = {name: {0.0} for name in ("cnn", "madry", "fast", "trades")}
    assert seen == hard | {name: {0.1} for name in ("cnn-ls", "cnn-ls-noise", "rcnn", "rcnn+")}


def test_every_image_is_used_once_an_epoch_in_an_order_of_its_own() -> None:
    first, second = (
        np.concatenate(list(trainer._batches(103, 20, np.random.default_rng((0, epoch))))) for epoch in (0, 1)
    )
    assert sorted(first) == sorted(second) == list(range(103))
    assert not np.array_equal(first, second)


def test_a_damaged_checkpoint_is_named(tmp_path: Path) -> None:
    fit(spec_of(), tmp_path)
    checkpoint = tmp_path / "checkpoint.pt"
    checkpoint.write_bytes(checkpoint.read_bytes()[:1000])
    with pytest.raises(LoadError, match=r"checkpoint\.pt"):
        fit(spec_of(), tmp_path)


@pytest.mark.parametrize("damage", ["empty", "cut in the header", "cut", "overwritten"])
@pytest.mark.parametrize(
    ("recipe", "name", "made_at"),
    [
        ("rcnn", "filters.npz", None),
        ("rcnn", "train-*.npy", None),
        ("rcnn", "validation-*.npy", None),
        ("cnn-ls-noise", "noise.npy", None),
        ("cnn-ls-noise", "noise.npy", 1),
        ("cnn-ls-noise", "noise.npy.part", None),
    ],
)
def test_a_damaged_file_is_named_and_can_be_made_anew(
    recipe: str, name: str, made_at: int | None, damage: str, tmp_path: Path
) -> None:
    spec = spec_of(recipe, {"made_at": made_at}, epochs=3)
    last = ("adversarial noise", 100) if name.endswith(".part") else ("epochs", 2)
    with pytest.raises(Killed):
        fit(spec, tmp_path, progress=killed_after(*last))
    (file,) = tmp_path.glob(name)
    whole = file.read_bytes()
    rubbish = np.random.default_rng(0).bytes(len(whole))
    file.write_bytes(
        {"empty": b"", "cut in the header": whole[:50], "cut": whole[:-100], "overwritten": rubbish}[damage]
    )
    with pytest.raises(LoadError) as caught:
        fit(spec, tmp_path)
    todo = "remove it to make it anew" if made_at is None else f"remove {tmp_path} to start anew"
    assert str(caught.value) == f"cannot resume from {file}: the file is damaged; {todo}."
    if made_at is None:
        file.unlink()
        assert same(fit(spec, tmp_path).model, undisturbed(spec).model)


# Noisy copies ---------------------------------------------------------------------------------------------------------
def captured(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """What goes into augmentation at each step: clean images, then Gaussian, then adversarial copies (n, H, W, C)."""
    seen: list[Tensor] = []

    def recorded(x: Tensor, *rest: Any) -> Tensor:
        seen.append(x.detach().float().cpu().clone())
        return augment(x, *rest)

    monkeypatch.setattr(trainer, "augment", recorded)
    return seen


@pytest.mark.parametrize("made_at", [None, 1, 2])
def test_copies_are_gaussian_only_until_the_adversarial_noise_is_made(
    made_at: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = captured(monkeypatch)
    fit(spec_of("rcnn+", {"made_at": made_at, "copies": 15}, epochs=3, batch=140), tmp_path)
    clean = [140, 140, 20]  # 300 images; a last step that is small, but larger than the copies
    expected = [n + 15 * (1 + (epoch >= (made_at or 0))) for epoch in range(3) for n in clean]
    assert [len(x) for x in seen] == expected


def test_a_small_last_step_is_copied_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = captured(monkeypatch)
    fit(spec_of("cnn-ls-noise", {"copies": 40}, epochs=1, batch=145), tmp_path)
    assert [len(x) for x in seen] == [145 + 80, 145 + 80, 10 + 20]


def test_copies_that_are_no_noise_count_the_clean_images_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, device: torch.device
) -> None:
    """One step on three times the same images: loss and accuracies are those of the untrained net, in closed form."""
    monkeypatch.setitem(CLASSIFIERS, "digits-cnn", DigitsCNN)  # without dropout
    spec = spec_of(
        "cnn-ls-noise",
        {"copies": 300, "gaussian_std": 0.0, "adversarial_eps": 0.0},
        **{"epochs": 1, "batch": 300, "shift": 0, "flip": False},
    )
    (epoch,) = fit(spec, tmp_path, device).history
    torch.manual_seed(spec.seed)
    x, y = digits()[0].batch(0, 300)
    with torch.no_grad():
        log_p = DigitsCNN().double()(x.double()).log_softmax(1)
    at_true = log_p.gather(1, y[:, None])[:, 0]
    loss = -(0.9 * at_true + (log_p.sum(1) - at_true) * 0.1 / 9).mean()
    # clean images are stored as float16: 2^-12 off, times a slope of the loss of at most some units
    assert epoch["loss"] == pytest.approx(float(loss), abs=2e-3)
    right = float((log_p.argmax(1) == y).double().mean())
    assert epoch["train_accuracy"] == pytest.approx(right, abs=2 / 300)  # an image on the fence may fall either way
    assert epoch["copies_accuracy"] == pytest.approx(right, abs=2 / 300)


@pytest.mark.parametrize("recipe", RECIPES)
def test_history_tells_of_copies_where_there_are_some(recipe: str, tmp_path: Path) -> None:
    remarks: list[str] = []
    trained = fit(
        spec_of(recipe), tmp_path, progress=lambda stage, *rest: stage == "epochs" and remarks.append(rest[2])
    )
    noisy = RECIPES[recipe].source is not None
    fields = {"epoch", "loss", "train_accuracy", "validation_accuracy"} | ({"copies_accuracy"} if noisy else set())
    assert [set(epoch) for epoch in trained.history] == [fields] * 2
    assert ["copies" in remark for remark in remarks] == [noisy] * 2
    if noisy:  # 5 steps of 15 and 15 copies
        assert all(
            (epoch["copies_accuracy"] * 150) == pytest.approx(round(epoch["copies_accuracy"] * 150))
            for epoch in trained.history
        )


@pytest.mark.parametrize("made_at", [None, 1])
def test_copies_meet_the_sharpness_of_training(
    made_at: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, device: torch.device
) -> None:
    """Without Gaussian noise a Gaussian copy is its image, so its reconstruction must be the one that was cached."""
    spec = spec_of("rcnn+", {"made_at": made_at, "gaussian_std": 0.0}, epochs=3)
    spec = dataclasses.replace(spec, rbf=PRESETS["authors"])  # beta1 is 125 in training, 25 later
    seen = captured(monkeypatch)
    trained = fit(spec, tmp_path, device)
    assert len(seen) == 15
    for x in seen:
        clean = 44 if len(x) in (44 + 15, 44 + 30) else 64
        gaps = (x[clean : clean + 15, None] - x[None, :clean]).abs().flatten(2).amax(2).amin(1)
        assert float(gaps.max()) <= 2.0**-12 + 1e-5  # float16 below 1, and float32 sums
    assert isinstance(trained.model, RBFCNN)
    model = trained.model.cpu()
    x, _ = digits()[0].batch(0, 100)
    with torch.no_grad():
        sharp, soft = model.train().front_static(x), model.eval().front_static(x)
    assert float((soft[:, None] - sharp[None]).abs().flatten(2).amax(2).amin(1).max()) > 0.01  # it would have shown


def stored_noise(model: nn.Module, spec: TrainSpec, path: Path) -> np.ndarray:
    """The noise that `model` makes, without any training around it."""
    assert spec.noise
    return copies.adversarial_noise(
        trainer._static(model.eval()),
        digits()[0],
        spec.noise,
        path,
        seed=spec.seed,
        device=torch.device("cpu"),
        progress=lambda done, total: None,
    )


@pytest.mark.parametrize("recipe", ["rcnn+", "cnn-ls-noise"])
def test_the_noise_is_the_source_s_whatever_mode_it_comes_in(recipe: str, tmp_path: Path) -> None:
    spec, source = spec_of(recipe), source_of(recipe)
    assert source
    if isinstance(source, RBFCNN):
        source.config = PRESETS["authors"]  # would show a source left in training mode
    expected = stored_noise(source, spec, tmp_path / "expected.npy")
    train(spec, *digits(), tmp_path / "run", source=source.train(), device=torch.device("cpu"), progress=quiet)
    np.testing.assert_array_equal(np.load(tmp_path / "run" / "noise.npy"), expected)


@pytest.mark.parametrize("recipe", ["rcnn+", "cnn-ls-noise"])
def test_with_made_at_the_model_in_training_makes_the_noise_of_itself(recipe: str, tmp_path: Path) -> None:
    spec = spec_of(recipe, {"made_at": 1})
    with pytest.raises(Killed):
        fit(spec, tmp_path, progress=killed_after("epochs", 1))
    assert not list(tmp_path.glob("noise*"))
    after_one = nn.Sequential(nn.Dropout(0.1), DigitsCNN())
    after_one.load_state_dict(torch.load(tmp_path / "checkpoint.pt", weights_only=True)["model"])
    model: nn.Module = after_one
    source = source_of(recipe)
    if isinstance(source, RBFCNN):
        model = RBFCNN(source.reconstruction, after_one)
    fit(spec, tmp_path)
    # channels_last sums in another order: 1e-6, which may turn a step where a gradient is nearly zero
    ours, theirs = np.load(tmp_path / "noise.npy"), stored_noise(model, spec, tmp_path / "expected.npy")
    assert np.mean(np.abs(ours.astype(float) - theirs) < 1e-3) > 0.99
    assert source
    others = stored_noise(source, spec, tmp_path / "others.npy")
    assert np.mean(np.abs(ours.astype(float) - others) < 1e-3) < 0.9


def test_filters_come_from_the_source(tmp_path: Path, device: torch.device) -> None:
    stages: set[str] = set()
    trained = fit(spec_of("rcnn+"), tmp_path, device, lambda stage, *_: stages.add(stage))
    source = source_of("rcnn+")
    assert isinstance(source, RBFCNN)
    assert isinstance(trained.model, RBFCNN)
    assert torch.equal(trained.model.reconstruction.means.cpu(), source.reconstruction.means)
    assert torch.equal(trained.model.reconstruction.variances.cpu(), source.reconstruction.variances)
    assert "filters" not in stages
    assert not (tmp_path / "filters.npz").exists()
    assert {"reconstructions", "adversarial noise"} <= stages


def test_a_model_in_training_may_stand_in_for_the_source(tmp_path: Path) -> None:
    """With `made_at` the source brings nothing to a recipe without RBF layer."""
    spec = dataclasses.replace(spec_of("cnn-ls-noise", {"made_at": 1}), source=None)
    with_source = undisturbed(spec_of("cnn-ls-noise", {"made_at": 1}))
    assert same(fit(spec, tmp_path).model, with_source.model)


@pytest.mark.parametrize(
    ("recipe", "made_at", "missing"),
    [("cnn-ls-noise", None, "adversarial noise"), ("rcnn+", None, "adversarial noise"), ("rcnn+", 1, "RBF filters")],
)
def test_what_only_a_source_can_bring_is_missed_without_one(
    recipe: str, made_at: int | None, missing: str, tmp_path: Path
) -> None:
    """An untrained model would make noise, too."""
    spec = dataclasses.replace(spec_of(recipe, {"made_at": made_at}), source=None)
    with pytest.raises(ModelError, match=f"no {missing}") as caught:
        fit(spec, tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("recipe", ["cnn-ls", "rcnn", "rcnn+"])
def test_a_training_goes_on_from_the_weights_of_its_start(recipe: str, tmp_path: Path, device: torch.device) -> None:
    """With steps too small to count the weights stay, and the filters are the start's; else they are trained on."""
    start = copy.deepcopy(undisturbed(spec_of("rcnn" if RECIPES[recipe].rbf else "cnn-ls")).model)
    source = start if RECIPES[recipe].source else None
    still = dataclasses.replace(
        spec_of(recipe, epochs=1, lr=1e-12),
        source=model_digest(source) if source else None,
        start=model_digest(start),
        em=None,
    )
    moving = dataclasses.replace(still, schedule=dataclasses.replace(still.schedule, lr=1e-3))
    common: dict[str, Any] = {"source": source, "start": start, "device": device, "progress": quiet}
    kept = train(still, *digits(), tmp_path / "still", **common).model.cpu().state_dict()
    assert set(kept) == set(start.state_dict())
    for name, tensor in start.state_dict().items():
        assert torch.allclose(kept[name], tensor, rtol=0, atol=1e-9)
    moved = train(moving, *digits(), tmp_path / "moving", **common).model.cpu().state_dict()
    assert not all(torch.allclose(moved[name], tensor) for name, tensor in start.state_dict().items())


def test_a_start_that_does_not_belong_is_refused(tmp_path: Path) -> None:
    start = copy.deepcopy(_sources()["rcnn"])
    assert isinstance(start, RBFCNN)
    start.reconstruction.means += 0.1
    known = dataclasses.replace(spec_of("rcnn+"), start=model_digest(start))
    for spec, why in ((known, "not those of the source"), (spec_of("rcnn+"), "not the one that the settings name")):
        with pytest.raises(ModelError, match=why):
            train(
                spec,
                *digits(),
                tmp_path,
                source=source_of("rcnn+"),
                start=start,
                device=torch.device("cpu"),
                progress=quiet,
            )
    assert not list(tmp_path.iterdir())


class Normed(nn.Module):
    """Flat pixels, batch norm, a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(64, momentum=0.3)
        self.dropout = nn.Dropout(0.5)
        self.head = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.dropout(self.norm(x.flatten(1))))


def test_batch_norm_settles_on_what_a_decision_sees(device: torch.device) -> None:
    """Means and variances of noisy reconstructions, against float64 over all of them at once; nothing else changes."""
    images, n = digits()[0], 200
    front = copy.deepcopy(_sources()["rcnn"])
    assert isinstance(front, RBFCNN)
    model = RBFCNN(front.reconstruction, Normed()).to(device)
    model.train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    settle(model, images, n, seed=3, device=device)
    assert isinstance(model.classifier, Normed)
    norm = model.classifier.norm
    keys = Keys.of(images.head(n).ids, 3).fold("settle")
    x, _ = images.batch(0, n)
    seen = model.front(x.to(device), keys).double().flatten(1)
    assert torch.allclose(norm.running_mean.double(), seen.mean(0), atol=1e-6)
    # The mean over batches of 100 of their own unbiased variances.
    variances = torch.stack([part.var(0) for part in seen.split(100)]).mean(0)
    assert torch.allclose(norm.running_var.double(), variances, atol=1e-6)
    assert norm.momentum == 0.3
    assert not any(module.training for module in model.modules())
    changed = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed == {f"classifier.norm.{name}" for name in ("running_mean", "running_var", "num_batches_tracked")}
    again = copy.deepcopy(model)
    settle(again, images, n, seed=3, device=device)
    assert same(again, model)


def test_settling_leaves_a_net_without_batch_norm_and_stops_at_the_last_image() -> None:
    stages: list[tuple[str, int, int, str]] = []
    plain = copy.deepcopy(_sources()["rcnn"])
    before = copy.deepcopy(plain)
    assert isinstance(plain, RBFCNN)
    settle(plain, digits()[0], 100, seed=0, device=torch.device("cpu"), progress=lambda *told: stages.append(told))
    assert same(plain, before)
    assert stages == []
    model = RBFCNN(plain.reconstruction, Normed())
    settle(model, digits()[0], 10_000, seed=0, device=torch.device("cpu"), progress=lambda *told: stages.append(told))
    assert [told[1] for told in stages] == [100, 200, 300]
    settle(model, digits()[0], 101, seed=0, device=torch.device("cpu"))


def test_a_training_settles_only_where_it_is_asked_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    monkeypatch.setattr(trainer, "settle", lambda model, images, n, **_: asked.append(n))
    for recipe, settled in (("rcnn", 0), ("rcnn", 70), ("cnn-ls", 70)):
        fit(spec_of(recipe, epochs=1, settle=settled), tmp_path / f"{recipe}-{settled}")
    assert asked == [70]


def test_a_source_that_is_not_the_one_of_the_settings_is_refused(tmp_path: Path) -> None:
    for spec in (dataclasses.replace(spec_of("cnn-ls-noise"), source="0" * 64), spec_of("rcnn+")):
        with pytest.raises(ModelError, match="the source cannot be used"):
            train(
                spec,
                *digits(),
                tmp_path,
                source=source_of("cnn-ls-noise"),
                device=torch.device("cpu"),
                progress=quiet,
            )
    assert not list(tmp_path.iterdir())


def test_model_digest_follows_every_value_and_name() -> None:
    model = DigitsCNN()
    first = model_digest(model)
    assert first == model_digest(copy.deepcopy(model))
    for name, tensor in model.state_dict().items():
        before = tensor.clone()
        tensor.view(-1)[-1] += 1
        assert model_digest(model) != first, name
        tensor.copy_(before)
    assert model_digest(model) == first
    assert model_digest(nn.ModuleDict({"inner": model})) != first


# The disk -------------------------------------------------------------------------------------------------------------
def full_disk(monkeypatch: pytest.MonkeyPatch, from_write: int) -> None:
    """The disk is full from this checkpoint on, counted from 1; it takes the first bytes still."""
    written = []

    def write(path: Path, data: bytes) -> int:
        written.append(path)
        with path.open("wb") as file:
            if len(written) < from_write:
                return file.write(data)
            file.write(data[:100])
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(Path, "write_bytes", write)


@pytest.mark.parametrize("recipe", ["cnn", "rcnn+"])
def test_on_a_full_disk_the_last_checkpoint_stays_and_resumes(
    recipe: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec, path = spec_of(recipe, epochs=3), tmp_path / "checkpoint.pt"
    with monkeypatch.context() as patch:
        full_disk(patch, from_write=3)
        with pytest.raises(LoadError) as caught:
            fit(spec, tmp_path)
    todo = "the last one stays; make room and add --resume."
    assert str(caught.value) == f"cannot write {path}: No space left on device; {todo}"
    assert torch.load(path, weights_only=True)["epoch"] == 2
    assert not list(tmp_path.glob("*.part"))
    assert_same(undisturbed(spec), fit(spec, tmp_path), torch.device("cpu"))


def test_on_a_full_disk_no_checkpoint_is_promised_where_there_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full_disk(monkeypatch, from_write=1)
    with pytest.raises(LoadError, match=r"checkpoint\.pt: No space left on device; make room and add --resume\.$"):
        fit(spec_of("cnn"), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["spec.txt"]


@pytest.mark.parametrize(
    ("writer", "call", "name"),
    [
        ("savez", 1, "filters.npz"),
        ("save", 1, "train-"),
        ("save", 2, "validation-"),
        ("save", 3, "noise.npy.part"),
    ],
)
def test_every_large_file_is_whole_or_not_there(
    writer: str, call: int, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = "rcnn" if writer == "savez" else "rcnn+"
    calls, whole = [], getattr(np, writer)

    def write(file: Any, *arrays: Any, **named: Any) -> None:
        calls.append(file)
        if len(calls) == call:
            file.write(b"begun")
            raise OSError(errno.ENOSPC, "No space left on device")
        whole(file, *arrays, **named)

    with monkeypatch.context() as patch:
        patch.setattr(np, writer, write)
        with pytest.raises(LoadError, match=rf"cannot write \S*{name}\S*: No space left on device; make room"):
            fit(spec_of(recipe), tmp_path)
    assert not [path for path in tmp_path.iterdir() if name in path.name]
    assert_same(undisturbed(spec_of(recipe)), fit(spec_of(recipe), tmp_path), torch.device("cpu"))


def test_a_file_that_was_written_in_part_is_told_as_such(tmp_path: Path) -> None:
    """As numpy does, whose error has neither number nor words of the system."""

    def cut() -> None:
        with replacing(tmp_path / "noise.npy") as part:
            part.write_bytes(b"begun")
            raise OSError("64000 requested and 30656 written")

    with pytest.raises(LoadError, match=r"only a part of it was written \(64000 requested and 30656 written\); make"):
        cut()
    assert not list(tmp_path.iterdir())


def test_a_classifier_for_other_images_is_named_in_one_line(tmp_path: Path, device: torch.device) -> None:
    with pytest.raises(ModelError, match="vgg16") as caught:
        fit(spec_of("cnn", classifier="vgg16"), tmp_path, device)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.glob("*.npy"))  # before anything long is computed
