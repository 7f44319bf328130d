"""An RBF-CNN as other libraries want a model: one callable, whose gradient is the view that the attacker takes."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from rbfbench.attacks.bpda import with_gradient_of
from rbfbench.attacks.table import AVERAGING
from rbfbench.defenses.rbfcnn import RBFCNN
from rbfbench.errors import UsageError, unknown_name

GRADIENTS = ("static", "eot", "bpda", "bpda-eot")


class Viewed(nn.Module):
    """Decides by m noisy runs; where a gradient is asked for, computes what the view shows.

    Noise is fresh in every call, from torch's global generator.

    Args:
        model: The defence.
        view: "static" (noise off), "eot" (exact gradient of the mean probability), "bpda" (forward through one draw,
            backward as if there were none) or "bpda-eot" (the same over several).
        draws: Draws averaged in each look of "eot" and "bpda-eot".

    Raises:
        UsageError: There is no such view, or fewer than one draw.
    """

    def __init__(self, model: RBFCNN, view: str = "eot", draws: int = 20) -> None:
        super().__init__()
        if view not in GRADIENTS:
            raise unknown_name("view", view, GRADIENTS)
        if draws < 1:
            raise UsageError(f"draws = {draws} averages nothing", "a view needs noise", "give at least 1")
        self.model = model
        self.view = view
        self.draws = draws if view in AVERAGING else 1

    def forward(self, x: Tensor) -> Tensor:
        """Log of the mean probability, (N, classes), of images (N, C, H, W) in [0,1]."""
        model = self.model
        x = x.to(model.reconstruction.means.dtype)  # some of ART's attacks come with float64
        if self.training or not (torch.is_grad_enabled() and x.requires_grad):
            decision: Tensor = model(x)
            return decision
        if self.view == "static" or model.config.beta2 == 0:
            return model.classify(model.front_static(x)).log_softmax(dim=1)
        if self.view == "eot":
            images = model.front(x, draws=self.draws)
        else:
            with torch.no_grad():
                noisy = model.front(x, draws=self.draws)
            images = with_gradient_of(noisy, model.front_static(x).repeat_interleave(self.draws, dim=0))
        runs = model.classify(images).log_softmax(dim=1).view(len(x), self.draws, -1)
        return runs.logsumexp(dim=1) - math.log(self.draws)
