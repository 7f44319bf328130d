"""Certificates of randomised smoothing (Cohen, Rosenfeld, Kolter, arXiv 1902.02918): statistics, records, reduction."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import NormalDist
from typing import Any, Literal

from rbfbench.results.intervals import clopper_pearson, score
from rbfbench.results.records import Amount, Count, Environment, Record, Score

ABSTAIN = -1


class Certificate(Record, frozen=True, kw_only=True):
    """One image.

    Attributes:
        image: Its id.
        label: True class.
        prediction: What the smoothed classifier answers; -1 where it abstains.
        top: Class that the first draws chose.
        k: Answers of that class among the n draws that follow.
        radius: l2 radius within which the answer cannot change; 0 where it abstains.
    """

    image: str
    label: Count
    prediction: int
    top: Count
    k: Count
    radius: Amount


class Certified(Score, frozen=True, kw_only=True):
    """Images whose answer is right and certified to a radius at least; abstaining is not right."""

    radius: Amount


class Certification(Record, frozen=True, kw_only=True):
    """certify.json: the certificates of some images.

    Attributes:
        status: "started" where the user stopped it before its end.
        spec: Everything that decides it.
        wall_s: Seconds of all certificates, those found in the folder included.
        ceiling: Radius that nothing can exceed: what the number of draws allows where every answer is the same.
        abstained: Images without an answer.
        certified: Accuracy at radii asked for, the first one at 0.
        certificates: Image by image.
    """

    schema_version: Literal[1] = 1
    status: Literal["started", "complete"]
    spec: dict[str, Any]
    model_digest: str
    data_digest: str
    model: dict[str, Any]
    environment: Environment
    wall_s: Amount
    ceiling: Amount
    abstained: Count
    certified: list[Certified]
    certificates: list[Certificate]


def radius_of(k: int, n: int, *, sigma: float, alpha: float) -> float:
    """Certified l2 radius after k of n draws gave the class (Theorem 1, Algorithm CERTIFY); 0 where it abstains.

    Holds with probability at least 1 - alpha over the draws.

    Args:
        k: Draws that gave the class which other draws had chosen.
        n: Draws.
        sigma: Standard deviation of the noise.
        alpha: Probability of being wrong.
    """
    share = clopper_pearson(k, n, 1 - 2 * alpha)[0]  # one-sided
    return sigma * NormalDist().inv_cdf(share) if share > 0.5 else 0.0


def certified(certificates: Sequence[Certificate], radii: Sequence[float]) -> list[Certified]:
    """Certified accuracy at radius 0 and at each radius."""
    found = []
    for radius in (0.0, *radii):
        right = sum(each.prediction == each.label and each.radius >= radius for each in certificates)
        part = score(right, len(certificates))
        found.append(Certified(radius=radius, accuracy=part.accuracy, k=part.k, n=part.n, ci95=part.ci95))
    return found
