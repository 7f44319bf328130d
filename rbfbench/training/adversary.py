"""Adversarial examples made anew in each step of a training, and the losses that they are trained on."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rbfbench.attacks.norms import NORMS
from rbfbench.attacks.rng import Keys
from rbfbench.training.recipes import Adversary

NEAR = 0.001  # standard deviation of the start of TRADES: where it begins, its divergence has no gradient


def adversarial(model: nn.Module, x: Tensor, y: Tensor, adversary: Adversary, keys: Keys) -> Tensor:
    """Images (N, C, H, W) in the ball around x, and in [0,1], that the model in eval mode does worst on.

    Gradient ascent on the cross-entropy (arXiv 1706.06083, Eq. 2.1; one step from a random start: arXiv 2001.03994), or
    with `adversary.beta` on the divergence from the answers to the clean images (TRADES, arXiv 1901.08573, Eq. 5).

    Args:
        model: In training; its mode is put back.
        x: Images in [0,1].
        y: (N,) classes.
        adversary: How.
        keys: (N,) keys of the starts.
    """
    geometry, eps = NORMS[adversary.norm], adversary.eps
    training = model.training
    model.eval()
    # In bfloat16 the divergence at a start so near is lost to rounding, and the walk has no gradient to follow.
    precise = torch.autocast(x.device.type, enabled=False) if adversary.beta is not None else nullcontext()
    if adversary.beta is None:
        objective: Callable[[Tensor], Tensor] = lambda logits: F.cross_entropy(logits, y, reduction="sum")  # noqa: E731
        start = geometry.start(keys, x, eps)
    else:
        with torch.no_grad(), precise:
            clean = model(x).softmax(1)
        objective = lambda logits: F.kl_div(logits.log_softmax(1), clean, reduction="sum")  # noqa: E731
        start = NEAR * keys.normal(tuple(x.shape[1:]), x)
    x_adv = x + geometry.project(x, start, eps)
    for _ in range(adversary.steps):
        leaf = x_adv.detach().requires_grad_()
        with precise:
            (gradient,) = torch.autograd.grad(objective(model(leaf)), leaf)
        moved = x_adv - x + geometry.step(x_adv, gradient, adversary.step_size)
        x_adv = x + geometry.project(x, moved, eps)
    model.train(training)
    return x_adv.detach().clamp(0, 1)


def trades_loss(clean: Tensor, attacked: Tensor, targets: Tensor, beta: float) -> Tensor:
    """Cross-entropy on clean logits (N, classes) and beta times the divergence of attacked ones (1901.08573, Eq. 5)."""
    divergence = F.kl_div(attacked.log_softmax(1), clean.softmax(1), reduction="batchmean")
    return F.cross_entropy(clean, targets) + beta * divergence
