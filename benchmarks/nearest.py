"""Surrogates that know the front of rcnn+ only: whose reconstructions an image's own lies nearest to.

Adversarial examples of them steer the reconstruction towards those of another class, and away from those of its own
(arXiv 1511.05122, on the representation that the defence puts in front of its classifier): if the front kept images on
the manifold of their class, as the paper says, there would be nowhere to go.

Usage: rbfbench attack --attack transfer --surrogate benchmarks/nearest.py:mnist ...
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

import rbfbench
from rbfbench.data import load_training
from rbfbench.data.catalogue import default_root
from rbfbench.defenses.rbfcnn import RBFCNN

REFERENCES = 2000  # the first training images


class NearestReconstruction(nn.Module):
    """Logits: minus the squared l2 distance of the noise-free reconstruction to the nearest one of each class.

    Args:
        defence: Whose front it is.
        x: Reference images (N, C, H, W) in [0,1], some of every class.
        y: (N,) their classes.
    """

    def __init__(self, defence: RBFCNN, x: Tensor, y: Tensor) -> None:
        super().__init__()
        self.defence = defence
        with torch.no_grad():
            seen = torch.cat([defence.front_static(part).flatten(1) for part in x.split(100)])
        for name, tensor in {"references": seen, "classes": y}.items():
            self.register_buffer(name, tensor)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, classes) of images (N, C, H, W)."""
        flat = self.defence.front_static(x).flatten(1)
        squared = flat.square().sum(1, keepdim=True) - 2 * flat @ self.references.T + self.references.square().sum(1)
        classes = range(int(self.classes.max()) + 1)
        return -torch.stack([squared[:, self.classes == label].amin(1) for label in classes], dim=1)


def of(dataset: str) -> nn.Module:
    """The surrogate of a data set's rcnn+."""
    defence = rbfbench.load_model("rcnn+", dataset)
    images, _ = load_training(dataset, data_root=default_root())
    return NearestReconstruction(defence, *images.batch(0, min(REFERENCES, len(images))))


def mnist() -> nn.Module:
    """The surrogate for MNIST."""
    return of("mnist")


def cifar10() -> nn.Module:
    """The surrogate for CIFAR-10."""
    return of("cifar10")
