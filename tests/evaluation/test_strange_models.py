"""Models as users have them: in other precisions and ranges, with state, classes and ways back of their own."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from test_engine import CPU, row, spec
from torch import Tensor, nn
from torch.nn import functional as F

import rbfbench
from rbfbench.evaluation.engine import evaluate
from rbfbench.evaluation.target import inspect
from rbfbench.results.records import Run


class Quantised(nn.Module):
    """Pixels in a few levels in front of a net, with a way back or without, and logits or probabilities."""

    def __init__(self, *, levels: int = 15, straight: bool = False, soft: bool = False) -> None:
        super().__init__()
        self.net = rbfbench.load_model("cnn", "digits")
        self.levels, self.straight, self.soft = levels, straight, soft

    def forward(self, x: Tensor) -> Tensor:
        steps = (x * self.levels).round() / self.levels
        logits: Tensor = self.net(x + (steps - x).detach() if self.straight else steps)
        return logits.softmax(1) if self.soft else logits


@pytest.mark.parametrize(
    ("one", "other"),
    [({}, {"straight": True}), ({"levels": 48, "soft": True}, {"levels": 32, "soft": True})],
    ids=["the way back", "a constant behind probabilities"],
)
def test_whatever_changes_what_attacks_meet_shows_in_the_fingerprint(one: dict, other: dict) -> None:
    """The weights are the same: a run that goes on would take the cells of another model."""
    data = rbfbench.load_data("digits").head(20)
    first, again, second = (
        inspect(Quantised(**given), "toy", data, CPU).fingerprint(data) for given in (one, one, other)
    )
    assert first == again != second


class Wide(nn.Module):
    """A thousand outputs, each a little different by rounding in a batch of its own."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(288, 1000))

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.net(x)
        return logits


def test_the_fingerprint_does_not_follow_the_batch_size_or_chance() -> None:
    """Whatever a batch may hold, and however often it is asked for; nor does it move the global generators."""

    class Fickle(torch.autograd.Function):
        @staticmethod
        def forward(ctx: object, x: Tensor) -> Tensor:
            return x.clone()

        @staticmethod
        def backward(ctx: object, upstream: Tensor) -> Tensor:
            return upstream * torch.rand_like(upstream)

    class Noisy(Wide):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(Fickle.apply(x))

    data = rbfbench.load_data("digits").head(20)
    for model in (Wide(), Noisy()):
        target, before = inspect(model, "toy", data, CPU), torch.get_rng_state()
        digests = []
        for target.max_rows in (128, 1, 3):
            digests.append(target.fingerprint(data))
        assert len(set(digests)) == 1
        assert torch.equal(torch.get_rng_state(), before)


def test_a_net_of_the_users_behind_our_layers_is_not_ours() -> None:
    data = rbfbench.load_data("digits").head(20)
    digests = []
    for straight in (False, True):
        ours = rbfbench.load_model("rcnn", "digits", beta2=0.0)
        ours.classifier = Quantised(straight=straight)
        digests.append(inspect(ours, "toy", data, CPU).fingerprint(data))
    assert digests[0] != digests[1]


class Stateful(nn.Module):
    """Keeps what is no tensor beside its weights."""

    def __init__(self, said: str) -> None:
        super().__init__()
        self.net, self.said = rbfbench.load_model("cnn", "digits"), said

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.net(x)
        return logits

    def get_extra_state(self) -> dict[str, str]:
        return {"said": self.said}


@pytest.mark.filterwarnings("ignore")  # of torch, which moves its quantisation to another package
def test_state_that_is_no_tensor_and_quantised_weights_are_told_apart() -> None:
    data = rbfbench.load_data("digits").head(20)
    digests = [inspect(Stateful(said), "toy", data, CPU).fingerprint(data) for said in ("a", "a", "b")]
    assert digests[0] == digests[1] != digests[2]
    eight = torch.ao.quantization.quantize_dynamic(rbfbench.load_model("cnn", "digits"), {nn.Linear})
    run = evaluate(inspect(eight, "toy", data, CPU), data, spec([row("square", "none", queries=5)], data)).run
    assert run.status == "complete"


@pytest.mark.parametrize(("norm", "attack"), [("linf", "fab-t"), ("l2", "cw-l2"), ("l1", "ead"), ("l2", "deepfool")])
def test_a_model_in_double_precision_is_attacked_like_another(norm: str, attack: str) -> None:
    data = rbfbench.load_data("digits").head(6)
    net = rbfbench.load_model("cnn", "digits").double()
    target = inspect(lambda x: net(x.double()), "toy", data, CPU)
    asked = spec([row(attack)], data)
    run = evaluate(target, data, dataclasses.replace(asked, norm=norm, eps=0.1)).run
    assert [each.unknown for each in run.attacks] == [0]


class Elsewhere(nn.Module):
    """A thousand classes, the ten of the data at places of their own."""

    def forward(self, x: Tensor) -> Tensor:
        places = 1 + 97 * x.flatten(1)[:, :10].argmax(1)
        return 30.0 * F.one_hot(places, 1000).to(x.dtype) + 0 * x.sum()


def fired_of(run: Run) -> set[str]:
    return {check.code for check in run.checks if check.fired}


def test_chance_is_that_of_the_commonest_class_where_a_model_has_outputs_that_no_image_is_of() -> None:
    data = rbfbench.load_data("digits").head(200)
    asked = spec([row("fgsm")], data)
    assert "clean-at-chance" in fired_of(evaluate(inspect(Elsewhere(), "toy", data, CPU), data, asked).run)
    few = data.head(3)
    right = inspect(rbfbench.load_model("cnn", "digits"), "toy", few, CPU)
    assert "clean-at-chance" not in fired_of(evaluate(right, few, spec([row("fgsm")], few)).run)


def test_the_first_images_of_a_sorted_set_are_told() -> None:
    data = rbfbench.load_data("digits").head(300)
    order = np.argsort(data.labels, kind="stable")
    by_class = dataclasses.replace(
        data, pixels=data.pixels[order], labels=data.labels[order], indices=data.indices[order]
    )
    target = inspect(rbfbench.load_model("cnn", "digits"), "toy", data, CPU)
    for images, available, fired in (
        (by_class.head(25), 300, True),
        (by_class.head(60), 300, True),
        (by_class, 300, False),  # all of them
        (data.head(25), 300, False),
        (by_class.head(3), 300, False),  # too few to tell
    ):
        asked = dataclasses.replace(spec([row("fgsm")], images), available=available)
        assert ("sorted-images" in fired_of(evaluate(target, images, asked).run)) is fired


def test_a_missing_normalisation_is_told_where_the_model_is_well_above_chance() -> None:
    """A net that sees its pixels in [-1,1] wherever it can, and is half right where it cannot."""
    data = rbfbench.load_data("digits").head(200)
    net = rbfbench.load_model("cnn", "digits")

    class Signed(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            logits: Tensor = net((x + 1) / 2)
            return logits

    run = evaluate(inspect(Signed(), "toy", data, CPU), data, spec([row("fgsm")], data)).run
    assert 0.2 < run.clean.accuracy < 0.9
    found = {check.code: check for check in run.checks}
    assert found["other-input-range"].fired
    assert "with --input-range=-1,1 it is right on 9" in found["other-input-range"].detail
    assert not found["clean-at-chance"].fired
    plain = evaluate(inspect(nn.Sequential(net), "toy", data, CPU), data, spec([row("fgsm")], data)).run
    assert "other-input-range" not in fired_of(plain)

    class Shifted(Signed):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x).roll(1, dims=1)

    shifted = evaluate(inspect(Shifted(), "toy", data, CPU), data, spec([row("fgsm")], data)).run
    (chance,) = [check for check in shifted.checks if check.code == "clean-at-chance"]
    assert chance.fired
    assert "label order?" in chance.detail, "no range makes it better than guessing"


class Purifier(nn.Module):
    """The parts of RBF-CNN, and a configuration of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.net, self.config = rbfbench.load_model("cnn", "digits"), {"name": "mine"}

    def front(self, x: Tensor, keys: object = None, *, draws: int = 1) -> Tensor:
        return x

    def front_static(self, x: Tensor) -> Tensor:
        return x

    def classify(self, x: Tensor) -> Tensor:
        return self.net(x)  # type: ignore[no-any-return]

    def forward(self, x: Tensor) -> Tensor:
        return self.classify(self.front(x))


def test_a_purifier_whose_configuration_is_not_that_of_rbf_cnn_is_a_model_like_any_other() -> None:
    data = rbfbench.load_data("digits").head(10)
    target = inspect(Purifier(), "toy", data, CPU)
    assert (target.keyed, target.stochastic, target.card["views"]) == (False, False, ["static"])
