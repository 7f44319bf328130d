"""Intervals against SciPy, and the properties that hold whatever the numbers."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import beta, binomtest

from rbfbench.results.intervals import clopper_pearson, score, wilson

Interval = Callable[[int, int, float], tuple[float, float]]
COUNTS = st.integers(1, 5000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))
CONFIDENCES = st.sampled_from([0.5, 0.9, 0.95, 0.999])


@given(COUNTS, CONFIDENCES)
def test_both_agree_with_scipy(counts: tuple[int, int], confidence: float) -> None:
    k, n = counts
    test = binomtest(k, n)
    assert wilson(k, n, confidence) == pytest.approx(test.proportion_ci(confidence, "wilson"), abs=1e-9)
    assert clopper_pearson(k, n, confidence) == pytest.approx(test.proportion_ci(confidence, "exact"), abs=1e-9)


@pytest.mark.parametrize("k", [0, 1, 50_123, 99_000, 99_999, 100_000])
def test_clopper_pearson_at_the_size_of_a_certificate(k: int) -> None:
    n, alpha = 100_000, 0.001
    start = time.perf_counter()
    low, high = clopper_pearson(k, n, 1 - 2 * alpha)
    assert time.perf_counter() - start < 0.5
    assert low == pytest.approx(beta.ppf(alpha, k, n - k + 1) if k else 0.0, rel=1e-8, abs=1e-15)
    assert high == pytest.approx(beta.ppf(1 - alpha, k + 1, n - k) if k < n else 1.0, rel=1e-8)


@pytest.mark.parametrize("interval", [wilson, clopper_pearson])
@given(COUNTS, CONFIDENCES)
def test_share_lies_inside_and_ends_are_shares(interval: Interval, counts: tuple[int, int], confidence: float) -> None:
    k, n = counts
    low, high = interval(k, n, confidence)
    assert 0 <= low <= k / n <= high <= 1
    assert (low == 0) == (k == 0)
    assert (high == 1) == (k == n)


@pytest.mark.parametrize("interval", [wilson, clopper_pearson])
@given(COUNTS)
def test_more_successes_move_both_ends_up(interval: Interval, counts: tuple[int, int]) -> None:
    k, n = counts
    if k < n:
        below, above = interval(k, n, 0.95), interval(k + 1, n, 0.95)
        assert below[0] < above[0]
        assert below[1] < above[1]


@pytest.mark.parametrize("interval", [wilson, clopper_pearson])
@given(COUNTS, st.integers(2, 5))
def test_more_images_with_the_same_share_narrow_it(interval: Interval, counts: tuple[int, int], times: int) -> None:
    k, n = counts
    few, many = interval(k, n, 0.95), interval(k * times, n * times, 0.95)
    assert many[1] - many[0] < few[1] - few[0]


@given(COUNTS)
def test_exact_interval_is_wider_in_confidence_and_mirrored(counts: tuple[int, int]) -> None:
    k, n = counts
    low, high = clopper_pearson(k, n)
    assert clopper_pearson(n - k, n) == pytest.approx((1 - high, 1 - low), abs=1e-9)
    wide = clopper_pearson(k, n, 0.99)
    assert wide[0] <= low
    assert high <= wide[1]


@given(st.integers(1, 300), st.floats(0, 1))
def test_a_fractional_count_lies_inside(n: int, share: float) -> None:
    total = score(share * n, n)
    assert total.ci95[0] <= total.accuracy <= total.ci95[1]


def test_score_forgives_rounding_but_not_more() -> None:
    assert score(10.0000000001, 10).accuracy == 1
    assert score(-1e-12, 10).k == 0
    for k, n in [(11, 10), (-1, 10), (0, 0), (float("nan"), 10)]:
        with pytest.raises(ValueError, match="no interval"):
            score(k, n)


def test_clopper_pearson_refuses_fractions() -> None:
    with pytest.raises(ValueError, match="whole"):
        clopper_pearson(1.5, 10)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="confidence"):
        wilson(1, 10, 1.0)
