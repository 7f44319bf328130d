"""Weights and images that do not go together: one line that says what the model takes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from rbfbench.data import Images
from rbfbench.defenses import shipped_path
from rbfbench.errors import ModelError
from rbfbench.evaluation.loading import load_target


def images(height: int, width: int, channels: int) -> Images:
    pixels = np.random.default_rng(0).random((4, height, width, channels), np.float32)
    labels = np.arange(4)
    return Images(
        name="mine", source="", pixels=pixels, labels=labels, indices=labels, classes=tuple(map(str, range(10)))
    )


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        ((2, 2, 1), "images are (4, 1, 2, 2), filters take (N,1,>=3,>=3)"),  # patches larger than the image
        ((28, 28, 3), "images are (4, 3, 28, 28), filters take (N,1,>=3,>=3)"),
    ],
)
def test_images_that_do_not_fit_the_filters(shape: tuple[int, int, int], words: str) -> None:
    path = str(shipped_path("rcnn", "mnist"))
    with pytest.raises(ModelError) as caught:
        load_target(path, images(*shape), torch.device("cpu"))
    todo = "give images of the data set that the filters were fitted on"
    assert str(caught.value) == f"{path} does not classify these images: {words}; {todo}."


def test_images_that_fit_the_filters_but_not_the_classifier() -> None:
    with pytest.raises(ModelError, match=r"on images of shape \(4, 1, 32, 32\) it raised RuntimeError: .*; check that"):
        load_target(str(shipped_path("rcnn", "mnist")), images(32, 32, 1), torch.device("cpu"))
