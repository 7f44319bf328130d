"""Input transformations of ART in front of models: computed as ART does, differentiated as their stand-ins, broken."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from torch import nn

import rbfbench
from rbfbench.cli import cli
from rbfbench.errors import UsageError
from rbfbench.evaluation.load_options import LoadOptions
from rbfbench.evaluation.loading import load_target
from rbfbench.interop.defended import DefendedPurifier, defended, median
from rbfbench.interop.preprocessings import parse_preprocessing

CPU = torch.device("cpu")
BOTH = pytest.mark.parametrize(("name", "value"), [("art:jpeg", 50), ("art:spatial-smoothing", 3)])


@BOTH
@pytest.mark.parametrize("dataset", ["cifar10", "mnist"])
def test_the_model_sees_what_art_computes(name, value, dataset, device):
    from art.defences.preprocessor import JpegCompression, SpatialSmoothing

    x, _ = rbfbench.load_data(dataset).batch(0, 4)
    made = {
        "art:jpeg": JpegCompression((0.0, 1.0), value, channels_first=True),
        "art:spatial-smoothing": SpatialSmoothing(value, channels_first=True),
    }[name](x.numpy())[0]
    seen = defended(nn.Identity(), name, value)(x.to(device))
    assert seen.device.type == device.type
    assert np.array_equal(seen.cpu().numpy(), made)
    assert not np.array_equal(made, x.numpy())


@pytest.mark.parametrize("window", [3, 5, 9])
def test_the_stand_in_of_the_median_is_the_median(window, device):
    from art.defences.preprocessor import SpatialSmoothing

    x = torch.rand(3, 2, 7, 11, generator=torch.Generator().manual_seed(0)).to(device)
    art = SpatialSmoothing(window, channels_first=True)(x.cpu().numpy())[0]
    assert np.array_equal(median(x, window).cpu().numpy(), art)


def test_gradients_are_those_of_the_stand_ins(device):
    x = torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(0)).to(device).requires_grad_()
    weight = torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(1)).to(device)
    (through,) = torch.autograd.grad((defended(nn.Identity(), "art:jpeg", 50)(x) * weight).sum(), x)
    assert torch.equal(through, weight)
    (through,) = torch.autograd.grad((defended(nn.Identity(), "art:spatial-smoothing", 3)(x) * weight).sum(), x)
    (expected,) = torch.autograd.grad((median(x, 3) * weight).sum(), x)
    assert torch.equal(through, expected)
    assert torch.allclose(through.sum(), weight.sum())  # each output hands its gradient to one pixel


def test_a_purifier_keeps_its_parts_and_its_noise():
    images = rbfbench.load_data("digits").head(8)
    options = LoadOptions(defenses=(("art:spatial-smoothing", 3),))
    target = load_target("rcnn+", images, CPU, knobs={"m": 3}, options=options)
    assert isinstance(target.model, DefendedPurifier)
    assert target.keyed
    assert target.stochastic
    assert target.m == 3
    assert set(target.views) == {"static", "eot", "bpda", "bpda-eot", "none"}
    assert target.card["name"] == "art:spatial-smoothing 3 + rcnn+"
    alone = load_target("rcnn+", images, CPU, knobs={"m": 3})
    x, _ = images.batch(0, 8)
    seen = target.views["static"].forward(x, None)
    assert torch.allclose(seen, alone.views["static"].forward(median(x, 3), None), atol=1e-6)


def test_several_stand_one_behind_the_other():
    images = rbfbench.load_data("digits").head(8)
    options = LoadOptions(defenses=(("art:jpeg", 80), ("art:spatial-smoothing", 3)))
    target = load_target("cnn", images, CPU, options=options)
    assert target.card["name"] == "art:jpeg 80 + art:spatial-smoothing 3 + cnn"
    x, _ = images.batch(0, 8)
    first = defended(nn.Identity(), "art:jpeg", 80)(x)
    plain = load_target("cnn", images, CPU)
    assert torch.allclose(target.model(x), plain.model(median(first, 3)), atol=1e-6)


@BOTH
def test_a_deterministic_model_has_the_view_bpda(name, value):
    images = rbfbench.load_data("digits").head(8)
    target = load_target("cnn", images, CPU, options=LoadOptions(defenses=((name, value),)))
    assert set(target.views) == {"bpda", "none"}
    assert target.card["approximated"]
    digest = target.fingerprint(images)
    other = load_target("cnn", images, CPU, options=LoadOptions(defenses=((name, value + 10),)))
    assert other.fingerprint(images) != digest


def test_they_are_broken_by_attacks_that_go_through_them_and_not_by_others():
    """JPEG takes back what was made for the model alone, and nothing of what is made through it."""
    asked = ["attack", "--model", "cnn", "--dataset", "cifar10", "--limit", "16", "--device", "cpu", "--eps", "4/255"]
    asked += ["--defense", "art:jpeg:quality=50", "--json", "-"]
    through = _run(*asked, "--attack", "pgd")
    around = _run(*asked, "--attack", "transfer", "--surrogate", "cnn")
    (pgd,), (transfer,) = through["attacks"], around["attacks"]
    assert pgd["id"] == "pgd/bpda"
    assert pgd["category"] == "adaptive"
    assert through["spec"]["loading"] == {"defenses": [["art:jpeg", 50]]}
    assert pgd["k"] <= transfer["k"] - 3
    assert pgd["k"] <= 0.2 * through["clean"]["k"]


def _run(*arguments: str) -> dict:
    done = CliRunner().invoke(cli, list(arguments))
    assert done.exit_code == 0, (done.output, done.exception)
    return json.loads(done.stdout)


def test_the_number_decides_the_cell():
    from rbfbench.evaluation.spec import RunSpec

    spec = RunSpec(
        model="cnn", dataset="digits", source="", norm="linf", eps=0.1, eps_text="0.1", suite="", rows=(), limit=1,
        available=1,
    )  # fmt: skip
    changed = dataclasses.replace(spec, loading={"defenses": [("art:jpeg", 50)]})
    assert "loading" not in spec.deciding()
    assert "loading" not in spec.question()
    assert changed.deciding() != dataclasses.replace(spec, loading={"defenses": [("art:jpeg", 51)]}).deciding()
    moved = dataclasses.replace(spec, loading={"weights": "elsewhere.pt"})
    assert moved.deciding() == spec.deciding()  # the digest of the weights themselves is in the key


def test_texts_are_read():
    assert parse_preprocessing("art:jpeg") == ("art:jpeg", 50)
    assert parse_preprocessing("art:spatial-smoothing:window=5") == ("art:spatial-smoothing", 5)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("art:jpg", "did you mean 'art:jpeg'"),
        ("jpeg", "did you mean 'art:jpeg'"),
        ("art:jpeg:quality=0", "whole number from 1 to 95"),
        ("art:jpeg:quality=9.5", "whole number"),
        ("art:jpeg:qualty=9", "did you mean 'quality'"),
        ("art:spatial-smoothing:window=4", "odd"),
    ],
)
def test_texts_without_meaning_are_refused(text, words):
    with pytest.raises(UsageError, match=words):
        parse_preprocessing(text)
