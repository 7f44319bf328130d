"""How many rows fit in memory."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from rbfbench.evaluation.target import Target

SHARE = 0.25  # of the free memory: gradients and temporaries need about as much again as what autograd keeps
# More rows gain no speed on the nets measured, and make progress coarse: on an H200, an attack on MNIST's rcnn+ took
# 3.4 s at 256 rows, 1.5 s at 2,048 and 1.7 s at 8,192.
LARGEST, LARGEST_ON_CUDA = 256, 2048


def free_bytes(device: torch.device) -> int:
    """Free memory of the device, in bytes."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    meminfo = Path("/proc/meminfo")
    if meminfo.is_file():
        lines = dict(line.split(":") for line in meminfo.read_text(encoding="ascii").splitlines())
        return int(lines["MemAvailable"].split()[0]) * 1024
    return 2 * 2**30  # systems that do not tell


def choose_batch_size(target: Target, x: Tensor) -> int:
    """Rows for one pass with gradients, from what autograd keeps of one image (1, C, H, W) and the free memory."""
    kept = 0

    def count(tensor: Tensor) -> Tensor:
        nonlocal kept
        kept += tensor.numel() * tensor.element_size()
        return tensor

    views = target.views
    if "static" in views:
        with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor), torch.enable_grad():
            views["static"].forward(x.clone().requires_grad_(), None)
    kept = max(kept, 64 * x.numel() * x.element_size())
    largest = LARGEST_ON_CUDA if target.device.type == "cuda" else LARGEST
    return max(1, min(largest, int(SHARE * free_bytes(target.device) / kept)))


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, on any device."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    # What torch says of a processor's memory depends on the system: the second is Linux's.
    said = ("not enough memory", "can't allocate memory")
    return isinstance(error, RuntimeError) and any(words in str(error) for words in said)
