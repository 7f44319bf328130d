"""Whether a model keeps to what a run takes for granted: one image, one answer, and noise of its own for each image."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from rbfbench.attacks.rng import Keys
from rbfbench.data.images import Images
from rbfbench.evaluation.target import Target
from rbfbench.results.records import Check, Score

SEEN = 256  # images that are asked about again
FEW = 0.01  # share of them that a model may answer otherwise
TOGETHER = 8  # of them in a pass: many passes, so that what seldom happens in one is met
SPREAD = 4.0  # standard deviations, at most, that two accuracies of one random model lie apart


def answers_changed(
    target: Target,
    images: Images,
    keys: Keys,
    prediction: np.ndarray,
    tell: Callable[[int], None] = lambda asked: None,
) -> Check:
    """Whether a model that passes for deterministic answers images otherwise when it is asked again in other company.

    Args:
        target: The model, not random as far as is known.
        images: Those of the run; the first ones are asked about, twice, and never beside the same others.
        keys: Those of the clean pass.
        prediction: (N,) classes that it found.
        tell: Told after each pass how many images were in it.
    """
    n = min(SEEN, len(images))
    together = TOGETHER if n > TOGETHER else 1
    order = np.concatenate([np.arange(start, n, TOGETHER) for start in range(min(TOGETHER, n))])
    first, second = (
        _logits(target, images, keys, np.arange(n), size=TOGETHER, tell=tell),
        _logits(target, images, keys, order, size=together, tell=tell),
    )
    second = second[torch.from_numpy(order.argsort())]
    # Rounding tips a tie, and a scale that is computed for a batch drifts a little: neither is another answer.
    top, close = first.topk(2, dim=1).values, torch.finfo(first.dtype).eps ** 0.5 * first.abs().amax(1).clamp(min=1)
    answer = first.argmax(1)
    other = (answer != second.argmax(1)) | (answer != torch.from_numpy(prediction[:n]))
    changed = int((other & (top[:, 0] - top[:, 1] > close)).sum())
    return Check(
        code="answers-changed",
        fired=changed > FEW * n,
        detail=f"asked again, and beside other images, the model answers {changed} of {n} images otherwise: it is "
        "random in some passes, which `stochastic = True` on it declares, or depends on its batch (--batch-size 1)",
    )


def _logits(
    target: Target, images: Images, keys: Keys, where: np.ndarray, *, size: int, tell: Callable[[int], None]
) -> Tensor:
    parts = []
    for start in range(0, len(where), size):
        here = where[start : start + size]
        parts.append(target.decide(images.at(here)[0].to(target.device), keys[here])[0].cpu())
        tell(len(here))
    return torch.cat(parts)


def noise_shared(target: Target) -> Check:
    """Whether a random model draws once for all images of a pass, as its inspection found out."""
    return Check(
        code="noise-shared",
        fired=bool(target.card.get("noise_shared")) and target.max_rows > 1,
        detail="one draw of the model's noise serves all images of a pass, so they go wrong together and every "
        "interval is too narrow: --batch-size 1 draws for each",
    )


def null_off_clean(clean: Score, null: Score, decisions: int) -> Check:
    """Whether two accuracies of one random model on the same images lie farther apart than independent noise explains.

    Of n images with `decisions` each no accuracy varies by more than 1 / (2 sqrt(n decisions)).
    """
    apart = abs(null.accuracy - clean.accuracy)
    return Check(
        code="null-off-clean",
        fired=apart > SPREAD * (0.5 / (clean.n * decisions)) ** 0.5,
        detail=f"without any attack the model is right on {clean.accuracy:.1%} and, asked again, on "
        f"{null.accuracy:.1%}: its noise is not independent between images, and no interval holds",
    )
