"""Paired comparison of two runs on the same images: the exact sign-flip test, and Holm's correction.

If two models are equally robust, the difference on an image may as well have had the other sign. The test counts how
often random signs give a mean difference as large as the one observed. For outcomes of 0 and 1 it is McNemar's exact
test.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import fsum

NEGLIGIBLE = 1e-22  # of the largest probability of a binomial: what lies below adds less than 1e-17 to a tail


@dataclass(frozen=True)
class Paired:
    """What the differences of n pairs say.

    Attributes:
        n: Pairs.
        difference: Mean of second minus first.
        rose: Pairs where the second is larger.
        fell: Pairs where it is smaller.
        p_fall: Chance of a mean difference this low or lower if signs are random.
        p: Chance of one this far from zero, either way.
    """

    n: int
    difference: float
    rose: int
    fell: int
    p_fall: float
    p: float


def compare(first: Sequence[float], second: Sequence[float], *, decisions: int = 1) -> Paired:
    """The sign-flip test on paired mean correctness.

    Args:
        first: One number in [0,1] a pair: a multiple of 1 / decisions.
        second: Likewise, in the same order.
        decisions: Decisions behind each number; a common multiple, if the two sides differ in it.

    Raises:
        ValueError: Different lengths, no pairs, or numbers that are no such multiples.
    """
    if len(first) != len(second) or not first:
        raise ValueError(f"{len(first)} and {len(second)} outcomes cannot be paired")
    steps = [(b - a) * decisions for a, b in zip(first, second, strict=True)]
    whole = [round(step) for step in steps]
    if any(abs(step - nearest) > 1e-6 for step, nearest in zip(steps, whole, strict=True)):
        raise ValueError(f"outcomes are not multiples of 1/{decisions}")
    total = sum(whole)
    chances = _signed_sums(whole)
    return Paired(
        n=len(whole),
        difference=total / decisions / len(whole),
        rose=sum(step > 0 for step in whole),
        fell=sum(step < 0 for step in whole),
        p_fall=_tail(chances, -total),
        p=min(1.0, 2 * _tail(chances, abs(total))) if total else 1.0,
    )


def mcnemar(fell: int, rose: int) -> float:
    """Chance that at least `fell` of fell + rose changed pairs fall if each is as likely to rise (McNemar's test)."""
    return min(1.0, fsum(chance for k, chance in _binomial(fell + rose).items() if k >= fell))


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values adjusted for their number (Holm 1979): if those up to alpha count, any false one has chance alpha."""
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, i in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[i]))
        adjusted[i] = largest
    return adjusted


def _tail(chances: Mapping[int, float], least: int) -> float:
    return min(1.0, fsum(chance for at, chance in chances.items() if at >= least))


def _signed_sums(differences: Sequence[int]) -> Mapping[int, float]:
    """Chances of each sum of randomly signed |differences|, without negligible ones.

    Differences of one size v that occur m times add v (2 B - m) with B binomial (m, 1/2).
    """
    sizes = Counter(abs(difference) for difference in differences if difference)
    chances: Mapping[int, float] = {0: 1.0}
    for size, count in sizes.items():
        single, together = _binomial(count), defaultdict[int, float](float)
        for at, chance in chances.items():
            for successes, probability in single.items():
                together[at + size * (2 * successes - count)] += chance * probability
        least_kept = NEGLIGIBLE * max(together.values())
        chances = {at: chance for at, chance in together.items() if chance > least_kept}
    return chances


def _binomial(n: int) -> dict[int, float]:
    """Probabilities of a binomial (n, 1/2), without negligible ones."""
    middle = n // 2
    weights = {middle: 1.0}
    k, weight = middle, 1.0
    while k < n and weight > NEGLIGIBLE:
        weight *= (n - k) / (k + 1)
        k += 1
        weights[k] = weight
    k, weight = middle, 1.0
    while k > 0 and weight > NEGLIGIBLE:
        weight *= k / (n - k + 1)
        k -= 1
        weights[k] = weight
    total = fsum(weights.values())
    return {k: weight / total for k, weight in weights.items()}
