"""The statistics of certificates against scipy and known answers, and what the records say."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from scipy.stats import beta, norm

from rbfbench.evaluation.certify import LEAST_ALPHA
from rbfbench.reporting.certificate_table import certificate_table
from rbfbench.results.certificates import ABSTAIN, Certificate, Certification, certified, radius_of
from rbfbench.results.intervals import clopper_pearson
from rbfbench.results.records import Environment


@pytest.mark.parametrize(
    ("k", "n", "share"), [(99_000, 100_000, 0.98898934), (990, 1000, 0.97603619), (1000, 1000, 0.001 ** (1 / 1000))]
)
def test_lower_bounds_that_others_computed(k, n, share):
    assert clopper_pearson(k, n, 1 - 2 * 0.001)[0] == pytest.approx(share, abs=1e-8)


@pytest.mark.parametrize(("n", "most"), [(1_000, 2.4633), (10_000, 3.1986), (50_000, 3.6366), (100_000, 3.8115)])
def test_the_ceiling_in_standard_deviations(n, most):
    assert radius_of(n, n, sigma=1.0, alpha=0.001) == pytest.approx(most, abs=5e-5)


@given(st.integers(1, 3000), st.data())
def test_the_radius_is_that_of_theorem_1(n, data):
    k = data.draw(st.integers(0, n))
    found = radius_of(k, n, sigma=0.5, alpha=0.001)
    low = beta.ppf(0.001, k, n - k + 1) if k else 0.0
    assert found == pytest.approx(0.5 * norm.ppf(low) if low > 0.5 else 0.0, rel=1e-6, abs=1e-9)
    assert radius_of(k, n, sigma=1.0, alpha=0.001) == pytest.approx(2 * found)
    if k < n:
        assert radius_of(k + 1, n, sigma=0.5, alpha=0.001) >= found


@pytest.mark.parametrize("alpha", [1e-8, LEAST_ALPHA])
def test_small_chances_of_being_wrong_keep_their_bound_and_are_printed(alpha):
    assert radius_of(1000, 1000, sigma=1.0, alpha=alpha) == pytest.approx(norm.ppf(alpha ** (1 / 1000)), abs=1e-6)
    made = Environment(rbfbench="1", python="3", torch="2", device="cpu", threads=1, git=None)
    done = Certification(
        status="complete",
        spec={"dataset": "d", "sigma": 1, "seed": 0, "source": "s", "n0": 1, "n": 1000, "alpha": alpha},
        model_digest="",
        data_digest="",
        model={"name": "m"},
        environment=made,
        wall_s=1,
        ceiling=2,
        abstained=0,
        certified=[],
        certificates=[],
    )
    console = Console(width=1000)
    with console.capture() as printed:
        console.print(certificate_table(done))
    zeros = round(-math.log10(alpha)) - 1
    assert f"holds with probability 0.9{'9' * zeros} over" in printed.get()


def test_the_bound_covers_as_often_as_it_says():
    """10,000 times n = 200 draws at a true share of 0.9: the bound is above it in at most alpha of them."""
    alpha, n, share, runs = 0.05, 200, 0.9, 10_000
    drawn = np.random.default_rng(0).binomial(n, share, runs)
    bounds = {k: clopper_pearson(int(k), n, 1 - 2 * alpha)[0] for k in np.unique(drawn)}
    missed = sum(bounds[k] > share for k in drawn)
    assert missed <= runs * alpha + 4 * (runs * alpha * (1 - alpha)) ** 0.5  # four standard deviations


def one(label: int, prediction: int, radius: float) -> Certificate:
    return Certificate(image="i", label=label, prediction=prediction, top=max(prediction, 0), k=1, radius=radius)


def test_certified_accuracy_counts_right_answers_that_reach_the_radius():
    rows = certified([one(1, 1, 0.5), one(1, 1, 0.2), one(1, 2, 0.9), one(0, ABSTAIN, 0.0)], (0.2, 0.5, 0.6))
    assert [(row.radius, row.k, row.n) for row in rows] == [(0.0, 2, 4), (0.2, 2, 4), (0.5, 1, 4), (0.6, 0, 4)]
    assert rows[0].ci95[0] < rows[0].accuracy < rows[0].ci95[1]
