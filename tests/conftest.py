"""What all tests share: every device there is, one thread, and no full data sets but those the machine names."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch: two workers and their subprocesses share the cores

from collections.abc import Iterator

import pytest
import torch

from rbfbench.precision import full_precision


@pytest.fixture(params=["cpu", "cuda"])
def device(request: pytest.FixtureRequest) -> Iterator[torch.device]:
    """Each device that is there; convolutions are exact and repeat themselves, as while a model is judged."""
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    with full_precision():
        yield torch.device(request.param)
