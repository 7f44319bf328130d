"""Full precision, whatever of torch's settings are in force."""

from __future__ import annotations

import subprocess
import sys

import pytest

SETTINGS = [
    "",
    "new.fp32_precision = 'tf32'",
    "new.cudnn.conv.fp32_precision = 'ieee'",
    "new.cuda.matmul.fp32_precision = 'tf32'",
    "new.cudnn.enabled = False",
    "new.cudnn.benchmark = True",
    "new.cudnn.allow_tf32 = False",
    "torch.set_float32_matmul_precision('high')",
    "torch.set_float32_matmul_precision('medium')",
]


@pytest.mark.parametrize("given", SETTINGS)
def test_full_precision_holds_whatever_is_set_and_leaves_it_as_it_was(given: str) -> None:
    """In a process of its own: torch refuses to mix its older and newer settings once one of them is used."""
    program = f"""
import torch
from rbfbench.precision import full_precision
new = torch.backends
{given}
def products():
    try:
        return torch.get_float32_matmul_precision()
    except RuntimeError:
        return "not by this name"
def now():
    parts = (new.cudnn.conv, new.cudnn.rnn, new.cuda.matmul)
    precisions = [part.fp32_precision for part in parts]
    return precisions, products(), new.cudnn.deterministic, new.cudnn.benchmark, new.cudnn.enabled
before = now()
with full_precision(), full_precision():
    precisions, by_name, deterministic, benchmark, enabled = now()
    assert not {{"tf32", "bf16"}} & set(precisions) and by_name in ("highest", before[1]), now()
    assert deterministic and not benchmark and enabled == before[-1], now()
assert now() == before, now()
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert not done.stderr, "and says nothing"
