"""Optimiser and learning rate of a schedule."""

from __future__ import annotations

import math
from collections.abc import Callable

from torch import nn
from torch.optim import SGD, Adam, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from rbfbench.training.recipes import Schedule


def optimizer_of(schedule: Schedule, model: nn.Module, steps: int) -> tuple[Optimizer, LambdaLR]:
    """The optimiser of a model and its learning rate, stepped once a step; `steps` are those of one epoch."""
    if schedule.optimizer == "adam":
        adam = Adam(model.parameters(), lr=schedule.lr, eps=1e-7)
        return adam, LambdaLR(adam, learning_rate(schedule, steps))
    decaying = _kernels(model) if schedule.decay_on == "kernels" else {id(p) for p in model.parameters()}
    groups = [
        {"params": [p for p in model.parameters() if (id(p) in decaying) == decays], "weight_decay": amount}
        for decays, amount in ((True, schedule.weight_decay), (False, 0.0))
    ]
    used = [group for group in groups if group["params"]]
    sgd = SGD(used, lr=schedule.lr, momentum=schedule.momentum, nesterov=schedule.momentum > 0)
    return sgd, LambdaLR(sgd, learning_rate(schedule, steps))


def _kernels(model: nn.Module) -> set[int]:
    layers = [module for module in model.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    return {id(layer.weight) for layer in layers[:-1]}


def learning_rate(schedule: Schedule, steps: int) -> Callable[[int], float]:
    """Share of the peak learning rate at each step; `steps` are those of one epoch."""
    total = schedule.epochs * steps
    if schedule.policy == "cosine":
        return lambda step: 0.5 * (1 + math.cos(math.pi * step / total))
    if schedule.policy == "cycle":
        peak = 0.2 * total
        return lambda step: min((step + 1) / peak, max(0.0, (total - step) / (total - peak)))

    def halving(step: int) -> float:
        lr = schedule.lr * 0.5 ** (step // steps // schedule.halve_every)
        if lr < schedule.lr_least:
            lr = schedule.lr_least if schedule.lr_then is None else schedule.lr_then
        return lr / schedule.lr / (1 + schedule.fade * step)

    return halving
