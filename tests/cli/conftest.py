"""What tests of commands share."""

from __future__ import annotations

import pytest
from click.testing import CliRunner, Result

from rbfbench.cli import cli


@pytest.fixture
def here(tmp_path, monkeypatch):
    """Run rbfbench in this process, in an empty folder and without full data sets."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RBFBENCH_DATA_ROOT", str(tmp_path / "no-data"))

    def run(*arguments: str) -> Result:
        return CliRunner().invoke(cli, list(arguments))

    return run
