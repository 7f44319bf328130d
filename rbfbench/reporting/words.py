"""How numbers are spelled for people, the same in every output."""

from __future__ import annotations

from collections.abc import Sequence

from rbfbench.results.records import Score

FEWER = (
    "Where n is given, only the first n images met the attack; the worst case takes each image under the attacks that "
    "met it."
)


def percent(share: float) -> str:
    """A share in [0,1] as a percentage with one decimal, without the sign."""
    return f"{100 * share:.1f}"


def interval(score: Score) -> str:
    """The interval of a score, in percent."""
    low, high = score.ci95
    return f"{percent(low)}-{percent(high)}"


def titled(name: str, scores: Sequence[Score | None], n: int) -> str:
    """Name of a row of a table of n images, with the number of its own where that is smaller."""
    met = min((score.n for score in scores if score), default=n)
    return name if met == n else f"{name} (n {met})"


def count(k: float) -> str:
    """A number of images; a fraction only where there is one that matters."""
    return f"{k:.0f}" if k >= 999.5 else f"{k:.1f}".removesuffix(".0")


def duration(seconds: float) -> str:
    """Seconds as "2.4s", "41s", "3m 05s" or "1h 02m"."""
    if seconds < 9.95:
        return f"{seconds:.1f}s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m {whole % 60:02}s"
    minutes = round(seconds / 60)
    return f"{minutes // 60}h {minutes % 60:02}m"


def plural(n: int, noun: str) -> str:
    """The number and its noun: "1 image", "1,000 images"."""
    return f"{n:,} {noun}{'' if n == 1 else 's'}"
