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
from rbfbench.evaluation.input_range import suspected
from rbfbench.evaluation.load_options import LoadOptions
from rbfbench.evaluation.loading import load_target
from rbfbench.evaluation.weights_files import load_weights

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
    # A name that another module has does not matter.
    (tmp_path / "json.py").write_text((repository / "nets.py").read_text())
    load_target("json.py:Net", rbfbench.load_data("digits").head(8), CPU)
    assert json.loads("1") == 1


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


def test_prefixes_are_taken_off_only_where_the_module_has_none(here, repository):
    """A wrapper's own `model.` stays; those of compiled and parallel modules go, in either order."""
    (repository / "wrapped.py").write_text(
        "import torch.nn as nn\nfrom nets import Net\nclass Wrapped(nn.Module):\n    def __init__(self):\n"
        "        super().__init__()\n        self.model = Net()\n"
        "    def forward(self, x):\n        return self.model(x)\n"
    )
    state = torch.load(repository / "plain.pt")
    expected = document(here(*ASKED, "--model", "nets:Net", "--weights", "plain.pt", *NORMALISED, "--json", "-"))
    for prefix, model in (
        ("model.", "wrapped:Wrapped"),
        ("module.model.", "wrapped:Wrapped"),
        ("_orig_mod.module.", "nets:Net"),
        ("module._orig_mod.", "nets:Net"),
        ("model.", "nets:Net"),
    ):
        torch.save({prefix + name: value for name, value in state.items()}, repository / "prefixed.pt")
        run = document(here(*ASKED, "--model", model, "--weights", "prefixed.pt", *NORMALISED, "--json", "-"))
        assert run["clean"] == expected["clean"], prefix
        assert run["model"]["name"] == f"{model} [prefixed.pt]"


def test_a_prefix_of_the_modules_own_stays_where_names_are_missing_or_left_over(tmp_path):
    class Wrapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10), nn.BatchNorm1d(10))

    whole = Wrapped().state_dict()
    part = {name: value for name, value in whole.items() if name != "model.1.bias"}
    for state, words in (
        (part, "missing model.1.bias, left over none"),
        (whole | {"model.extra": torch.zeros(1)}, "missing none, left over model.extra"),
    ):
        torch.save(state, tmp_path / "w.pt")
        with pytest.raises(LoadError, match=words):
            load_weights(Wrapped(), tmp_path / "w.pt", trust=False)
    # Of a torch that did not count the batches of batch norm, which this one forgives.
    torch.save({name: value for name, value in whole.items() if "num_batches" not in name}, tmp_path / "old.pt")
    load_weights(filled := Wrapped(), tmp_path / "old.pt", trust=False)
    assert torch.equal(filled.model[1].weight, whole["model.1.weight"])


def test_files_that_are_no_checkpoints_are_told_from_those_that_want_trust(here, repository):
    (repository / "pointer.pth").write_text("version https://git-lfs.github.com/spec/v1")
    subprocess.run(
        [sys.executable, "-c", "import torch, types, sys; m = types.ModuleType('gone'); sys.modules['gone'] = m\n"
         "class Gone: pass\nGone.__module__ = 'gone'; m.Gone = Gone\ntorch.save({'net': Gone()}, 'gone.pt')"],
        check=True, cwd=repository,
    )  # fmt: skip
    for extra in ((), ("--trust",)):
        done = here(*ASKED, "--model", "nets:Net", "--weights", "pointer.pth", *extra)
        assert isinstance(done.exception, LoadError)
        assert "it begins with b'version http'" in str(done.exception)
        assert "--trust" not in str(done.exception)
    done = here(*ASKED, "--model", "nets:Net", "--weights", "gone.pt", "--trust")
    assert isinstance(done.exception, LoadError)
    assert "No module named 'gone'" in str(done.exception)
    done = here(*ASKED, "--model", "missing.pt")
    assert "there is no such file" in str(done.exception)


def test_an_exported_program_opens_with_trust(here, repository):
    code = (
        "import torch; from nets import Net; net = Net(); net.load_state_dict(torch.load('plain.pt')); net.eval()\n"
        "n = torch.export.Dim('n', min=1, max=1024)\n"
        "torch.export.save(torch.export.export(net, (torch.rand(4, 1, 8, 8),), dynamic_shapes=({0: n},)), 'net.pt2')"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, cwd=repository)
    expected = document(here(*ASKED, "--model", "nets:Net", "--weights", "plain.pt", *NORMALISED, "--json", "-"))
    run = document(here(*ASKED, "--model", "net.pt2", "--trust", *NORMALISED, "--json", "-"))
    assert run["clean"] == expected["clean"]
    assert run["attacks"][0]["k"] == expected["attacks"][0]["k"]


def test_a_function_of_images_is_a_model_and_a_file_alone_is_none(here, repository):
    (repository / "functions.py").write_text(
        "import torch\n\ndef predict(images):\n    return images.flatten(1)[:, :10]\n\nclass Callable:\n"
        "    def __call__(self, x):\n        return predict(x)\n\nobject_ = Callable()\nprint('hello')\n"
    )
    runs = [document(here(*ASKED, "--model", f"functions:{name}", "--json", "-")) for name in ("predict", "object_")]
    assert runs[0]["clean"] == runs[1]["clean"]
    for name in ("nets", "nets.py"):
        done = here(*ASKED, "--model", name)
        assert isinstance(done.exception, UsageError)
        assert f"as {name}:build" in str(done.exception)


def test_what_a_surrogate_prints_stays_off_stdout(here, repository):
    (repository / "loud.py").write_text("import rbfbench\nprint('hello')\n\ndef m():\n    print('again')\n    "
                                        "return rbfbench.load_model('cnn', 'digits')\n")  # fmt: skip
    done = here(*ASKED[:-2], "--attack", "transfer", "--surrogate", "loud:m", "--model", "cnn-ls", "--json", "-")
    assert document(done)["spec"]["surrogates"] == ["loud:m"]
    assert "hello" in done.stderr


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


def test_a_wrong_range_is_suspected_behind_a_defense():
    images = rbfbench.load_data("digits").head(100)
    sys.modules["ranged"] = module = type(sys)("ranged")
    module.signed = lambda: Ranged(-1.0, 1.0)
    try:
        options = LoadOptions(defenses=(("art:spatial-smoothing", 3),))
        target = load_target("ranged:signed", images, CPU, options=options)
    finally:
        del sys.modules["ranged"]
    assert suspected(target, images).startswith("with --input-range=-1,1 it is right on ")
    ranged = LoadOptions(defenses=options.defenses, input_range=(-1.0, 1.0))
    sys.modules["ranged"] = module
    try:
        assert suspected(load_target("ranged:signed", images, CPU, options=ranged), images) == ""
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
