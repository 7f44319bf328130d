"""How many rows fit in memory."""

from __future__ import annotations

import os

import torch
from torch import Tensor

from rbfbench.evaluation.target import Target

SHARE = 0.25  # of the free memory: gradients and temporaries need about as much again as what autograd keeps
LARGEST = 256  # more rows gain no speed on the nets measured, and make progress coarse


def free_bytes(device: torch.device) -> int:
    """Free memory of the device, in bytes."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError, AttributeError):  # systems that do not tell
        return 2 * 2**30


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
    return max(1, min(LARGEST, int(SHARE * free_bytes(target.device) / kept)))


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, on any device."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and "not enough memory" in str(error)
