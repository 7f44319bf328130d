"""ONNX files, as exporters write them: layouts, number types, fixed batches, and files that are none."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from centroids import answers, parameters
from click.testing import CliRunner
from onnx import TensorProto, helper, numpy_helper

import rbfbench
from rbfbench.cli import cli
from rbfbench.errors import LoadError, UsageError
from rbfbench.evaluation.load_options import LoadOptions
from rbfbench.evaluation.loading import load_target
from rbfbench.evaluation.target import Target, inspect
from rbfbench.interop.onnx import OnnxModel

CPU = torch.device("cpu")
FLOAT, BYTES, HALF = TensorProto.FLOAT, TensorProto.UINT8, TensorProto.FLOAT16


def write(path: Path, *, kind: int = FLOAT, shape: tuple = ("n", 1, 8, 8), labels: bool = False) -> Path:
    """The nearest mean of digits as a file."""
    weight, bias = parameters()
    scale = np.float32(1 / 255 if kind == BYTES else 1)
    nodes = [
        helper.make_node("Cast", ["x"], ["real"], to=FLOAT),
        helper.make_node("Mul", ["real", "scale"], ["unit"]),
        helper.make_node("Flatten", ["unit"], ["flat"]),
        helper.make_node("Gemm", ["flat", "weight", "bias"], ["logits"]),
        helper.make_node("ArgMax", ["logits"], ["label"], axis=1, keepdims=0),
    ]
    constants = {"weight": weight, "bias": bias, "scale": scale}
    outputs = [helper.make_tensor_value_info("logits", FLOAT, [shape[0], 10])]
    label = helper.make_tensor_value_info("label", TensorProto.INT64, [shape[0]])
    graph = helper.make_graph(
        nodes,
        "nearest mean",
        [helper.make_tensor_value_info("x", kind, list(shape))],
        [label, *outputs] if labels else outputs,
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


@pytest.mark.parametrize(
    "made",
    [
        {},
        {"shape": ("n", 8, 8, 1)},
        {"shape": (4, 1, 8, 8)},
        {"shape": (1, 1, 8, 8)},
        {"kind": BYTES},
        {"kind": HALF},
        {"labels": True},  # as exporters of scikit-learn do: classes first, then scores
    ],
    ids=str,
)
def test_a_file_answers_as_the_model_it_was_written_from(tmp_path, made):
    model = OnnxModel(write(tmp_path / "model.onnx", **made), CPU)
    x, _ = rbfbench.load_data("digits").batch(0, 10)
    # Half precision keeps 11 bits of pixels, bytes keep 8; logits change by up to the sum of weights times that.
    allowed = {BYTES: 0.5 / 255, HALF: 2**-12}.get(made.get("kind"), 1e-6) * np.abs(parameters()[0]).sum(0).max()
    assert np.abs(model(x).numpy() - answers(10)).max() <= allowed
    assert model(x[:3]).shape == (3, 10)


def test_a_file_is_attacked_from_the_command_line(tmp_path):
    path = write(tmp_path / "model.onnx")
    asked = ["attack", "--model", str(path), "--dataset", "digits", "--eps", "0.2", "--limit", "10", "--device", "cpu"]
    done = CliRunner().invoke(cli, [*asked, "--attack", "spsa", "--set", "spsa.steps=10", "--json", "-"])
    assert done.exit_code == 0, done.output
    run = json.loads(done.stdout)
    y = rbfbench.load_data("digits").batch(0, 10)[1].numpy()
    assert run["clean"]["k"] == (answers(10).argmax(1) == y).sum()
    assert run["attacks"][0]["category"] == "black-box"
    assert run["attacks"][0]["k"] < run["clean"]["k"]


def test_files_that_cannot_be_used_are_told(tmp_path):
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"nonsense")
    flat = write(tmp_path / "flat.onnx", shape=("n", 64))
    for path, words in ((broken, "INVALID_PROTOBUF"), (flat, r"it takes x tensor\(float\) \['n', 64\]")):
        with pytest.raises(LoadError, match=words):
            OnnxModel(path, CPU)
    done = CliRunner().invoke(
        cli, ["attack", "--model", str(tmp_path / "none.onnx"), "--dataset", "digits", "--eps", "0"]
    )
    assert isinstance(done.exception, LoadError)
    assert "there is no such file" in str(done.exception)


def test_bytes_are_refused_another_range(tmp_path):
    path = write(tmp_path / "bytes.onnx", kind=BYTES)
    with pytest.raises(UsageError, match="it takes bytes, and gets them"):
        load_target(str(path), rbfbench.load_data("digits").head(8), CPU, options=LoadOptions(input_range=(0.0, 255.0)))


def test_another_file_is_another_model_however_sure_both_are(tmp_path):
    """Answers that differ far behind the point: what a resumed run would take for the same."""
    images = rbfbench.load_data("digits").head(8)
    path = write(tmp_path / "model.onnx")
    first = load_target(str(path), images, CPU).fingerprint(images)
    assert load_target(str(path), images, CPU).fingerprint(images) == first
    model = onnx.load(path)
    bias = next(tensor for tensor in model.graph.initializer if tensor.name == "bias")
    bias.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(bias) + np.float32(1e-5), "bias"))
    onnx.save(model, path)
    assert load_target(str(path), images, CPU).fingerprint(images) != first


def test_sure_models_that_show_no_weights_are_told_apart():
    images = rbfbench.load_data("digits").head(8)

    def sure(shift: float) -> Target:
        def model(x: torch.Tensor) -> torch.Tensor:
            return (x.flatten(1)[:, :10] + torch.linspace(60, -60, 10) + shift * x.flatten(1)[:, 10:20]).softmax(1)

        return inspect(model, "m", images, CPU)

    first, second = sure(0.0), sure(0.05)
    x, _ = images.batch(0, 8)
    assert torch.equal(first.model(x).round(decimals=2), second.model(x).round(decimals=2))
    assert first.fingerprint(images) != second.fingerprint(images)


def test_gradients_do_not_reach_the_image(tmp_path):
    model = OnnxModel(write(tmp_path / "model.onnx"), CPU)
    assert not model(torch.rand(2, 1, 8, 8, requires_grad=True)).requires_grad
