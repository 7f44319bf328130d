"""The paired test against full enumeration, against SciPy, and against chance itself."""

from __future__ import annotations

import itertools
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from rbfbench.results.paired import compare, holm

OUTCOMES = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=9)


@given(OUTCOMES)
def test_p_values_are_those_of_all_sign_patterns(pairs: list[tuple[int, int]]) -> None:
    first, second = [a / 3 for a, _ in pairs], [b / 3 for _, b in pairs]
    differences = [b - a for a, b in pairs]
    found = compare(first, second, decisions=3)
    sums = [
        sum(sign * d for sign, d in zip(signs, differences, strict=True))
        for signs in itertools.product((-1, 1), repeat=len(pairs))
    ]
    # Probabilities are sums of at most 2^9 exact eighths of bits: rounding of the products is all there is.
    assert found.p_fall == pytest.approx(sum(s <= sum(differences) for s in sums) / len(sums), abs=1e-12)
    assert found.p == pytest.approx(sum(abs(s) >= abs(sum(differences)) for s in sums) / len(sums), abs=1e-12)
    assert found.difference == pytest.approx(sum(differences) / 3 / len(pairs))
    assert (found.rose, found.fell) == (sum(d > 0 for d in differences), sum(d < 0 for d in differences))


@pytest.mark.parametrize(("fell", "rose", "same"), [(5, 0, 95), (30, 12, 500), (3, 3, 0), (0, 0, 7), (900, 800, 9000)])
def test_outcomes_of_zero_and_one_are_mcnemars_exact_test(fell: int, rose: int, same: int) -> None:
    first = [1.0] * fell + [0.0] * rose + [1.0] * same
    second = [0.0] * fell + [1.0] * rose + [1.0] * same
    found = compare(first, second)
    if fell + rose:
        assert found.p_fall == pytest.approx(stats.binomtest(fell, fell + rose, 0.5, "greater").pvalue, rel=1e-9)
        assert found.p == pytest.approx(stats.binomtest(fell, fell + rose, 0.5).pvalue, rel=1e-9)
    else:
        assert (found.p_fall, found.p) == (1.0, 1.0)


def test_chance_alone_is_called_a_fall_no_more_often_than_alpha() -> None:
    """2,000 pairs of runs of one random model: at 5% the alarms to expect are at most 100, their deviation 9.7."""
    rng = random.Random(0)
    alarms = 0
    for _ in range(2000):
        chances = [rng.random() for _ in range(40)]
        first, second = ([sum(rng.random() < c for _ in range(3)) / 3 for c in chances] for _ in range(2))
        alarms += compare(first, second, decisions=3).p_fall <= 0.05
    assert alarms <= 100 + 3 * 9.7
    assert alarms > 30  # and the test is not dead


def test_what_cannot_be_paired_is_an_error() -> None:
    with pytest.raises(ValueError, match="cannot be paired"):
        compare([1.0], [1.0, 0.0])
    with pytest.raises(ValueError, match="multiples"):
        compare([0.5], [1.0])


@given(st.lists(st.floats(0, 1), min_size=1, max_size=6))
def test_holm_is_the_closed_test_of_bonferroni(p: list[float]) -> None:
    """An hypothesis falls if every set that it is in falls by Bonferroni's test: the definition, by enumeration."""
    for i, adjusted in enumerate(holm(p)):
        sets = [s for size in range(1, len(p) + 1) for s in itertools.combinations(range(len(p)), size) if i in s]
        assert adjusted == pytest.approx(max(min(1.0, len(s) * min(p[j] for j in s)) for s in sets))


def test_holm_on_a_known_example() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
