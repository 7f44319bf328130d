"""The data contract: one image has one id and one tensor, whatever container it came from."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from subprocess import run
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from PIL import Image

from rbfbench.cli.data import data as data_command
from rbfbench.data import DATASETS, DEFAULT_ROOT, Images, load_data, load_training
from rbfbench.data.checks import checked
from rbfbench.data.loading import SPLITS

Pixels = NDArray[np.uint8]

FULL_ROOT = Path(os.environ.get("RBFBENCH_DATA_ROOT", DEFAULT_ROOT)).expanduser()


def picture(n: int = 12, height: int = 5, width: int = 7, channels: int = 3) -> tuple[Pixels, NDArray[np.int64]]:
    """Random images with labels in turn, the order in which a folder lists them."""
    pixels = np.random.default_rng(0).integers(0, 256, (n, height, width, channels), dtype=np.uint8)
    return pixels, np.arange(n) % (n // 4)


def from_npz(tmp_path: Path, x: NDArray[Any], y: NDArray[Any], keys: tuple[str, str] = ("x_test", "y_test")) -> Images:
    path = tmp_path / "set.npz"
    np.savez(path, **{keys[0]: x, keys[1]: y})  # type: ignore[arg-type]
    return load_data(f"npz:{path}")


def from_folder(tmp_path: Path, x: Pixels, y: NDArray[np.int64], suffix: str = "png") -> Images:
    for index, (image, label) in enumerate(zip(x, y, strict=True)):
        (tmp_path / f"class{label}").mkdir(exist_ok=True)
        squeezed = image[..., 0] if image.shape[-1] == 1 else image
        Image.fromarray(squeezed).save(tmp_path / f"class{label}" / f"{index:03}.{suffix}")
    return load_data(f"folder:{tmp_path}")


CONTAINERS: dict[str, Callable[[Path, Pixels, NDArray[np.int64]], Images]] = {
    "npz uint8 NHWC": from_npz,
    "npz uint8 NCHW": lambda path, x, y: from_npz(path, x.transpose(0, 3, 1, 2), y),
    "npz float32 NHWC": lambda path, x, y: from_npz(path, x.astype(np.float32) / np.float32(255), y),
    "npz float64 NCHW": lambda path, x, y: from_npz(path, x.transpose(0, 3, 1, 2) / 255, y),
    "npz big-endian": lambda path, x, y: from_npz(path, (x / 255).astype(">f8"), y.astype(">i2")),
    "npz x, y and (N,1) labels": lambda path, x, y: from_npz(path, x, y[:, None].astype(np.uint8), ("x", "y")),
    "folder png": from_folder,
    "folder bmp": lambda path, x, y: from_folder(path, x, y, "bmp"),
}


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("container", CONTAINERS)
def test_same_image_same_id_in_every_container(tmp_path: Path, container: str, channels: int) -> None:
    x, y = picture(channels=channels)
    reference = checked("reference", "reference", x, y)
    images = CONTAINERS[container](tmp_path, x, y)
    assert images.ids == reference.ids
    assert images.digest == reference.digest
    assert torch.equal(images.batch(0, 12)[0], reference.batch(0, 12)[0])
    assert images.labels.tolist() == y.tolist()
    assert images.n_classes == 3


def test_grey_images_need_no_channel_axis(tmp_path: Path) -> None:
    x, y = picture(channels=1)
    assert from_npz(tmp_path, x[..., 0], y).digest == checked("reference", "reference", x, y).digest


def test_embedded_images_keep_their_ids_in_other_containers(tmp_path: Path) -> None:
    embedded = load_data("cifar10").head(20)
    assert from_npz(tmp_path, embedded.floats(0, 20), embedded.labels).ids == embedded.ids


def test_negative_zero_is_zero() -> None:
    zeros = np.zeros((1, 4, 4, 1), np.float32)
    y = np.zeros(1, int)
    assert checked("a", "a", zeros, y).ids == checked("b", "b", -zeros, y).ids


def test_x_test_is_preferred_to_x(tmp_path: Path) -> None:
    x, y = picture()
    np.savez(tmp_path / "both.npz", x=x, y=y, x_test=x[:2], y_test=y[:2])
    assert len(load_data(f"npz:{tmp_path / 'both.npz'}")) == 2


def test_id_is_index_and_hash() -> None:
    ids = load_data("mnist").head(3).ids
    assert [re.fullmatch(r"(\d+):[0-9a-f]{12}", each)[1] for each in ids] == ["0", "1", "2"]  # type: ignore[index]


@pytest.mark.parametrize("name", DATASETS)
def test_embedded_set_is_what_the_table_says(name: str) -> None:
    info, images = DATASETS[name], load_data(name)
    assert (len(images), images.shape, images.classes) == (info.embedded, info.shape, info.classes)
    assert images.source == info.embedded_source
    assert images.digest == info.digest
    assert len(set(images.ids)) == len(images)
    assert np.bincount(images.labels, minlength=10).min() > 50


@pytest.mark.parametrize("name", DATASETS)
def test_batch_contract(name: str) -> None:
    images = load_data(name)
    x, y = images.batch(3, 8)
    assert x.shape == (5, *images.shape)
    assert x.dtype == torch.float32
    assert 0 <= x.min() < x.max() <= 1
    assert y.dtype == torch.int64
    assert y.tolist() == images.labels[3:8].tolist()
    assert len(images.batch(len(images) - 1, len(images) + 10)[1]) == 1


def test_batch_shares_no_memory_with_the_data() -> None:
    images = checked("grey", "grey", np.full((2, 4, 4, 1), 0.5, np.float32), np.zeros(2, int))
    before = images.digest
    x, y = images.batch(0, 2)
    x.zero_()
    y.fill_(7)
    assert checked("grey", "grey", images.pixels, images.labels).digest == before


def test_head_is_a_prefix() -> None:
    images = load_data("digits")
    head = images.head(10)
    assert head.ids == images.ids[:10]
    assert head.digest != images.digest
    assert head.source == images.source
    assert len(images.head(10_000)) == len(images)


def test_digest_depends_on_labels_and_order() -> None:
    x, y = picture()
    digests = {
        checked("a", "a", x, y).digest,
        checked("a", "a", x, (y + 1) % 3).digest,
        checked("a", "a", x[::-1], y[::-1]).digest,
    }
    assert len(digests) == 3


@settings(deadline=None, max_examples=50)
@given(
    hnp.arrays(np.uint8, st.tuples(st.integers(1, 4), st.integers(4, 6), st.integers(4, 6), st.sampled_from([1, 3]))),
    st.data(),
)
def test_any_pixels_convert_exactly(x: Pixels, data: st.DataObject) -> None:
    assume(x.max() != 1)  # black and white as bytes is refused
    y = data.draw(hnp.arrays(np.int32, len(x), elements=st.integers(0, 9)))
    whole = checked("x", "x", x, y)
    assert np.array_equal(np.rint(whole.floats(0, 4) * 255).astype(np.uint8), x.transpose(0, 3, 1, 2))
    assert checked("x", "x", (x / 255).transpose(0, 3, 1, 2), y).digest == whole.digest
    start = data.draw(st.integers(0, len(x)))
    assert whole.ids == whole.part(0, start).ids + whole.part(start, len(x)).ids


def test_the_first_images_of_a_folder_are_of_all_its_classes(tmp_path: Path) -> None:
    for name, count in (("a", 3), ("b", 1), ("c", 2)):
        (tmp_path / name).mkdir()
        for i in range(count):
            Image.new("L", (8, 8), 10 * i).save(tmp_path / name / f"{i}.png")
    images = load_data(f"folder:{tmp_path}")
    assert images.labels.tolist() == [0, 1, 2, 0, 2, 0]
    assert images.pixels[:, 0, 0, 0].tolist() == [0, 0, 0, 10, 10, 20]


def test_folder_mixes_grey_and_colour_as_colour(tmp_path: Path) -> None:
    x, y = picture(n=4)
    from_folder(tmp_path, x, y)
    Image.new("L", (7, 5), 128).save(tmp_path / "class0" / "zzz.png")
    images = load_data(f"folder:{tmp_path}")
    assert images.shape == (3, 5, 7)
    assert np.array_equal(images.pixels[4], np.full((5, 7, 3), 128))


def test_folder_ignores_what_is_no_image(tmp_path: Path) -> None:
    x, y = picture(n=4)
    (tmp_path / ".hidden").mkdir()
    (tmp_path / "readme.txt").write_text("not an image")
    from_folder(tmp_path, x, y)
    (tmp_path / "class0" / "notes.txt").write_text("not an image")
    assert len(load_data(f"folder:{tmp_path}")) == 4


def test_splits_share_no_image() -> None:
    for name, (train, validation) in SPLITS.items():
        everything = range(DATASETS[name].training)
        assert set(train).isdisjoint(validation)
        assert set(train) | set(validation) == set(everything) - (set(range(1000)) if name == "mnist" else set())
    train_images, validation_images = load_training("digits")
    parts = [train_images, validation_images, load_data("digits")]
    assert [len(part) for part in parts] == [1000, 200, 597]
    assert sorted(index for part in parts for index in part.indices) == list(range(1797))


@pytest.fixture(scope="module")
def fake_mnist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data root whose mnist.npz has each image's index written into its first two pixels."""
    root = tmp_path_factory.mktemp("root")
    x = np.zeros((60_000, 28, 28), np.uint8)
    x[:, 0, 0], x[:, 0, 1] = np.divmod(np.arange(60_000), 256)
    y = np.arange(60_000) % 10
    np.savez(root / "mnist.npz", x_train=x, y_train=y, x_test=x[:30], y_test=y[:30])
    return root


def test_training_parts_come_from_the_stated_positions(fake_mnist: Path) -> None:
    train, validation = load_training("mnist", data_root=fake_mnist)
    for images, first, last in ((train, 1000, 57_999), (validation, 58_000, 59_999)):
        written = images.pixels[:, 0, :2, 0].astype(int) @ [256, 1]
        assert written.tolist() == images.indices.tolist() == list(range(first, last + 1))
        assert images.source == f"mnist.npz: training images {first}-{last}"


def test_full_set_under_the_root_is_preferred(fake_mnist: Path, tmp_path: Path) -> None:
    assert load_data("mnist", data_root=fake_mnist).source == "mnist.npz: test images 0-29"
    assert load_data("mnist", data_root=fake_mnist, download=True).source == "mnist.npz: test images 0-29"
    assert load_data("mnist", data_root=tmp_path).source == DATASETS["mnist"].embedded_source


def test_torchvision_layout(tmp_path: Path) -> None:
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    x = np.random.default_rng(1).integers(0, 256, (3, 28, 28), dtype=np.uint8)
    y = np.array([7, 2, 1], np.uint8)
    for split in ("train", "t10k"):
        header = bytes([0, 0, 8, 3]) + np.array(x.shape, ">i4").tobytes()
        (raw / f"{split}-images-idx3-ubyte").write_bytes(header + x.tobytes())
        (raw / f"{split}-labels-idx1-ubyte").write_bytes(bytes([0, 0, 8, 1, 0, 0, 0, 3]) + y.tobytes())
    images = load_data("mnist", data_root=tmp_path)
    assert images.source == "torchvision files: test images 0-2"
    assert images.digest == checked("mnist", "", x, y).digest


@pytest.mark.parametrize("name", ["cifar10", "mnist"])
def test_embedded_images_are_those_of_the_original_file(name: str) -> None:
    """Byte for byte and in order: CIFAR-10's test file, MNIST's training file."""
    from rbfbench.data.loading import _full

    original = _full(DATASETS[name], FULL_ROOT, train=name == "mnist", download=False)
    if original is None:
        pytest.skip(f"the full {name} is not under {FULL_ROOT}")
    assert original.head(1000).digest == DATASETS[name].digest


@pytest.mark.parametrize(("name", "n"), [("cifar10", 48_000), ("mnist", 57_000)])
def test_full_sets_load(name: str, n: int) -> None:
    test = load_data(name, data_root=FULL_ROOT)
    if len(test) == 1000:
        pytest.skip(f"the full {name} is not under {FULL_ROOT}")
    train, validation = load_training(name, data_root=FULL_ROOT)
    assert (len(test), len(train), len(validation)) == (10_000, n, 2000)
    assert train.classes == DATASETS[name].classes


def test_defaults_are_the_papers() -> None:
    assert DATASETS["cifar10"].eps == {"linf": 0.031, "l2": 1.0, "l1": 20.0}
    assert DATASETS["mnist"].eps == {"linf": 0.3, "l2": 2.0, "l1": 15.0}
    assert DATASETS["digits"].eps == {}


def test_command_lists_every_data_set(fake_mnist: Path) -> None:
    result = CliRunner().invoke(data_command, [], env={"RBFBENCH_DATA_ROOT": str(fake_mnist), "COLUMNS": "120"})
    assert result.exit_code == 0
    rows = {line.split()[0]: line for line in result.output.splitlines() if "x" in line and line.split()}
    assert "mnist.npz" in rows["mnist"]
    assert "163 MiB" in rows["cifar10"]
    assert ".npz" not in rows["cifar10"]
    assert "597" in rows["digits"]
    for info in DATASETS.values():
        assert info.credits in result.output


def test_listing_loads_no_numbers() -> None:
    code = (
        "import sys\nfrom rbfbench.cli.data import data\ndata([], standalone_mode=False)\n"
        "assert not {'torch', 'numpy', 'scipy', 'sklearn', 'PIL'} & set(sys.modules)"
    )
    done = run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.strip()) == (0, "")
