"""Surrogates: rcnn+ with its narrowest filters widened and without noise, whose gradients are smoother than its own.

Usage: rbfbench attack --attack transfer --surrogate benchmarks/smoothed.py:mnist ...
"""

from __future__ import annotations

from torch import nn

import rbfbench

FLOOR = 0.03  # of the variances; that of the shipped models is 0.001


def mnist() -> nn.Module:
    """The surrogate for MNIST."""
    return rbfbench.load_model("rcnn+", "mnist", var_floor=FLOOR, beta2=0.0)


def cifar10() -> nn.Module:
    """The surrogate for CIFAR-10."""
    return rbfbench.load_model("rcnn+", "cifar10", var_floor=FLOOR, beta2=0.0)
