"""Arithmetic that is as exact as float32 is, and repeats itself: what models are judged in."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


@contextmanager
def full_precision() -> Iterator[None]:
    """Convolutions and products in float32 throughout, and on CUDA the same each time.

    TF32, torch's default for convolutions on CUDA, keeps three digits of their factors.
    """
    cudnn: Any = torch.backends.cudnn
    wanted: list[tuple[Any, str, Any]] = [(cudnn, "deterministic", True), (cudnn, "benchmark", False)]
    try:
        products = torch.get_float32_matmul_precision()
        wanted += [(cudnn, "allow_tf32", False)] if cudnn.allow_tf32 else []
    except RuntimeError:  # the newer settings are in use, and torch refuses to mix them
        products = "highest"
        parts = (cudnn.conv, cudnn.rnn, torch.backends.cuda.matmul)
        wanted += [(part, "fp32_precision", "ieee") for part in parts]
    before = [(part, name, getattr(part, name)) for part, name, _ in wanted]
    try:
        for part, name, value in wanted:
            setattr(part, name, value)
        if products != "highest":
            torch.set_float32_matmul_precision("highest")
        yield
    finally:
        for part, name, value in before:
            setattr(part, name, value)
        if products != "highest":
            torch.set_float32_matmul_precision(products)
