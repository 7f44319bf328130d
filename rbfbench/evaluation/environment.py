"""Where a run was made."""

from __future__ import annotations

import platform
import subprocess
from importlib.metadata import version
from pathlib import Path

import torch

from rbfbench.results.records import Environment


def describe_environment(device: torch.device) -> Environment:
    """Versions, device and threads of this process, and the commit if rbfbench runs from a checkout."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    return Environment(
        rbfbench=version("rbfbench"),
        python=platform.python_version(),
        torch=str(torch.__version__),
        device=f"{device.type} ({name})",
        threads=torch.get_num_threads(),
        git=_commit(),
    )


def _commit() -> str | None:
    root = Path(__file__).parents[2]
    if not (root / ".git").exists():
        return None
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=10)  # noqa: S603
    except (OSError, subprocess.TimeoutExpired):  # no git binary, or one that hangs: the commit is not known
        return None
    return done.stdout.strip() or None
