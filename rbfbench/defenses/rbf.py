"""The RBF layer and the reconstruction layer of RBF-CNN (Nandy, Hsu, Lee, arXiv 2004.02183, section III).

An image is cut into overlapping patches, each patch is matched with every filter, and rebuilt as the weighted mean of
patches drawn around the filter means. Nothing here is learnt by back-propagation: `em.py` finds the filters.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Literal, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rbfbench.defenses.mixing import mix, prepared
from rbfbench.errors import ModelError, UsageError, unknown_name

NoiseScale = Literal["variance", "sigma", "sqrt"]
NoiseScope = Literal["model", "image", "patch"]

NOISE_STD: dict[str, Callable[[Tensor, float], Tensor]] = {
    "variance": lambda variance, beta2: beta2 * variance,
    "sigma": lambda variance, beta2: beta2 * variance.sqrt(),
    "sqrt": lambda variance, beta2: (beta2 * variance.sqrt()).sqrt(),
}

# Pixels and means are centred here before they are multiplied: |z|^2 + |mu|^2 - 2<z,mu> then cancels less in float32.
CENTRE = 0.5

# A gate lies in [0,1] with steps of 6e-8 in float32: times more than this, two equal matches differ by whole exponents.
SHARPEST = 1e6


class Keys(Protocol):
    """One key a row; equal keys give equal noise, whatever the batch (`rbfbench.attacks.rng.Keys` is one)."""

    def __len__(self) -> int:
        """Number of rows."""

    def normal(self, shape: tuple[int, ...], like: Tensor) -> Tensor:
        """Standard normal noise (rows, *shape) with the dtype and device of `like`."""


@dataclass(frozen=True, kw_only=True)
class RBFConfig:
    """Every constant of the two layers.

    Attributes:
        beta1: Sharpness of the weights at test time (before Eq. 4).
        beta1_train: Sharpness while the classifier is trained.
        beta2: Noise level of Eq. 4; 0 switches the noise off.
        m: Runs averaged for one decision (Eq. 5).
        base: Base of the exponential that turns gates into weights: the authors' code uses 2, the paper says e.
        log2pi: Keep the constant -log(2 pi)/2 of Eq. 2, which the authors' code drops.
        var_floor: Lower bound on a filter's variance. Filters of (almost) no variance are exact-equality detectors,
            through which no gradient and no bound is meaningful.
        noise_scale: Standard deviation of Eq. 4 is beta2 * sigma^2 (`variance`, the authors' code), beta2 * sigma
            (`sigma`), or sqrt(beta2 * sigma) (`sqrt`, Eq. 4 read as a covariance).
        noise_scope: Whom a draw belongs to: `model` (draw j is one constant, the same for every image and call, as
            in the authors' scripts), `image` (fresh for each image and draw), or `patch` (fresh for each patch, too).
        clip: Clamp the reconstruction to [0,1], as the authors' test scripts do.
    """

    beta1: float = 25.0
    beta1_train: float = 25.0
    beta2: float = 1.75
    m: int = 10
    base: float = 2.0
    log2pi: bool = False
    var_floor: float = 1e-3
    noise_scale: NoiseScale = "variance"
    noise_scope: NoiseScope = "image"
    clip: bool = True

    def __post_init__(self) -> None:
        """Refuse values that have no meaning (`UsageError`)."""
        for name in ("beta1", "beta1_train", "beta2", "var_floor"):
            value = getattr(self, name)
            if not (isinstance(value, Real) and math.isfinite(value) and float(value) >= 0):
                raise UsageError(
                    f"{name} = {value!r} cannot be used", "it must be finite and >= 0", "give such a number"
                )
        if not (math.isfinite(self.base) and self.base > 1):
            raise UsageError(
                f"base = {self.base} cannot be used", "better matches would not weigh more", "give a number above 1"
            )
        for name in ("beta1", "beta1_train"):
            if (value := getattr(self, name)) * math.log(self.base) > SHARPEST:
                raise UsageError(
                    f"{name} = {value} cannot be used",
                    f"above {SHARPEST / math.log(self.base):.3g} the exponents are no numbers of float32 any more",
                    "give a smaller one; at a few hundred the weights are a hard choice already",
                )
        if not (isinstance(self.m, Integral) and self.m >= 1):
            raise UsageError(
                f"m = {self.m!r} cannot be used", "a decision averages at least one run, a whole number", "give m >= 1"
            )
        if self.noise_scale not in NOISE_STD:
            raise unknown_name("noise scale", self.noise_scale, NOISE_STD)
        if self.noise_scope not in ("model", "image", "patch"):
            raise unknown_name("noise scope", self.noise_scope, ("model", "image", "patch"))


# `paper` is the text read literally where it is definite, `authors` is their code as it was scored (fixed noise draws),
# `default` departs where text or code would mislead the benchmark: no train/test mismatch in beta1, and no filter
# whose variance is zero.
PRESETS: dict[str, RBFConfig] = {
    "default": RBFConfig(),
    "paper": RBFConfig(base=math.e, log2pi=True, var_floor=1e-20, noise_scale="sqrt", clip=False),
    "authors": RBFConfig(beta1_train=125.0, var_floor=1e-20, noise_scope="model"),
}


class RBFReconstruction(nn.Module):
    """Replace every image by its reconstruction from RBF filters.

    Args:
        means: Filter means (K, C, h, w), pixels in [0,1].
        variances: (K,) sigma^2 of Eq. 3: the mean squared distance of a filter's patches from its mean.
        config: The constants; `dataclasses.replace` on `.config` changes them on a trained model.

    Raises:
        ModelError: Filters of inconsistent shape, not finite, or of negative variance.
    """

    def __init__(self, means: Tensor, variances: Tensor, config: RBFConfig = PRESETS["default"]) -> None:
        super().__init__()
        if means.ndim != 4 or variances.shape != means.shape[:1] or len(means) == 0:
            raise ModelError(
                "these RBF filters cannot be used",
                f"means {tuple(means.shape)} and variances {tuple(variances.shape)} are not (K,C,h,w) and (K,), K > 0",
                "fit the filters again",
            )
        if not (torch.isfinite(means).all() and torch.isfinite(variances).all() and (variances >= 0).all()):
            raise ModelError(
                "these RBF filters cannot be used", "a mean or variance is not finite, or negative", "fit them again"
            )
        self.means: Tensor
        self.variances: Tensor
        self.register_buffer("means", means.clone())
        self.register_buffer("variances", variances.clone())
        self.config = config

    def variances_in_force(self) -> Tensor:
        """(K,) sigma^2, raised to `var_floor`."""
        return self.variances.clamp(min=max(self.config.var_floor, torch.finfo(self.variances.dtype).tiny))

    def patches(self, x: Tensor) -> Tensor:
        """Centred patches (N, L, n) of images (N, C, H, W); L patches, n = C*h*w pixels each."""
        _, channels, *window = self.means.shape
        if x.ndim != 4 or x.shape[1] != channels or x.shape[2] < window[0] or x.shape[3] < window[1]:
            raise ModelError(
                "the images do not fit the RBF filters",
                f"images are {tuple(x.shape)}, filters take (N,{channels},>={window[0]},>={window[1]})",
                "give images of the data set that the filters were fitted on",
            )
        return F.unfold(x - CENTRE, tuple(window)).transpose(1, 2)

    def scores(self, patches: Tensor) -> Tensor:
        """Match scores (N, L, K) of centred patches: Eq. 2, with or without its constant."""
        variance = self.variances_in_force()
        means = (self.means - CENTRE).flatten(1)
        distance = (patches.square().sum(-1, keepdim=True) + means.square().sum(1) - 2 * patches @ means.T).clamp(min=0)
        constant = 0.5 * math.log(2 * math.pi) if self.config.log2pi else 0.0
        return -distance / (2 * variance) - 0.5 * variance.log() - constant

    def weights(self, patches: Tensor) -> Tensor:
        """Weights (N, L, K), summing to 1 over filters: softmax of beta1 * ln(base) * sigmoid(score)."""
        return torch.softmax(self._sharpness() * torch.sigmoid(self.scores(patches)), dim=-1)

    def _sharpness(self) -> float:
        beta1 = self.config.beta1_train if self.training else self.config.beta1
        return beta1 * math.log(self.config.base)

    def _mix(self, x: Tensor, samples: Tensor, squares: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """`mixing.mix` of the patches of images with samples (N or 1, K, D, h, w)."""
        filters = prepared((self.means - CENTRE).flatten(1), self.variances_in_force(), log2pi=self.config.log2pi)
        rows = x.shape[2] - self.means.shape[2] + 1
        return mix(self.patches(x), filters, samples, squares, sharpness=self._sharpness(), rows=rows)

    def _image(self, sums: Tensor) -> Tensor:
        """Images (N, C, H, W) from the sums of their centred patches: the mean where patches overlap, Eq. 4."""
        size, window = tuple(sums.shape[2:]), tuple(self.means.shape[2:])
        ones = torch.ones(1, 1, *size, dtype=sums.dtype, device=sums.device)
        count = F.fold(F.unfold(ones, window), size, window)
        images = sums / count + CENTRE
        return images.clamp(0, 1) if self.config.clip else images

    def stitch(self, patches: Tensor, size: tuple[int, int]) -> Tensor:
        """Images (N, C, *size) from centred patches (N, L, n)."""
        return self._image(F.fold(patches.transpose(1, 2), size, tuple(self.means.shape[2:])))

    def static(self, x: Tensor) -> Tensor:
        """Reconstruction (N, C, H, W) without noise: every draw of Eq. 4 replaced by the filter mean."""
        return self._image(self._mix(x, (self.means - CENTRE)[None])[0])

    def forward(self, x: Tensor, keys: Keys | None = None, *, draws: int = 1) -> Tensor:
        """Noisy reconstructions, all draws of an image sharing one computation of its weights.

        Args:
            x: Images (N, C, H, W) in [0,1].
            keys: draws * N rows, row i * draws + j keying draw j of image i; without them the noise is fresh. With
                `noise_scope` model only their number counts: draw j of every image has the model's noise j.
            draws: Draws for each image when there are no keys.

        Returns:
            (N * draws, C, H, W), in the rows' order. The noise is added to the means (Eq. 4), so the map is
            differentiable in x and exact for the drawn noise.
        """
        if len(x) == 0:
            return self.static(x)
        if self.config.beta2 == 0:
            rows = len(keys) // len(x) if keys is not None else draws
            return self.static(x).repeat_interleave(rows, dim=0)
        rows = len(x) * draws if keys is None else len(keys)
        draws = rows // len(x)
        means = self.means - CENTRE
        std = NOISE_STD[self.config.noise_scale](self.variances_in_force(), self.config.beta2)
        if self.config.noise_scope == "patch":
            # A weighted sum of independent normals is normal: draw it for the patch, not for each filter.
            sums, variance = self._mix(x, means[None], std.square()[:, None])
            spread = variance.clamp(min=1e-24).sqrt().repeat_interleave(draws, dim=0)
            noise = spread * self._noise(keys, rows, (spread.shape[1], means[0].numel()), x)
            scattered = F.fold(noise.transpose(1, 2), (x.shape[2], x.shape[3]), tuple(means.shape[2:]))
            return self._image(sums.repeat_interleave(draws, dim=0) + scattered)
        shape = tuple(means.flatten(1).shape)
        noise = self._model_noise(draws, x) if self.config.noise_scope == "model" else self._noise(keys, rows, shape, x)
        samples = means + std[:, None, None, None] * noise.view(-1, *means.shape)
        # (N or 1, K, draws * C, h, w): all draws of an image share its weights.
        stacked = samples.view(-1, draws, *means.shape).transpose(1, 2).flatten(2, 3)
        sums, _ = self._mix(x, stacked)
        return self._image(sums.view(rows, -1, *sums.shape[2:]))

    def _model_noise(self, draws: int, like: Tensor) -> Tensor:
        """The constant noise (draws, K, n) of `noise_scope` model; the authors' scripts fix ten draws by one seed."""
        shape = tuple(self.means.flatten(1).shape)
        noise = [np.random.Generator(np.random.Philox(key=draw)).standard_normal(shape) for draw in range(draws)]
        return torch.from_numpy(np.stack(noise)).to(like)

    @staticmethod
    def _noise(keys: Keys | None, rows: int, shape: tuple[int, ...], like: Tensor) -> Tensor:
        if keys is None:
            return torch.randn((rows, *shape), dtype=like.dtype, device=like.device)
        return keys.normal(shape, like)
