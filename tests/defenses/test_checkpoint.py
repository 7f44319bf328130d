"""Weights files: what is saved comes back, and every file that is not one of ours is refused in one line."""

from __future__ import annotations

import dataclasses
import errno
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from rbfbench.defenses.checkpoint import METADATA_KEY, Blueprint, build, load, save
from rbfbench.defenses.classifiers import CLASSIFIERS
from rbfbench.defenses.rbf import PRESETS, RBFConfig
from rbfbench.defenses.rbfcnn import RBFCNN
from rbfbench.errors import LoadError

SHAPES = {"mnist-cnn": (1, 28, 28), "small": (3, 32, 32), "vgg16": (3, 32, 32), "digits-cnn": (1, 8, 8)}
BatchNorm = nn.BatchNorm1d | nn.BatchNorm2d


def blueprint(classifier: str = "digits-cnn", rbf: RBFConfig | None = None, n_classes: int = 10) -> Blueprint:
    return Blueprint(classifier=classifier, dataset="digits", n_classes=n_classes, rbf=rbf, recipe={"seed": 3})


def model_of(plan: Blueprint) -> nn.Module:
    """A model whose every tensor is random and needs more than half precision, batch-norm statistics among them."""
    torch.manual_seed(0)
    channels = SHAPES[plan.classifier][0]
    model = build(plan, (torch.rand(6, channels, 3, 3), torch.rand(6) * 1e-9) if plan.rbf else None)
    for module in model.modules():
        if isinstance(module, BatchNorm) and module.running_mean is not None and module.running_var is not None:
            module.running_mean.normal_(0, 1e-6)  # half precision would make these 0 or coarse
            module.running_var.uniform_(1e-8, 1e-6)
            nn.init.uniform_(module.weight, 0.5, 1.5)
    return model.eval()


def full_precision(name: str, model: nn.Module) -> bool:
    owner = model.get_submodule(name.rpartition(".")[0])
    return isinstance(owner, BatchNorm) or name.startswith("reconstruction.")


@pytest.mark.parametrize("rbf", [None, *PRESETS])
@pytest.mark.parametrize("classifier", CLASSIFIERS)
def test_what_is_saved_comes_back(classifier: str, rbf: str | None, tmp_path: Path) -> None:
    plan = blueprint(classifier, PRESETS[rbf] if rbf else None, n_classes=2)
    model = model_of(plan)
    save(model, plan, tmp_path / "model.safetensors")
    loaded, found = load(tmp_path / "model.safetensors")
    assert found == plan
    assert not loaded.training
    assert isinstance(loaded, RBFCNN) == (rbf is not None)
    convolutions = [module.weight for module in loaded.modules() if isinstance(module, nn.Conv2d)]
    assert convolutions
    assert all(weight.is_contiguous(memory_format=torch.channels_last) for weight in convolutions)
    before, after = model.state_dict(), loaded.state_dict()
    assert list(before) == list(after)
    for name, tensor in before.items():
        exact = full_precision(name, model) or not tensor.is_floating_point()
        assert torch.equal(after[name], tensor if exact else tensor.half().float()), name
        assert after[name].dtype == tensor.dtype
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]


def test_classifier_weights_take_two_bytes_and_filters_four(tmp_path: Path) -> None:
    plan = blueprint("small", PRESETS["default"])
    save(model_of(plan), plan, tmp_path / "model.safetensors")
    types = {name: t.dtype for name, t in safetensors.torch.load_file(tmp_path / "model.safetensors").items()}
    assert types["classifier.head.weight"] == types["classifier.stem.0.weight"] == torch.float16
    assert types["reconstruction.means"] == types["reconstruction.variances"] == torch.float32
    assert types["classifier.stem.1.running_var"] == types["classifier.stem.1.weight"] == torch.float32
    assert types["classifier.stem.1.num_batches_tracked"] == torch.int64


def test_a_loaded_model_answers_as_the_saved_one_does(tmp_path: Path, device: torch.device) -> None:
    plan = blueprint(rbf=dataclasses.replace(PRESETS["authors"], m=3))
    model = model_of(plan).to(device).to(memory_format=torch.channels_last)
    save(model, plan, tmp_path / "model.safetensors")
    loaded = load(tmp_path / "model.safetensors")[0].to(device)
    x = torch.rand(5, 1, 8, 8, device=device)
    with torch.no_grad():
        gap = (loaded(x) - model(x)).abs().max()
        # Half precision keeps 11 bits: relative error 2^-11 a weight, so about 1e-3 of logits of size about 1.
        assert float(gap) < 5e-3
        assert torch.equal(loaded.front_static(x), model.front_static(x))  # type: ignore[operator]


def test_saving_again_replaces_the_file(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    for n_classes in (2, 7):
        save(model_of(blueprint(n_classes=n_classes)), blueprint(n_classes=n_classes), path)
        assert load(path)[1].n_classes == n_classes


def test_on_a_full_disk_the_old_file_stays_and_the_error_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "model.safetensors"
    save(model_of(blueprint(n_classes=2)), blueprint(n_classes=2), path)

    def write(part: Path, data: bytes) -> int:
        with part.open("wb") as file:
            file.write(data[:100])
        raise OSError(errno.ENOSPC, "No space left on device")  # as from a write: without a file name

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", write)
        with pytest.raises(LoadError, match=rf"^cannot write {path}: No space left on device; make room"):
            save(model_of(blueprint(n_classes=7)), blueprint(n_classes=7), path)
    assert load(path)[1].n_classes == 2
    assert [file.name for file in tmp_path.iterdir()] == ["model.safetensors"]


def written(path: Path, state: dict[str, Tensor], fields: Any) -> Path:
    """A safetensors file with this metadata, given as an object or as text; None for no metadata."""
    text = fields if isinstance(fields, str) else json.dumps(fields)
    safetensors.torch.save_file(state, path, None if fields is None else {METADATA_KEY: text})
    return path


def parts(rbf: RBFConfig | None = None) -> tuple[dict[str, Tensor], dict[str, Any]]:
    plan = blueprint(rbf=rbf)
    return model_of(plan).state_dict(), dataclasses.asdict(plan)


def with_fields(**changes: Any) -> Callable[[Path], Path]:
    def make(path: Path) -> Path:
        state, fields = parts(PRESETS["default"])
        return written(path, state, fields | changes)

    return make


def with_rbf(**changes: Any) -> Callable[[Path], Path]:
    return with_fields(rbf=dataclasses.asdict(PRESETS["default"]) | changes)


def with_filters(means: Tensor) -> Callable[[Path], Path]:
    def make(path: Path) -> Path:
        state, fields = parts(PRESETS["default"])
        return written(path, state | {"reconstruction.means": means}, fields)

    return make


def without(name: str) -> Callable[[Path], Path]:
    def make(path: Path) -> Path:
        state, fields = parts(PRESETS["default"])
        return written(path, {key: t for key, t in state.items() if key != name}, fields)

    return make


def text(metadata: str) -> Callable[[Path], Path]:
    return lambda path: written(path, parts()[0], metadata)


def cut(size: int) -> Callable[[Path], Path]:
    """A whole file cut after `size` bytes, or before the last -size."""

    def make(path: Path) -> Path:
        save(model_of(blueprint()), blueprint(), path)
        path.write_bytes(path.read_bytes()[:size])
        return path

    return make


def raw(content: bytes) -> Callable[[Path], Path]:
    def make(path: Path) -> Path:
        path.write_bytes(content)
        return path

    return make


def folder(path: Path) -> Path:
    path.mkdir()
    return path


WHOLE, MODEL = "not a whole safetensors file", "its tensors are not those of its model"
BAD: dict[str, tuple[Callable[[Path], Path], str]] = {
    "missing": (lambda path: path, "there is no such file"),
    "folder": (folder, "there is no such file"),
    "empty": (raw(b""), WHOLE),
    "text": (raw(b"these are not weights"), WHOLE),
    "cut in the header": (cut(40), WHOLE),
    "cut in the tensors": (cut(-8), WHOLE),
    "without metadata": (lambda path: written(path, parts()[0], None), "which model it fills"),
    "other architecture": (with_fields(classifier="mnist-cnn"), MODEL),
    "other number of classes": (with_fields(n_classes=11), MODEL),
    "unknown architecture": (with_fields(classifier="vgg"), MODEL),
    "front said to be absent": (with_fields(rbf=None), MODEL),
    "front without filters": (without("reconstruction.means"), MODEL),
    "tensor missing": (without("classifier.head.1.bias"), "classifier.head.1.bias"),
    "field unknown": (with_fields(colour="red"), MODEL),
    "classes not a number": (with_fields(n_classes="ten"), MODEL),
    "constant unknown": (with_rbf(beta3=1.0), "beta3"),
    "constant not a number": (with_rbf(beta1="25"), MODEL),
    "constant out of range": (with_rbf(m=0), "m = 0"),
    "filters not finite": (with_filters(torch.full((6, 1, 3, 3), torch.nan)), "not finite"),
    "filters of another shape": (with_filters(torch.rand(6, 9)), "(6, 9)"),
    "metadata not JSON": (text("{"), MODEL),
    "metadata a list": (text("[]"), MODEL),
    "metadata null": (text("null"), MODEL),
    "metadata empty": (text("{}"), MODEL),
}


@pytest.mark.parametrize("name", BAD)
def test_a_file_that_is_not_ours_is_refused_in_one_line(name: str, tmp_path: Path) -> None:
    make, words = BAD[name]
    path = make(tmp_path / "model.safetensors")
    with pytest.raises(LoadError) as caught:
        load(path)
    message = str(caught.value)
    assert message.startswith(f"cannot load {path}: ")
    assert words in message
    assert "\n" not in message
    assert len(message) - len(str(path)) < 400
    assert caught.value.exit_code == 3


class Trap:
    """Unpickling this makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[[Path], None], tuple[Path]]:
        return Path.touch, (self.path,)


def test_nothing_in_a_file_is_executed(tmp_path: Path) -> None:
    sprung = tmp_path / "sprung"
    poison = pickle.dumps(Trap(sprung))
    pickle.loads(poison)
    assert sprung.exists()  # the trap works
    sprung.unlink()
    path = tmp_path / "model.safetensors"
    torch.save({"weights": Trap(sprung)}, path)
    with pytest.raises(LoadError, match=WHOLE):
        load(path)
    path.write_bytes(poison)
    with pytest.raises(LoadError, match=WHOLE):
        load(path)
    written(path, parts()[0], poison.decode("latin1"))
    with pytest.raises(LoadError, match=MODEL):
        load(path)
    assert not sprung.exists()
