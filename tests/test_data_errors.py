"""Bad data: the right error, one clear line, and never a line of foreign code run."""

from __future__ import annotations

import io
import os
import pickle
import urllib.error
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from rbfbench.data import load_data, load_training
from rbfbench.data.npz import read_pair
from rbfbench.errors import DataError, RbfbenchError, UsageError

X = np.random.default_rng(0).integers(0, 256, (6, 8, 8, 3), dtype=np.uint8)
Y = np.arange(6) % 3
F = (X / 255).astype(np.float32)


def with_value(value: float) -> NDArray[np.float32]:
    """Good float images but for one pixel."""
    x = F.copy()
    x[4, 2, 2, 1] = value
    return x


def assert_one_line(error: RbfbenchError, *words: str) -> None:
    text = str(error)
    assert text.isprintable()
    assert len(text) < 400
    for word in words:
        assert word in text


BAD_ARRAYS: dict[str, tuple[NDArray[Any], NDArray[Any], str]] = {
    "negative label": (X, Y - 1, "labels range from -1 to 1"),
    "absurd label": (X, Y * 10**9, "labels range from 0 to 2000000000"),
    "float labels": (X, Y.astype(float), "labels are float64, not integers"),
    "text labels": (X, np.array(list("abcabc")), "not integers"),
    "one-hot labels": (X, np.eye(3, dtype=int)[Y], "labels have shape (6, 3)"),
    "fewer labels": (X, Y[:5], "6 images but 5 labels"),
    "no labels": (X, Y[:0], "6 images but 0 labels"),
    "no images": (X[:0], Y[:0], "no images"),
    "images of no size": (X[:, :0], Y, "no images"),
    "0-255 floats": (X.astype(np.float32), Y, "divide them by 255"),
    "a little too bright": (with_value(1.5), Y, "from 0 to 1.5, not within [0,1]; scale them to [0,1], or clip them"),
    "a little too dark": (with_value(-0.5), Y, "scale them to [0,1]"),
    "NaN": (with_value(np.nan), Y, "NaN"),
    "infinite": (with_value(np.inf), Y, "to inf"),
    "integer pixels": (X.astype(np.int64), Y, "pixels are int64"),
    "black and white as bytes": ((X > 127).astype(np.uint8), Y, "pixels are uint8, of 255 levels, and none is above 1"),
    "complex pixels": (F.astype(complex), Y, "pixels are complex128"),
    "flat images": (X.reshape(6, -1), Y, "shape (6, 192)"),
    "videos": (X[:, None], Y, "shape (6, 1, 8, 8, 3)"),
    "a number": (np.float32(0.5) + np.zeros(()), Y, "shape ()"),
    "four channels": (np.zeros((6, 8, 8, 4), np.uint8), Y, "no axis of 1 or 3 channels"),
    "ambiguous layout": (np.zeros((6, 3, 8, 3), np.uint8), Y, "could be (N,H,W,C) or (N,C,H,W)"),
}


@pytest.mark.parametrize("case", BAD_ARRAYS)
def test_bad_arrays(tmp_path: Path, case: str) -> None:
    x, y, words = BAD_ARRAYS[case]
    np.savez(tmp_path / "bad.npz", x_test=x, y_test=y)
    with pytest.raises(DataError) as caught:
        load_data(f"npz:{tmp_path / 'bad.npz'}")
    assert_one_line(caught.value, "bad.npz", words)
    assert caught.value.exit_code == 3


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        load_data(f"npz:{tmp_path / 'none.npz'}")
    assert_one_line(caught.value, "none.npz", "no such file")
    with pytest.raises(DataError) as caught:
        load_data(f"npz:{tmp_path}")
    assert_one_line(caught.value, str(tmp_path), "it is no file")


def test_other_keys(tmp_path: Path) -> None:
    np.savez(tmp_path / "keys.npz", images=X, labels=Y)
    with pytest.raises(DataError) as caught:
        load_data(f"npz:{tmp_path / 'keys.npz'}")
    assert_one_line(caught.value, "'images', 'labels'", "x_test and y_test or x and y")


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 0.999])
def test_truncated_file(tmp_path: Path, share: float) -> None:
    np.savez_compressed(tmp_path / "cut.npz", x=X, y=Y)
    whole = (tmp_path / "cut.npz").read_bytes()
    (tmp_path / "cut.npz").write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(DataError) as caught:
        load_data(f"npz:{tmp_path / 'cut.npz'}")
    assert_one_line(caught.value, "not a complete npz file")


def test_single_array_file(tmp_path: Path) -> None:
    np.save(tmp_path / "single.npy", X)
    with pytest.raises(DataError, match="not a complete npz file"):
        load_data(f"npz:{tmp_path / 'single.npy'}")


def test_member_that_is_no_array(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "odd.npz", "w") as file:
        file.writestr("x.npy", b"hello")
        file.writestr("y.npy", b"world")
    with pytest.raises(DataError) as caught:
        load_data(f"npz:{tmp_path / 'odd.npz'}")
    assert_one_line(caught.value, "something else than arrays")


class Bomb:
    """Creates a folder when unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.target),)


def test_pickles_are_refused_and_nothing_runs(tmp_path: Path) -> None:
    proof = tmp_path / "it ran"
    objects = np.empty(6, dtype=object)
    objects[:] = [Bomb(proof)] * 6
    np.savez(tmp_path / "object.npz", x=X, y=objects)
    (tmp_path / "plain.npz").write_bytes(pickle.dumps(Bomb(proof)))
    with zipfile.ZipFile(tmp_path / "member.npz", "w") as file:
        for key in "xy":
            file.writestr(f"{key}.npy", pickle.dumps(Bomb(proof)))
    for name in ("object", "plain", "member"):
        with pytest.raises(DataError) as caught:
            load_data(f"npz:{tmp_path / name}.npz")
        assert_one_line(caught.value, f"{name}.npz")
    assert not proof.exists()
    # the bomb is live: the same file does run code where pickles are allowed
    with np.load(tmp_path / "object.npz", allow_pickle=True) as file:
        assert len(file["y"]) == 6
    assert proof.exists()


@settings(deadline=None, max_examples=150)
@given(st.data(), st.booleans())
def test_damaged_file_is_an_error_or_harmless(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, compressed: bool
) -> None:
    stream = io.BytesIO()
    (np.savez_compressed if compressed else np.savez)(stream, x=X[:2, :4, :4], y=Y[:2])
    content = bytearray(stream.getvalue())
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / "damaged.npz"
    path.write_bytes(content)
    try:
        x, y = read_pair(path, ("x", "y"))
    except DataError as error:
        assert_one_line(error)
    else:  # the damage hit bytes that carry nothing
        assert np.array_equal(x, X[:2, :4, :4])
        assert np.array_equal(y, Y[:2])


@pytest.mark.parametrize("name", ["cifar", "CIFAR10", "npz", "npz:", "folder:", "zip:file", ""])
def test_unknown_names(name: str) -> None:
    with pytest.raises(UsageError) as caught:
        load_data(name)
    assert_one_line(caught.value, repr(name))
    assert caught.value.exit_code == 2


def test_nearest_name_is_suggested() -> None:
    with pytest.raises(UsageError, match="did you mean 'cifar10'"):
        load_data("cifar")


def test_no_training_part(tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        load_training(f"folder:{tmp_path}")
    for root in (None, tmp_path):
        with pytest.raises(DataError, match="--download"):
            load_training("cifar10", data_root=root)


def test_wrong_images_under_a_known_name(tmp_path: Path) -> None:
    np.savez(tmp_path / "cifar10.npz", x_train=X, y_train=Y, x_test=X, y_test=Y)
    for load in (load_data, load_training):
        with pytest.raises(DataError, match="shape"):
            load("cifar10", data_root=tmp_path)
    x = np.zeros((6, 32, 32, 3), np.uint8)
    np.savez(tmp_path / "cifar10.npz", x_train=x, y_train=Y, x_test=x, y_test=Y + 8)
    with pytest.raises(DataError, match="labels range from 8 to 10"):
        load_data("cifar10", data_root=tmp_path)
    with pytest.raises(DataError, match="its 6 training images"):
        load_training("cifar10", data_root=tmp_path)


def test_corrupt_torchvision_files(tmp_path: Path) -> None:
    proof = tmp_path / "it ran"
    (tmp_path / "MNIST" / "raw").mkdir(parents=True)
    (tmp_path / "MNIST" / "raw" / "t10k-images-idx3-ubyte").write_bytes(b"\0\0\x08\x03short")
    (tmp_path / "cifar-10-batches-py").mkdir()
    for batch in ("test_batch", "batches.meta", *(f"data_batch_{i}" for i in range(1, 6))):
        (tmp_path / "cifar-10-batches-py" / batch).write_bytes(pickle.dumps(Bomb(proof)))
    for name in ("mnist", "cifar10"):
        with pytest.raises(DataError) as caught:
            load_data(name, data_root=tmp_path)
        assert_one_line(caught.value, name, "incomplete or corrupt")
    assert not proof.exists()


@pytest.mark.parametrize("name", ["mnist", "cifar10"])
def test_failed_download(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    def offline(*_: object, **__: object) -> None:
        raise urllib.error.URLError("no network")

    monkeypatch.setattr("urllib.request.urlopen", offline)
    with pytest.raises(DataError) as caught:
        load_data(name, data_root=tmp_path, download=True)
    assert_one_line(caught.value, f"cannot download {name}")
    assert len(load_data(name, data_root=tmp_path)) == 1000  # what the attempt left behind does no harm


def folder(root: Path, *images: tuple[str, Image.Image]) -> str:
    for place, image in images:
        (root / place).parent.mkdir(parents=True, exist_ok=True)
        image.save(root / place)
    return f"folder:{root}"


def test_folder_errors(tmp_path: Path) -> None:
    good = Image.new("RGB", (8, 6), "red")
    (tmp_path / "empty").mkdir()
    (tmp_path / "hollow" / "cat").mkdir(parents=True)
    cases = {
        f"folder:{tmp_path / 'none'}": "no such folder",
        f"folder:{tmp_path / 'empty'}": "no class folders",
        f"folder:{tmp_path / 'hollow'}": "cat has no images",
        folder(tmp_path / "flat", ("a.png", good)): "no class folders",
        folder(tmp_path / "mixed", ("cat/a.png", good), ("dog/b.png", good.resize((9, 6)))): "dog/b.png is 9x6",
        folder(tmp_path / "deep", ("cat/a.png", Image.new("I;16", (8, 6)))): "I;16",
    }
    for name, words in cases.items():
        with pytest.raises(DataError) as caught:
            load_data(name)
        assert_one_line(caught.value, words)


@pytest.mark.parametrize("keep", [0, 20, 60])
def test_truncated_image(tmp_path: Path, keep: int) -> None:
    name = folder(tmp_path, ("cat/a.png", Image.effect_noise((32, 32), 50)))
    content = (tmp_path / "cat" / "a.png").read_bytes()
    (tmp_path / "cat" / "a.png").write_bytes(content[:keep])
    with pytest.raises(DataError) as caught:
        load_data(name)
    assert_one_line(caught.value, "a.png", "replace or remove")
