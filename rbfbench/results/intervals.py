"""Intervals for a share k/n, on the standard library alone so that printing and gating a run stay instant."""

from __future__ import annotations

import math
from statistics import NormalDist

from rbfbench.results.records import Score


def wilson(k: float, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval for k of n.

    A fractional k (mean correctness of a stochastic model, summed over images) is fine: values in [0,1] vary at most
    as much as zeros and ones with the same mean, so the interval only errs on the wide side.

    Args:
        k: Successes, 0 <= k <= n.
        n: Trials, at least 1.
        confidence: In (0,1).

    Returns:
        Lower and upper end, in [0,1]; k/n lies between them.

    Raises:
        ValueError: Arguments out of these ranges.
    """
    _validate(k, n, confidence)
    z2 = NormalDist().inv_cdf((1 + confidence) / 2) ** 2
    p = k / n
    centre = (p + z2 / (2 * n)) / (1 + z2 / n)
    half = math.sqrt(z2 * (p * (1 - p) / n + z2 / (4 * n * n))) / (1 + z2 / n)
    # min and max because rounding puts the ends a hair inside p at k = 0 and k = n, where they meet it exactly.
    return max(0.0, min(centre - half, p)), min(1.0, max(centre + half, p))


def clopper_pearson(k: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Clopper and Pearson's interval: covers the true share with at least this confidence, whatever the share is.

    For a one-sided bound that holds with probability 1 - alpha, ask for confidence 1 - 2 alpha.

    Args:
        k: Successes, 0 <= k <= n.
        n: Trials, at least 1.
        confidence: In (0,1).

    Returns:
        Lower and upper end, in [0,1].

    Raises:
        ValueError: Arguments out of these ranges, or a fractional k.
    """
    _validate(k, n, confidence)
    if k != int(k):
        raise ValueError(f"k is {k}: the Clopper-Pearson interval is for whole counts")
    tail = (1 - confidence) / 2
    low = 0.0 if k == 0 else _beta_quantile(tail, k, n - k + 1)
    high = 1.0 if k == n else 1 - _beta_quantile(tail, n - k, k + 1)
    return low, high


def score(k: float, n: int) -> Score:
    """Accuracy k/n with its 95% Wilson interval; k is clamped to [0,n] against rounding in sums of fractions.

    Raises:
        ValueError: n < 1, or k outside [0,n] by more than rounding.
    """
    if -1e-6 <= k <= n + 1e-6:
        k = min(max(k, 0.0), float(n))
    return Score(accuracy=k / n if n else 0.0, k=k, n=n, ci95=wilson(k, n))


def _validate(k: float, n: int, confidence: float) -> None:
    if n < 1 or not 0 <= k <= n or not 0 < confidence < 1:
        raise ValueError(f"no interval for k = {k}, n = {n}, confidence = {confidence}")


def _beta_quantile(probability: float, a: float, b: float) -> float:
    """The x at which the Beta(a, b) distribution function reaches `probability`, by bisection."""
    low, high = 0.0, 1.0
    while low < (middle := (low + high) / 2) < high:
        low, high = (middle, high) if _beta_cdf(middle, a, b) < probability else (low, middle)
    return middle


def _beta_cdf(x: float, a: float, b: float) -> float:
    """Regularised incomplete beta function I_x(a, b), DLMF 8.17; about sqrt(a + b) steps, so n = 100,000 is quick."""
    # Beyond the mean the fraction converges slowly; its mirror image does not.
    mirrored = x > (a + 1) / (a + b + 2)
    if mirrored:
        x, a, b = 1 - x, b, a
    scale = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)
    below = math.exp(scale) / (a * _beta_fraction(x, a, b))
    return 1 - below if mirrored else below


def _beta_fraction(x: float, a: float, b: float) -> float:
    """The continued fraction of DLMF 8.17.22, evaluated by Lentz's method."""
    value = ratio_up = 1.0
    ratio_down = 0.0
    for step in range(1, 100_000):
        m = step // 2
        if step % 2:
            coefficient = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        else:
            coefficient = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        ratio_down = 1 / (1 + coefficient * ratio_down)
        ratio_up = 1 + coefficient / ratio_up
        value *= ratio_up * ratio_down
        if abs(ratio_up * ratio_down - 1) < 1e-15:
            break
    return value
