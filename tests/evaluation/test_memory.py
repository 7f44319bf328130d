"""How many rows fit in memory, and what says that they did not."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from rbfbench.data.images import Images
from rbfbench.evaluation import memory
from rbfbench.evaluation.memory import choose_batch_size, is_out_of_memory
from rbfbench.evaluation.target import inspect
from rbfbench.interop.defended import Defended


def images() -> Images:
    pixels = np.random.default_rng(0).integers(0, 256, (8, 6, 6, 1)).astype(np.uint8)
    labels = np.arange(8) % 2
    return Images(name="toy", source="", pixels=pixels, labels=labels, indices=labels, classes=("a", "b"))


def test_what_the_processor_says_when_memory_runs_out_is_recognised() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**50, dtype=torch.uint8)  # a petabyte: no machine has it, and none promises it
    assert is_out_of_memory(caught.value)


@pytest.mark.parametrize(
    ("error", "is_one"),
    [
        (
            RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"),
            True,
        ),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: not enough memory: you tried to allocate 8 bytes"), True),
        (torch.OutOfMemoryError("CUDA out of memory"), True),
        (MemoryError(), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (ValueError("can't allocate memory"), False),
    ],
)
def test_only_a_lack_of_memory_is_one(error: Exception, is_one: bool) -> None:
    assert is_out_of_memory(error) == is_one


class Wide(nn.Module):
    """Keeps at least 4 MB an image for the way back."""

    def forward(self, x: Tensor) -> Tensor:
        brightness = 20 * (x.flatten(1).mean(1) - 0.5)
        wide = brightness[:, None].expand(-1, 2**20).exp().mean(1)
        return torch.stack([-brightness, brightness + 0 * wide], 1)


class NoisyWide(Wide):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + torch.randn(len(x), 1)


@pytest.mark.parametrize(
    ("model", "view"), [(Wide(), "static"), (NoisyWide(), "eot"), (Defended(Wide(), lambda x: x), "bpda")]
)
def test_rows_are_counted_by_what_the_view_with_gradients_keeps(
    model: nn.Module, view: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "free_bytes", lambda device: 2**28)
    target = inspect(model, "toy", images(), torch.device("cpu"))
    assert view in target.views
    state = torch.get_rng_state()
    # A quarter of 256 MiB is 64 MiB, and 4 to 8 MiB are kept an image.
    assert choose_batch_size(target, images().batch(0, 1)[0]) in (8, 16)
    assert torch.equal(torch.get_rng_state(), state)


def test_memory_that_torch_keeps_for_later_is_free(device: torch.device) -> None:
    """A look that ran out of memory leaves all of it there."""
    if device.type != "cuda":
        pytest.skip("no memory is kept on a processor")
    torch.cuda.empty_cache()
    before = memory.free_bytes(device)
    torch.empty(2**30, dtype=torch.uint8, device=device)
    assert memory.free_bytes(device) > before - 2**29


def test_nearly_as_much_free_memory_gives_the_same_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else no run of a random model that takes no keys could be resumed: its draws depend on the batch."""
    target = inspect(NoisyWide(), "toy", images(), torch.device("cpu"))
    x = images().batch(0, 1)[0]
    rows = set()
    for free in (0.29e9, 0.3e9, 0.31e9):
        monkeypatch.setattr(memory, "free_bytes", lambda device, free=free: int(free))
        rows.add(choose_batch_size(target, x))
    assert len(rows) == 1


def test_a_model_that_raises_with_gradients_is_left_for_the_attack_to_record() -> None:
    class Fragile(Wide):
        def forward(self, x: Tensor) -> Tensor:
            if torch.is_grad_enabled():
                raise ValueError("no gradients today")
            return super().forward(x)

    target = inspect(Fragile(), "toy", images(), torch.device("cpu"))
    assert choose_batch_size(target, images().batch(0, 1)[0]) >= 1
