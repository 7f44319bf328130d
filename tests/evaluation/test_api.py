"""What Python users call: it gives what the command line gives, and leaves their model as it was."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from torch import nn

import rbfbench
from rbfbench.cli import cli
from rbfbench.defenses.rbfcnn import RBFCNN
from rbfbench.errors import DataError, UsageError


def test_constants_of_a_shipped_model_are_in_force() -> None:
    x, _ = rbfbench.load_data("digits").batch(0, 4)
    model = rbfbench.load_model("rcnn", "digits", beta2=0.0, m=3, noise_scope="patch", clip=False)
    assert isinstance(model, RBFCNN)
    assert (model.config.m, model.config.noise_scope, model.config.clip) == (3, "patch", False)
    assert torch.equal(model(x), model(x))  # no noise at beta2 0
    own = rbfbench.load_model("rcnn", "digits")
    assert not torch.equal(own(x), own(x))


BAD: dict[str, tuple[str, str, dict[str, Any], str]] = {
    "unknown model": ("rcn", "digits", {}, "did you mean 'rcnn'"),
    "unknown data set": ("cnn", "digit", {}, "did you mean 'digits'"),
    "unknown constant": ("rcnn", "digits", {"beta3": 1.0}, "did you mean 'beta"),
    "bad value": ("rcnn", "digits", {"m": 0}, "m = 0 cannot be used"),
    "overflow": ("rcnn", "digits", {"beta1": 1e9}, "beta1 = 1000000000.0 cannot be used"),
    "no RBF-CNN": ("cnn", "digits", {"beta2": 1.0}, "cnn has no beta2: it is not an RBF-CNN"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_model_that_cannot_be_given_is_refused_in_one_line(case: str) -> None:
    name, dataset, constants, words = BAD[case]
    with pytest.raises(UsageError) as caught:
        rbfbench.load_model(name, dataset, **constants)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_radius_in_quotes_is_refused_in_one_line() -> None:
    x, y = rbfbench.load_data("digits").batch(0, 4)
    with pytest.raises(UsageError, match="eps = '8/255' is no number: it is of type str; write 8 / 255"):
        rbfbench.attack(rbfbench.load_model("cnn", "digits"), x, y, norm="linf", eps="8/255")  # type: ignore[arg-type]


def test_attacks_by_name_are_those_of_the_command_line() -> None:
    x, y = rbfbench.load_data("digits").batch(0, 30)
    asked = {"pgd": {"steps": 3, "step_size": 0.05, "random_start": False, "loss": "margin"}, "square": {"queries": 5}}
    run = rbfbench.attack(rbfbench.load_model("cnn", "digits"), x, y, norm="linf", eps=0.1, attacks=asked)
    words = [f"{attack}.{name}={value}".lower() for attack, given in asked.items() for name, value in given.items()]
    told = [word for setting in words for word in ("--set", setting)]
    named = ["--attack", "pgd", "--attack", "square", "--dataset", "digits", "--model", "cnn", "--eps", "0.1"]
    done = CliRunner().invoke(cli, ["attack", *named, *told, "--limit", "30", "--device", "cpu", "--json", "-"])
    rows = json.loads(done.stdout)["attacks"]
    assert [(row.id, row.params) for row in run.attacks] == [(row["id"], row["params"]) for row in rows]
    assert run.spec["suite"] == ""


def test_attacks_by_name_look_through_noise_that_cannot_be_switched_off() -> None:
    x, y = rbfbench.load_data("digits").batch(0, 4)
    run = rbfbench.attack(Random(), x, y, norm="linf", eps=0.1, attacks={"pgd": {"steps": 2}})
    assert [(row.id, row.params["draws"]) for row in run.attacks] == [("pgd/eot", 20)]


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "two answers": ({"suite": "quick", "attacks": {"pgd": {}}}, "attacks and suite exclude each other"),
    "nothing": ({"attacks": {}}, "there is nothing to attack with"),
    "a list": ({"attacks": ["pgd"]}, 'write {"pgd": {}}'),
    "a name": ({"attacks": "pgd"}, 'write {"pgd": {}}'),
    "no table": ({"attacks": {"pgd": None}}, 'write {"pgd": {}}'),
    "unknown attack": ({"attacks": {"pdg": {}}}, "did you mean 'pgd'?"),
    "unknown parameter": ({"attacks": {"pgd": {"stepz": 3}}}, "did you mean 'steps'?"),
    "no whole number": ({"attacks": {"pgd": {"steps": 2.5}}}, "pgd.steps=2.5 is not a whole number"),
    "out of range": ({"attacks": {"pgd": {"steps": 0}}}, "pgd.steps=0 makes no sense"),
    "no view": ({"attacks": {"pgd": {}}, "gradient": "none"}, "none"),
    "view of a suite": ({"gradient": "eot"}, "gradient has no attack"),
    "other norm": ({"attacks": {"ead": {}}}, "norm of ead"),
    "surrogate": ({"attacks": {"transfer": {}}}, "transfer wants a surrogate"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_attacks_that_cannot_be_made_are_refused_in_one_line(case: str) -> None:
    options, words = REFUSED[case]
    x, y = rbfbench.load_data("digits").batch(0, 4)
    with pytest.raises(UsageError) as caught:
        rbfbench.attack(rbfbench.load_model("cnn", "digits"), x, y, norm="linf", eps=0.1, **options)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_attack_leaves_the_model_its_modes_and_its_gradients() -> None:
    x, y = rbfbench.load_data("digits").batch(0, 4)
    model = nn.Sequential(nn.Dropout(0.5), nn.Flatten(), nn.Linear(64, 10)).train()
    model[2].bias.requires_grad_(False)
    state, rng = {k: v.clone() for k, v in model.state_dict().items()}, torch.get_rng_state()
    run = rbfbench.attack(model, x, y, norm="linf", eps=0.1)
    assert run.status == "complete"
    assert model.training
    assert [p.requires_grad for p in model.parameters()] == [True, False]
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), rng)


class Random(nn.Module):
    """Random by way of the global generator, on 8x8 images."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.flatten(1)[:, :10] + 0.5 * torch.randn(len(x), 10)


def test_attack_on_a_random_model_neither_follows_nor_moves_the_global_generators() -> None:
    x, y = rbfbench.load_data("digits").batch(0, 4)
    runs = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        run = rbfbench.attack(Random(), x, y, norm="linf", eps=0.1)
        assert run.model["stochastic"]
        assert torch.equal(torch.get_rng_state(), before)
        runs.append((run.model, run.clean.k, [(row.id, row.k) for row in run.attacks]))
    assert runs[0] == runs[1]


class Standardised(nn.Conv2d):
    """A convolution by weight standardisation, as it is often written: `view` wants the weights as they were laid."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        flat = self.weight.view(self.weight.size(0), -1)
        weight = ((flat - flat.mean(1, keepdim=True)) / flat.std(1, keepdim=True)).view_as(self.weight)
        return nn.functional.conv2d(x, weight, self.bias)


def test_attack_leaves_the_weights_as_they_are_laid_in_memory() -> None:
    x, y = torch.rand(4, 3, 6, 6), torch.arange(4)
    model = nn.Sequential(Standardised(3, 8, 3), nn.Flatten(), nn.Linear(128, 4))
    strides = [p.stride() for p in model.parameters()]
    assert rbfbench.attack(model, x, y, norm="linf", eps=0.1).status == "complete"
    assert [p.stride() for p in model.parameters()] == strides
    assert rbfbench.certify(model, x, y, sigma=0.1, n0=2, n=2).status == "complete"
    assert [p.stride() for p in model.parameters()] == strides


def test_attack_scores_a_model_whose_answer_is_known() -> None:
    """Mean brightness above or below a half: an image at distance d from it falls to linf eps > d and to no less."""
    x = torch.full((4, 1, 4, 4), 0.5) + torch.tensor([-0.2, -0.05, 0.05, 0.2]).view(4, 1, 1, 1)
    y = torch.tensor([0, 0, 1, 1])

    class Bright(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            score = 100 * (images.mean((1, 2, 3)) - 0.5)
            return torch.stack([-score, score], dim=1)

    run = rbfbench.attack(Bright(), x, y, norm="linf", eps=0.1)
    assert run.clean.accuracy == 1.0
    assert run.worst_case is not None
    assert run.worst_case.accuracy == 0.5


@pytest.mark.parametrize(
    ("x", "y"),
    [
        (torch.rand(2, 1, 4, 4) + 1, torch.tensor([0, 1])),
        (torch.rand(2, 4, 4), torch.tensor([0, 1])),
        (torch.rand(2, 1, 4, 4), torch.tensor([0.0, 1.0])),
        (torch.rand(2, 1, 4, 4), torch.tensor([0])),
    ],
)
def test_attack_refuses_what_are_no_labelled_images(x: torch.Tensor, y: torch.Tensor) -> None:
    with pytest.raises(DataError, match="these are not labelled images"):
        rbfbench.attack(nn.Flatten(), x, y, norm="linf", eps=0.1)


@pytest.mark.parametrize("command", ["attack", "certify"])
def test_ctrl_c_stops_the_program_and_is_no_result(command: str) -> None:
    """Half a run looks like a robust model to those who read its worst case."""

    class Stopped(nn.Linear):
        calls, most = 0, 10**9

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            Stopped.calls += 1
            if Stopped.calls > Stopped.most:
                raise KeyboardInterrupt
            return super().forward(x.flatten(1))

    model = Stopped(16, 3)
    x = torch.rand(4, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        y = nn.Linear.forward(model, x.flatten(1)).argmax(1)

    def ask() -> None:
        if command == "attack":
            rbfbench.attack(model, x, y, norm="linf", eps=0.1)
        else:
            rbfbench.certify(model, x, y, sigma=0.1, n=100, n0=10)

    ask()
    Stopped.most, Stopped.calls = Stopped.calls - 1, 0  # all but the last
    with pytest.raises(KeyboardInterrupt):
        ask()
