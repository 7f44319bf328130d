"""Non-parametric expectation maximisation: how many RBF filters there are, and where (arXiv 2004.02183, section III).

The rule is the one of the authors' code, which the paper only sketches: patches are assigned to the filter of best
score (hard), those that no filter scores well become together at most one new filter an update, and the threshold for
"well" moves so that the number of filters settles near a wish.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from rbfbench.errors import ModelError, UsageError

REJECT_SCORE = -2.5  # match score under which a patch is badly explained, before alpha moves it
STEP_DOWN = 0.05  # what alpha loses in an update that needs no new filter


@dataclass(frozen=True, kw_only=True)
class EMConfig:
    """Constants of the fit.

    Attributes:
        wish: Number of filters at which the threshold stops falling.
        updates: E and M steps in all.
        freeze_after: Updates after which no filter is added any more.
        images_per_update: Images whose patches one update sees, taken in file order.
        patch_fraction: Share of their patches that is used; a few percent give the same filters as all of them.
        min_count: A filter survives an update with more than this many patches.
        min_share: Rejected patches found a filter when they are more than this share of all.
        window: Side of the square patches, in pixels.
        most: Number of filters at which the fit stops with an error: each costs time and memory in every pass.
    """

    wish: int
    updates: int = 501
    freeze_after: int = 501
    images_per_update: int = 750
    patch_fraction: float = 0.03
    min_count: int = 1
    min_share: float = 0.001
    window: int = 3
    most: int = 2000

    def __post_init__(self) -> None:
        """Refuse values that have no meaning (`UsageError`)."""
        for name in ("wish", "updates", "images_per_update", "window"):
            self._check(name, getattr(self, name) >= 1, "at least 1")
        for name in ("freeze_after", "min_count"):
            self._check(name, getattr(self, name) >= 0, "at least 0")
        self._check("patch_fraction", 0 < self.patch_fraction <= 1, "above 0 and at most 1")
        self._check("min_share", 0 < self.min_share <= 1, "above 0 and at most 1")

    def _check(self, name: str, holds: bool, wanted: str) -> None:
        if not holds:
            raise UsageError(
                f"{name} = {getattr(self, name)} cannot be used", f"it must be {wanted}", "give such a number"
            )


EM_PRESETS = {
    "mnist": EMConfig(wish=10, freeze_after=251),
    "cifar10": EMConfig(wish=175, patch_fraction=0.02),
    "digits": EMConfig(wish=10),
}


def match_scores(patches: Tensor, means: Tensor, variances: Tensor) -> Tensor:
    """Scores (P, K) of patches (P, n): log-density of the distance up to a constant (Eq. 2), float64."""
    distance = patches.square().sum(1, keepdim=True) + means.square().sum(1) - 2 * patches @ means.T
    return -distance.clamp(min=0) / (2 * variances) - 0.5 * variances.log()


def sample_patches(images: Tensor, window: int, fraction: float, generator: torch.Generator) -> Tensor:
    """A random share of all patches (P, n) of images (N, C, H, W), float64."""
    patches = F.unfold(images.double(), window).transpose(1, 2).reshape(-1, images.shape[1] * window**2)
    keep = torch.randperm(len(patches), generator=generator)[: math.ceil(fraction * len(patches))]
    return patches[keep.to(patches.device)]


def fit_filters(
    batch: Callable[[int, int], Tensor],
    n_images: int,
    config: EMConfig,
    *,
    seed: int = 0,
    progress: Callable[[int, int], None] = lambda update, filters: None,
) -> tuple[Tensor, Tensor]:
    """Fit RBF filters to image patches.

    Args:
        batch: `batch(start, stop)` gives images (stop - start, C, H, W) in [0,1].
        n_images: Number of images it can give; they are visited in order, again and again.
        config: Constants; `EM_PRESETS` holds the authors'.
        seed: Seeds the choice of patches.
        progress: Called after each update with (update, number of filters).

    Returns:
        means (K, C, w, w) and variances (K,), float64. The variance is the mean squared distance (trace), as in Eq. 3.

    Raises:
        ModelError: Images smaller than a patch, no filter survives (too few images, or images without variation), or
            more than `most` do.
    """
    generator = torch.Generator().manual_seed(seed)
    images = batch(0, 1)
    if min(images.shape[2:]) < config.window:
        raise ModelError(
            "RBF filters do not fit these images",
            f"images are {tuple(images.shape[2:])}, patches {config.window} pixels wide",
            "give larger images",
        )
    channels, dimension = images.shape[1], images.shape[1] * config.window**2
    means = images.new_empty((0, dimension), dtype=torch.float64)
    variances = images.new_empty(0, dtype=torch.float64)
    alpha, start = 1.0, 0
    for update in range(config.updates):
        stop = min(start + config.images_per_update, n_images)
        patches = sample_patches(batch(start, stop), config.window, config.patch_fraction, generator)
        start = 0 if stop == n_images else stop
        growing = update < config.freeze_after
        owner = assign(patches, means, variances, reject_below=_threshold(alpha) if growing else -math.inf)
        share = (owner == len(means)).double().mean().item()
        means, variances = _update(patches, owner, len(means), config)
        if len(means) > config.most:
            raise ModelError(
                "EM found too many filters",
                f"{len(means)} after update {update + 1}, and the most is {config.most}",
                "wish for fewer (em.wish), or allow more (em.most)",
            )
        if growing:
            # Balanced where the number of filters is the wished one and the rejected share just founds one.
            pull = _decay(len(means) / config.wish) * _decay(share / config.min_share)
            alpha += STEP_DOWN * (pull / _decay(1.0) ** 2 - 1)
        progress(update + 1, len(means))
    if len(means) == 0:
        raise ModelError(
            "EM found no filter",
            f"no group of patches was larger than {config.min_count}, and {config.min_share:g} of all",
            "give more or other images, or lower em.min_count and em.min_share",
        )
    return means.view(-1, channels, config.window, config.window), variances


def _decay(t: float) -> float:
    return 1 / (1 + math.exp(min(t, 700.0)))


def _threshold(alpha: float) -> float:
    return REJECT_SCORE + math.log(alpha) if alpha > 0 else -math.inf


def assign(patches: Tensor, means: Tensor, variances: Tensor, reject_below: float) -> Tensor:
    """E-step: index of the best filter (P,) of each patch, K for the patches that none scores above `reject_below`."""
    if len(means) == 0:
        return torch.zeros(len(patches), dtype=torch.long, device=patches.device)
    best, owner = match_scores(patches, means, variances).max(dim=1)
    return torch.where(best < reject_below, len(means), owner)


def _update(patches: Tensor, owner: Tensor, k: int, config: EMConfig) -> tuple[Tensor, Tensor]:
    """M-step (Eq. 3) for k filters and the group of rejected patches, which founds a filter if it is large enough."""
    count = torch.bincount(owner, minlength=k + 1).double()
    total = patches.new_zeros(k + 1, patches.shape[1]).index_add_(0, owner, patches)
    square = patches.new_zeros(k + 1).index_add_(0, owner, patches.square().sum(1))
    alive = count > config.min_count
    alive[k] &= count[k] > config.min_share * len(patches)
    mean = total[alive] / count[alive, None]
    variance = square[alive] / count[alive] - mean.square().sum(1)
    return mean, variance.clamp(min=1e-20)
