"""`rbfbench ls`: for which data sets a model is shipped is read from the weights themselves."""

from __future__ import annotations

import pytest
import torch
from click.testing import CliRunner

from rbfbench.cli import cli
from rbfbench.data import DATASETS, load_data
from rbfbench.defenses import SHIPPED, WEIGHTS, shipped_for
from rbfbench.errors import UsageError
from rbfbench.evaluation.loading import load_target


def test_models_are_listed_with_the_data_sets_that_they_are_shipped_for():
    done = CliRunner().invoke(cli, ["ls", "models"], terminal_width=100)
    assert done.exit_code == 0
    rows = {line.split()[0]: line for line in done.output.splitlines() if line.split()}
    for name in SHIPPED:
        there = [dataset for dataset in sorted(DATASETS) if (WEIGHTS / f"{dataset}-{name}.safetensors").is_file()]
        assert " ".join(there) in rows[name]
        assert not [dataset for dataset in DATASETS if dataset not in there and dataset in rows[name]]


def test_weights_are_those_of_a_listed_model_and_data_set_and_have_a_card():
    for path in WEIGHTS.iterdir():
        dataset, _, name = path.stem.partition("-")
        assert name in SHIPPED
        assert dataset in shipped_for(name)
        assert path.with_suffix(".md").is_file()
        assert path.with_suffix(".safetensors").is_file()
        assert path.stat().st_size < 5e6


def test_a_model_that_is_not_shipped_for_a_data_set_says_for_which_it_is(monkeypatch):
    monkeypatch.setattr("rbfbench.evaluation.loading.shipped_path", lambda *_: None)
    monkeypatch.setattr("rbfbench.evaluation.loading.shipped_for", lambda _: ["mnist", "digits"])
    with pytest.raises(
        UsageError, match=r"^there is no shipped 'cnn-ls' for digits: it is shipped for mnist, digits; "
    ):
        load_target("cnn-ls", load_data("digits"), torch.device("cpu"))
