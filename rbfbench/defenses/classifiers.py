"""The classifiers that stand behind the RBF front, or alone."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn


class MnistCNN(nn.Module):
    """The paper's "4-layer CNN" (arXiv 2004.02183, section IV; layer sizes as in the authors' training script).

    Takes (N, 1, 28, 28) images in [0,1] and returns (N, n_classes) logits.
    """

    def __init__(self, n_classes: int = 10) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 32, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(32, 32, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(32, 64, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(64, 64, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
        )
        self.head = nn.Sequential(
            nn.Flatten(),
            nn.Linear(64 * 7 * 7, 200),
            nn.ReLU(),
            nn.Dropout(0.5),
            nn.Linear(200, 200),
            nn.ReLU(),
            nn.Linear(200, n_classes),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, n_classes) of images (N, 1, 28, 28)."""
        logits: Tensor = self.head(self.features(x))
        return logits


class DigitsCNN(nn.Module):
    """A net of 30,000 parameters for (N, 1, 8, 8) images: seconds to train, for tests and trials."""

    def __init__(self, n_classes: int = 10) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)
        )
        self.head = nn.Sequential(nn.Flatten(), nn.Linear(512, 48), nn.ReLU(), nn.Linear(48, n_classes))

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, n_classes) of images (N, 1, 8, 8)."""
        logits: Tensor = self.head(self.features(x))
        return logits


def _block(channels_in: int, channels_out: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_out, 3, padding=1, bias=False),
        nn.MaxPool2d(2),
        nn.BatchNorm2d(channels_out),
        nn.GELU(),
        nn.Conv2d(channels_out, channels_out, 3, padding=1, bias=False),
        nn.BatchNorm2d(channels_out),
        nn.GELU(),
    )


class SmallNet(nn.Module):
    """A convolutional net of 2.0 M parameters for (N, 3, 32, 32) images: the stand-in for VGG-16 on few cores.

    Three two-convolution blocks after an unpadded 2x2 stem, so that the maps shrink 31, 15, 7, 3, which suits a short
    one-cycle training (the layout is the one that speed-run nets use, arXiv 2404.00498; without their frozen stem).
    """

    def __init__(self, n_classes: int = 10) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 24, 2, bias=False), nn.BatchNorm2d(24), nn.GELU())
        self.blocks = nn.Sequential(_block(24, 64), _block(64, 256), _block(256, 256))
        self.pool = nn.MaxPool2d(3)
        self.head = nn.Linear(256, n_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, n_classes) of images (N, 3, 32, 32)."""
        logits: Tensor = self.head(self.pool(self.blocks(self.stem(x))).flatten(1))
        return logits


_VGG16 = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))  # a pool after each group


class VGG16(nn.Module):
    """The paper's VGG-16 (arXiv 2004.02183, section IV; 15 M parameters, layers as in the authors' training script).

    Convolution, ReLU, batch norm, and dropout before all but the last convolution of a group. Takes (N, 3, 32, 32)
    images in [0,1] and returns (N, n_classes) logits.
    """

    def __init__(self, n_classes: int = 10) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = 3
        for group in _VGG16:
            for position, width in enumerate(group):
                layers += [
                    nn.Conv2d(channels, width, 3, padding=1),
                    nn.ReLU(),
                    nn.BatchNorm2d(width, eps=1e-3, momentum=0.01),
                ]
                if position < len(group) - 1:
                    layers.append(nn.Dropout(0.3 if width == 64 else 0.4))
                channels = width
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        self.head = nn.Sequential(
            nn.Dropout(0.5),
            nn.Flatten(),
            nn.Linear(512, 512),
            nn.ReLU(),
            nn.BatchNorm1d(512, eps=1e-3, momentum=0.01),
            nn.Dropout(0.5),
            nn.Linear(512, n_classes),
        )
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, n_classes) of images (N, 3, 32, 32)."""
        logits: Tensor = self.head(self.features(x))
        return logits


CLASSIFIERS: dict[str, Callable[[int], nn.Module]] = {
    "mnist-cnn": MnistCNN,
    "small": SmallNet,
    "vgg16": VGG16,
    "digits-cnn": DigitsCNN,
}
