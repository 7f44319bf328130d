"""Weights and images that do not go together: one line that says what the model takes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from rbfbench.data import Images
from rbfbench.defenses import shipped_path
from rbfbench.errors import ModelError, UsageError
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


PURIFIER = """
from types import SimpleNamespace
import torch
from torch import nn

class Purifier(nn.Module):
    def __init__(self, stochastic):
        super().__init__()
        self.stochastic, self.config = stochastic, SimpleNamespace(beta2=1.0, m=3)

    def front(self, x, keys=None, *, draws=1):
        rows = len(x) * draws if keys is None else len(keys)
        wide = x.repeat_interleave(rows // len(x), dim=0)
        if not self.stochastic:
            return wide
        noise = torch.randn(wide.shape) if keys is None else keys.normal(tuple(x.shape[1:]), x)
        return wide + 0.01 * noise

    def front_static(self, x):
        return x

    def classify(self, images):
        return 20 * images.flatten(1)[:, :10]

    def forward(self, x):
        return self.classify(self.front(x))

def random():
    return Purifier(True)

def fixed():
    return Purifier(False)
"""


def test_a_purifier_of_the_user_averages_as_many_passes_as_asked(tmp_path: Path) -> None:
    (tmp_path / "pur.py").write_text(PURIFIER)
    data, cpu = images(8, 8, 1), torch.device("cpu")
    own, asked = (
        load_target(f"{tmp_path}/pur.py:random", data, cpu, knobs=knobs) for knobs in ({}, {"m": 50, "beta2": None})
    )
    assert (own.m, own.draws, own.card["m"], own.card["constants"]["m"]) == (3, 3, 3, 3)
    assert (asked.m, asked.draws, asked.card["m"], asked.card["constants"]["m"]) == (50, 50, 50, 50)
    assert own.fingerprint(data) != asked.fingerprint(data)


def test_a_purifier_whose_noise_is_fixed_has_no_passes_to_choose(tmp_path: Path) -> None:
    (tmp_path / "pur.py").write_text(PURIFIER)
    with pytest.raises(UsageError, match="has no --m: it gives the same answer every time"):
        load_target(f"{tmp_path}/pur.py:fixed", images(8, 8, 1), torch.device("cpu"), knobs={"m": 50})


def test_constants_of_rbf_cnn_are_changed_whether_it_is_random_or_not() -> None:
    path = str(shipped_path("rcnn", "mnist"))
    for beta2 in (0.0, 1.0):
        target = load_target(path, images(28, 28, 1), torch.device("cpu"), knobs={"m": 7, "beta2": beta2})
        assert (target.m, target.card["constants"]["m"], target.card["constants"]["beta2"]) == (7, 7, beta2)
        assert target.stochastic == (beta2 > 0)
