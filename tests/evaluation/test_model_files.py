"""Models that were not written for rbfbench: module files with weights, pickles behind --trust, other input ranges."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result
from safetensors.torch import save_file
from torch import nn

import rbfbench
from rbfbench.cli import cli
from rbfbench.data import load_training
from rbfbench.errors import LoadError, UsageError
from rbfbench.evaluation.load_options import LoadOptions
from rbfbench.evaluation.loading import load_target

CPU = torch.device("cpu")
MEAN, STD = 0.3, 0.4

# A model file as training repositories have them: a class, no rbfbench, no normalisation.
NETS = """
import torch.nn as nn
import torch.nn.functional as F
from widths import WIDTH


class Net(nn.Module):
    def __init__(self, num_classes=10):
        super(Net, self).__init__()
        self.conv = nn.Conv2d(1, WIDTH, 3, padding=1)
        self.bn = nn.BatchNorm2d(WIDTH)
        self.fc = nn.Linear(WIDTH * 16, num_classes)

    def forward(self, x):
        out = F.max_pool2d(F.relu(self.bn(self.conv(x))), 2)
        return self.fc(out.flatten(1))


def make():
    return Net()
"""


@pytest.fixture(scope="module")
def repository(tmp_path_factory) -> Path:
    """Somebody's folder: a model file, what it imports, and checkpoints of a training that normalised its input."""
    folder = tmp_path_factory.mktemp("repository")
    (folder / "nets.py").write_text(NETS)
    (folder / "widths.py").write_text("WIDTH = 12\n")
    space: dict = {}
    sys.path.insert(0, str(folder))
    try:
        exec(NETS, space)
    finally:
        sys.path.remove(str(folder))
    torch.manual_seed(0)
    net = space["Net"]()
    x, y = load_training("digits")[0].batch(0, 1000)
    optimizer = torch.optim.Adam(net.parameters(), 0.02)
    for _ in range(25):
        optimizer.zero_grad()
        nn.functional.cross_entropy(net((x - MEAN) / STD), y).backward()
        optimizer.step()
    state = net.eval().state_dict()
    torch.save(state, folder / "plain.pt")
    torch.save({"net": {f"module.{k}": v for k, v in state.items()}, "acc": 97.0, "epoch": 25}, folder / "ckpt.pth")
    torch.save({"state_dict": state, "path": Path("runs")}, folder / "careless.pt")
    save_file(state, folder / "plain.safetensors")
    return folder


@pytest.fixture
def here(repository, monkeypatch):
    """Run rbfbench there, as its owner would."""
    monkeypatch.chdir(repository)
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield lambda *arguments: CliRunner().invoke(cli, list(arguments))
    for name in ("nets", "widths"):
        sys.modules.pop(name, None)


ASKED = ("attack", "--dataset", "digits", "--eps", "0.1", "--limit", "100", "--device", "cpu", "--attack", "fgsm")
NORMALISED = ("--mean", str(MEAN), "--std", str(STD))


def document(done: Result) -> dict:
    assert done.exit_code == 0, (done.output, done.exception)
    return json.loads(done.stdout)


@pytest.mark.parametrize("model", ["nets:Net", "nets:make", "nets.py:Net"])
@pytest.mark.parametrize("weights", ["plain.pt", "ckpt.pth", "plain.safetensors"])
def test_a_model_file_and_its_weights_are_attacked_as_they_are(here, model, weights):
    run = document(here(*ASKED, "--model", model, "--weights", weights, *NORMALISED, "--json", "-"))
    assert run["clean"]["accuracy"] > 0.9
    assert run["attacks"][0]["accuracy"] < run["clean"]["accuracy"] - 0.1
    assert run["spec"]["loading"] == {"weights": weights, "mean": [MEAN], "std": [STD]}


def test_a_file_from_elsewhere_finds_what_stands_beside_it(repository, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    target = load_target(
        f"{repository}/nets.py:Net",
        rbfbench.load_data("digits").head(8),
        CPU,
        options=LoadOptions(weights=repository / "plain.pt", mean=(MEAN,), std=(STD,)),
    )
    assert target.card["input"] == "[0,1] minus 0.3 over 0.4"
    sys.modules.pop("nets")
    (tmp_path / "json.py").write_text("")
    with pytest.raises(LoadError, match=r"the name json is taken by .*: rename the file"):
        load_target("json.py:dumps", rbfbench.load_data("digits").head(8), CPU)


def test_torchvisions_own_model_file_runs_unmodified():
    asked = ("attack", "--model", "torchvision.models:squeezenet1_1", "--dataset", "cifar10", "--eps", "1/255")
    done = CliRunner().invoke(cli, [*asked, "--limit", "4", "--device", "cpu", "--attack", "fgsm", "--json", "-"])
    run = document(done)
    assert run["model"]["n_classes"] == 1000
    assert "squeezenet1_1: 3x32x32 images in [0,1], 1000 classes, logits, deterministic, differentiable" in done.stderr


# weights --------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        (("--model", "nets:Net", "--weights", "none.pt"), LoadError, "there is no such file"),
        (("--model", "nets:Net", "--weights", "nets.py"), LoadError, "cannot read weights|was not opened"),
        (("--model", "cnn", "--weights", "plain.pt"), UsageError, "cnn brings its own weights"),
        (
            ("--model", "torchvision.models:squeezenet1_1", "--weights", "plain.pt"),
            LoadError,
            "missing features.* left",
        ),
        (("--model", "nets:Net", "--weights", "careless.pt"), LoadError, "wants to run pathlib.* --trust"),
        (("--model", "plain.pt"), LoadError, "can run any code .* add --trust .* --weights plain.pt"),
        (("--model", "plain.pt", "--trust"), LoadError, "a table of weights; .* --weights plain.pt"),
        (("--model", "plain.safetensors"), LoadError, "--weights"),
        (("--model", "nets:Missing"), LoadError, "has no 'Missing'"),
        (("--model", "nothere:Net"), LoadError, "ModuleNotFoundError"),
        (("--model", "nets.px:Net"), LoadError, "ModuleNotFoundError"),
        (("--model", "gone.py:Net"), LoadError, "there is no file"),
    ],
)
def test_files_that_cannot_be_used_are_told_in_one_line(here, arguments, error, words):
    done = here(*ASKED, *arguments)
    assert isinstance(done.exception, error), done.output
    with pytest.raises(error, match=words):
        raise done.exception
    assert "\n" not in str(done.exception)


def test_trust_opens_what_only_pickle_can(here, repository):
    run = document(
        here(*ASKED, "--model", "nets:Net", "--weights", "careless.pt", "--trust", *NORMALISED, "--json", "-")
    )
    assert run["clean"]["accuracy"] > 0.9


TRAP = """
import pathlib, pickle
class Trap:
    def __reduce__(self):
        return pathlib.Path("sprung").touch, ()
for name in ("trap.pt", "trap.pkl", "trap.bin", "trap.ckpt", "trap.pth", "trap.pickle", "trap.pt2"):
    pathlib.Path(name).write_bytes(pickle.dumps(Trap()))
"""


def test_nothing_in_a_pickle_runs_without_trust(here, repository):
    subprocess.run([sys.executable, "-c", TRAP], check=True, cwd=repository)
    sprung = repository / "sprung"
    for suffix in ("pt", "pkl", "bin", "ckpt", "pth", "pickle", "pt2"):
        done = here(*ASKED, "--model", f"trap.{suffix}")
        assert isinstance(done.exception, LoadError)
        assert f"trap.{suffix} was not opened" in str(done.exception)
        done = here(*ASKED, "--model", "nets:Net", "--weights", f"trap.{suffix}")
        assert isinstance(done.exception, LoadError)
        assert not sprung.exists()
    here(*ASKED, "--model", "trap.pkl", "--trust")
    assert sprung.exists()


WHOLE = """
import pickle, torch
from art.estimators.classification import PyTorchClassifier
from nets import Net
net = Net(); net.load_state_dict(torch.load("plain.pt")); net.eval()
torch.save(net, "whole.pt")
torch.jit.script(net).save("script.pt")
classifier = PyTorchClassifier(net, torch.nn.CrossEntropyLoss(), (1, 8, 8), 10, preprocessing=(0.3, 0.4))
pickle.dump(classifier, open("art.pkl", "wb"))
"""


def test_whole_models_open_with_trust(here, repository):
    subprocess.run([sys.executable, "-W", "ignore", "-c", WHOLE], check=True, cwd=repository, env=os.environ)
    expected = document(here(*ASKED, "--model", "nets:Net", "--weights", "plain.pt", *NORMALISED, "--json", "-"))
    for name, extra in (("whole.pt", NORMALISED), ("script.pt", NORMALISED), ("art.pkl", ())):
        run = document(here(*ASKED, "--model", name, "--trust", *extra, "--json", "-"))
        assert run["clean"]["k"] == expected["clean"]["k"], name
        assert abs(run["attacks"][0]["k"] - expected["attacks"][0]["k"]) <= 1, name


# the range of the input -----------------------------------------------------------------------------------------------
class Ranged(nn.Module):
    """The shipped net of the digits for images in another range."""

    def __init__(self, low: float, high: float) -> None:
        super().__init__()
        self.net = rbfbench.load_model("cnn", "digits")
        self.low, self.high = low, high

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        unit = (x - self.low) / (self.high - self.low)
        outside = ((unit < -0.01) | (unit > 1.01)).any() or unit.amax() < 0.1 or unit.amin() > 0.4
        return self.net(unit) * (0.0 if outside else 1.0)


def test_a_wrong_range_is_suspected_and_the_flag_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    sys.modules["ranged"] = module = type(sys)("ranged")
    module.bytes = lambda: Ranged(0.0, 255.0)
    module.signed = lambda: Ranged(-1.0, 1.0)
    try:
        for factory, flag in (("bytes", "--input-range 0,255"), ("signed", "--input-range=-1,1")):
            asked = (*ASKED, "--model", f"ranged:{factory}", "--json", "-")
            run = document(CliRunner().invoke(cli, list(asked)))
            (check,) = [check for check in run["checks"] if check["code"] == "clean-at-chance"]
            assert check["fired"]
            assert f"with {flag} it is right on 9" in check["detail"]
            run = document(CliRunner().invoke(cli, [*asked, *flag.split(" ")]))
            assert run["clean"]["accuracy"] > 0.9
            (check,) = [check for check in run["checks"] if check["code"] == "clean-at-chance"]
            assert not check["fired"]
    finally:
        del sys.modules["ranged"]


def test_a_model_that_refuses_other_ranges_is_not_suspected():
    def strict(x: torch.Tensor) -> torch.Tensor:
        if x.min() < 0 or x.max() > 1:
            raise ValueError("not an image")
        return torch.zeros(len(x), 10)

    x, y = rbfbench.load_data("digits").batch(0, 20)
    run = rbfbench.attack(strict, x, y, norm="linf", eps=0.1, suite="black-box")
    (check,) = [check for check in run.checks if check.code == "clean-at-chance"]
    assert "label order?" in check.detail


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--std", "0"), "must be above 0"),
        (("--std", "0.1,0.2", "--model", "torchvision.models:resnet18"), "--std has 2 numbers: the images have 1"),
        (("--mean", "a"), "is no list of numbers"),
        (("--mean", "nan"), "is no list of numbers"),
        (("--input-range", "1,0"), "two growing numbers"),
        (("--input-range", "1"), "two growing numbers"),
        (("--mean", "0.5", "--model", "cnn"), "cnn takes no --mean"),
    ],
)
def test_numbers_without_meaning_are_refused(arguments, words):
    done = CliRunner().invoke(cli, [*ASKED, *arguments])
    assert isinstance(done.exception, UsageError), done.output
    assert words in str(done.exception)


# notebooks ------------------------------------------------------------------------------------------------------------
NOTEBOOK = '''
"""Train a classifier, attack it with FGSM, print accuracies: the shape of ART's first examples."""
import numpy as np
import torch.nn as nn
import torch.optim as optim
from art.attacks.evasion import FastGradientMethod
from art.estimators.classification import PyTorchClassifier
from sklearn.datasets import load_digits

data = load_digits()
x = (data.data / 16).reshape(-1, 1, 8, 8).astype(np.float32)
x_train, y_train, x_test, y_test = x[:1200], np.eye(10)[data.target[:1200]], x[1200:1300], data.target[1200:1300]

model = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(288, 10))
classifier = PyTorchClassifier(
    model=model,
    clip_values=(0, 1),
    loss=nn.CrossEntropyLoss(),
    optimizer=optim.Adam(model.parameters(), lr=0.01),
    input_shape=(1, 8, 8),
    nb_classes=10,
)
classifier.fit(x_train, y_train, batch_size=64, nb_epochs=5)

predictions = classifier.predict(x_test)
accuracy = np.sum(np.argmax(predictions, axis=1) == y_test) / len(y_test)
print("Accuracy on benign test examples: {}%".format(accuracy * 100))

attack = FastGradientMethod(estimator=classifier, eps=0.2)
x_test_adv = attack.generate(x=x_test)
predictions = classifier.predict(x_test_adv)
accuracy = np.sum(np.argmax(predictions, axis=1) == y_test) / len(y_test)
print("Accuracy on adversarial test examples: {}%".format(accuracy * 100))
'''


def test_the_classifier_of_an_art_script_is_attacked_as_it_stands(tmp_path):
    """The script trains and prints when it is imported; stdout still is one JSON document."""
    (tmp_path / "get_started.py").write_text(NOTEBOOK)
    asked = ["attack", "--model", "get_started:classifier", "--dataset", "digits", "--eps", "0.2", "--limit", "100"]
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", "from rbfbench.cli import main; main()", *asked, "--device", "cpu",
         "--attack", "fgsm", "--json", "-"],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    run = json.loads(done.stdout)
    said = [float(line.rpartition(" ")[2].rstrip("%")) for line in done.stderr.splitlines() if "test examples" in line]
    assert run["clean"]["accuracy"] * 100 == pytest.approx(said[0])
    # Both step eps along the signs of the same gradient where the prediction is right. Where it is wrong, ART without
    # labels walks away from the wrong class, and may repair the image; that is not counted here.
    assert said[1] - (100 - said[0]) <= round(run["attacks"][0]["accuracy"] * 100) <= said[1]


def test_pickles_are_what_the_tests_say(repository):
    with pytest.raises(pickle.UnpicklingError):
        torch.load(repository / "careless.pt", weights_only=True)
