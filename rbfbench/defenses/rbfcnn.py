"""RBF-CNN: a classifier behind the RBF and reconstruction layers (arXiv 2004.02183)."""

from __future__ import annotations

import math

from torch import Tensor, nn

from rbfbench.defenses.rbf import Keys, RBFConfig, RBFReconstruction


class RBFCNN(nn.Module):
    """A purifying defence: `classify(front(x, keys))`, decided by the mean of m noisy runs.

    Args:
        reconstruction: The noisy front.
        classifier: Net from reconstructed images to logits.
    """

    def __init__(self, reconstruction: RBFReconstruction, classifier: nn.Module) -> None:
        super().__init__()
        self.reconstruction = reconstruction
        self.classifier = classifier

    @property
    def config(self) -> RBFConfig:
        """The constants in force; assign a `dataclasses.replace` of it to change them at run time."""
        return self.reconstruction.config

    @config.setter
    def config(self, config: RBFConfig) -> None:
        self.reconstruction.config = config

    @property
    def stochastic(self) -> bool:
        """Whether two decisions on the same image can differ: not when its m draws are constants of the model."""
        return self.config.beta2 > 0 and self.config.noise_scope != "model"

    def front(self, x: Tensor, keys: Keys | None = None, *, draws: int = 1) -> Tensor:
        """Noisy reconstructions (N * draws, C, H, W), as `RBFReconstruction.forward`."""
        images: Tensor = self.reconstruction(x, keys, draws=draws)
        return images

    def front_static(self, x: Tensor) -> Tensor:
        """Reconstructions (N, C, H, W) with every draw at its mean: what a static attack sees."""
        return self.reconstruction.static(x)

    def classify(self, images: Tensor) -> Tensor:
        """Logits of reconstructed images."""
        logits: Tensor = self.classifier(images)
        return logits

    def decide(self, x: Tensor, keys: Keys | None = None) -> Tensor:
        """Log of the mean probability over m runs (Eq. 5), (N, n_classes).

        Args:
            x: Images (N, C, H, W).
            keys: N * m rows, image by image; without them the noise is fresh (or the model's own m draws).
        """
        draws = len(keys) // len(x) if keys and len(x) else self.config.m if self.config.beta2 > 0 else 1
        runs = self.classify(self.front(x, keys, draws=draws)).log_softmax(dim=1)
        return runs.view(len(x), draws, runs.shape[1]).logsumexp(dim=1) - math.log(draws)

    def forward(self, x: Tensor) -> Tensor:
        """The decision with fresh noise; in training mode, logits of the noise-free reconstruction."""
        return self.classify(self.front_static(x)) if self.training else self.decide(x)
