"""What a run will cost, where the model that is looked at for it fails: the run says what is wrong, or nothing is."""

from __future__ import annotations

import json

import pytest

from rbfbench.errors import IncompleteError, ModelError

HEAD = """
import torch
from torch import nn
from rbfbench import load_model

class Plain(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = load_model("cnn", "digits")

    def forward(self, x):
        return self.net(x)
"""

FEW_ROWS = """
class Model(Plain):
    def forward(self, x):
        if len(x) > 3 and torch.is_grad_enabled():
            raise torch.OutOfMemoryError("tried to allocate too much")
        return super().forward(x)
"""

NO_WAY_BACK = """
class Identity(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, upstream):
        raise ValueError("no gradients today")

class Model(Plain):
    def forward(self, x):
        return super().forward(Identity.apply(x))
"""

TALKING = """
class Model(Plain):
    def forward(self, x):
        print("hello")
        return super().forward(x)
"""


@pytest.fixture
def attack(here, tmp_path):
    """Attack a model of this code, on digits."""

    def run(code: str, *arguments: str):
        (tmp_path / "mine.py").write_text(HEAD + code)
        start = ("attack", "--model", "mine.py:Model", "--dataset", "digits", "--device", "cpu", "--eps", "0.1")
        return here(*start, "--limit", "12", "--attack", "fgsm", *arguments)

    return run


def test_a_model_that_fits_few_rows_is_attacked_in_smaller_batches(attack):
    done = attack(FEW_ROWS, "--json", "-")
    assert done.exit_code == 0, done.exception
    run = json.loads(done.stdout)
    assert run["status"] == "complete"
    assert run["attacks"][0]["attacked"] > 3
    assert "no estimate of the cost: OutOfMemoryError: tried to allocate too much" in done.stderr


def test_a_model_that_fails_on_the_way_back_is_recorded_as_unknown(attack):
    done = attack(NO_WAY_BACK, "--json", "-")
    assert isinstance(done.exception, IncompleteError)
    run = json.loads(done.stdout)
    assert run["status"] == "partial"
    assert run["attacks"][0]["unknown"] == run["clean"]["k"] > 0
    assert any("no gradients today" in check["detail"] for check in run["checks"])
    assert "no estimate of the cost: ValueError: no gradients today" in done.stderr


LATE = """
class Stop(torch.autograd.Function):
    looks = 0

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, upstream):
        Stop.looks += 1
        if Stop.looks > 12:
            raise ValueError("no more")
        return upstream

class Model(Plain):
    def forward(self, x):
        return super().forward(Stop.apply(x))
"""


def test_images_that_a_crash_left_undecided_are_no_sign_of_misleading_gradients(attack):
    done = attack(LATE, "--attack", "pgd", "--json", "-")
    run = json.loads(done.stdout)
    assert [row["unknown"] > 0 for row in run["attacks"]] == [False, True]
    assert run["attacks"][0]["k"] < run["clean"]["k"]
    assert "single-step-stronger" not in {check["code"] for check in run["checks"] if check["fired"]}


def test_a_dry_run_that_cannot_answer_says_so(attack):
    done = attack(FEW_ROWS, "--dry-run")
    assert isinstance(done.exception, ModelError)
    assert "tried to allocate too much" in str(done.exception)
    assert done.stdout == ""


def test_what_a_model_prints_while_it_is_timed_stays_out_of_the_results(attack):
    done = attack(TALKING, "--json", "-")
    assert done.exit_code == 0, done.exception
    assert json.loads(done.stdout)["status"] == "complete"
    assert "hello" in done.stderr
