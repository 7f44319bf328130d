"""How many rows fit in memory."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from rbfbench.attacks.rng import Keys
from rbfbench.errors import RbfbenchError
from rbfbench.evaluation.target import Target

SHARE = 0.25  # of the free memory: gradients and temporaries need about as much again as what autograd keeps
# More rows gain no speed on the nets measured, and make progress coarse: on an H200, an attack on MNIST's rcnn+ took
# 3.4 s at 256 rows, 1.5 s at 2,048 and 1.7 s at 8,192.
LARGEST, LARGEST_ON_CUDA = 256, 2048


def free_bytes(device: torch.device) -> int:
    """Free memory of the device, in bytes."""
    if device.type == "cuda":
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)  # by torch, for what comes next
        return torch.cuda.mem_get_info(device)[0] + kept
    meminfo = Path("/proc/meminfo")
    if meminfo.is_file():
        lines = dict(line.split(":") for line in meminfo.read_text(encoding="ascii").splitlines())
        return int(lines["MemAvailable"].split()[0]) * 1024
    return 2 * 2**30  # systems that do not tell


def choose_batch_size(target: Target, x: Tensor) -> int:
    """Rows for one pass with gradients, from what autograd keeps of one image (1, C, H, W) and the free memory.

    A power of two: what a random model that takes no keys draws depends on the batch, which must not follow every
    change of the free memory.
    """
    kept = 0

    def count(tensor: Tensor) -> Tensor:
        nonlocal kept
        kept += tensor.numel() * tensor.element_size()
        return tensor

    view = next((view for name, view in target.views.items() if name != "none"), None)  # the first with gradients
    if view:
        keys = Keys.of(["one image"], 0) if view.noisy else None
        try:
            with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor), torch.enable_grad():
                view.forward(x.clone().requires_grad_(), keys)
        except RbfbenchError:
            raise
        except Exception:  # noqa: S110  (whatever a foreign model raises with gradients is for the attack to record)
            pass
    kept = max(kept, 64 * x.numel() * x.element_size())
    largest = LARGEST_ON_CUDA if target.device.type == "cuda" else LARGEST
    fitting = max(1, min(largest, int(SHARE * free_bytes(target.device) / kept)))
    return 1 << fitting.bit_length() - 1


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, on any device."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    # What torch says of a processor's memory depends on the system: the second is Linux's.
    said = ("not enough memory", "can't allocate memory")
    return isinstance(error, RuntimeError) and any(words in str(error) for words in said)
