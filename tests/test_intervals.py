"""Wilson's interval against its formula, and how shares are written."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from course_utils.core import percent, wilson
from course_utils.core.intervals import paired_difference

Z = 1.959963984540054  # the 97.5 % quantile of the normal distribution


def by_formula(k, n, z=Z):
    """Wilson 1927, as statsmodels' proportion_confint(method="wilson") computes it."""
    p = k / n
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return max(0.0, centre - half), min(1.0, centre + half)


@given(st.integers(1, 100_000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_is_its_formula(sample):
    k, n = sample
    assert wilson(k, n) == pytest.approx(by_formula(k, n), abs=1e-9)


@pytest.mark.parametrize(
    ("k", "n", "expected"),
    [(95, 100, (0.88825, 0.97846)), (0, 10, (0.0, 0.27754)), (10, 10, (0.72246, 1.0)), (1, 2, (0.09453, 0.90547))],
)
def test_wilson_known_values(k, n, expected):
    assert wilson(k, n) == pytest.approx(expected, abs=2e-5)


@given(st.integers(1, 1000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_contains_the_share_and_mirrors(sample):
    k, n = sample
    low, high = wilson(k, n)
    assert 0 <= low <= k / n <= high <= 1
    assert wilson(n - k, n) == pytest.approx((1 - high, 1 - low))
    assert wilson(k * 4, n * 4)[1] - wilson(k * 4, n * 4)[0] < high - low


def test_wilson_other_confidence():
    low, high = wilson(5, 10, confidence=0.99)
    assert (low, high) == pytest.approx(by_formula(5, 10, 2.5758293035489004), abs=1e-9)


@pytest.mark.parametrize(("k", "n"), [(0, 0), (1, 0), (-1, 5), (6, 5), (0, -3)])
def test_wilson_refuses(k, n):
    with pytest.raises(ValueError, match="0 <= successes <= n with n >= 1"):
        wilson(k, n)


def test_percent():
    assert percent(0.25) == "25.0 %"
    assert percent(0.95, 100) == "95.0 % (88.8–97.8, n = 100)"
    assert percent(0, 10) == "0.0 % (0.0–27.8, n = 10)"
    assert percent(1.0, 1) == "100.0 % (20.7–100.0, n = 1)"
    assert percent(0.1 + 0.2, 10).startswith("30.0 % (10.8–")


counts = st.integers(1, 3000).flatmap(
    lambda n: st.integers(0, n).flatmap(lambda up: st.tuples(st.just(up), st.integers(0, n - up), st.just(n)))
)


@given(counts)
def test_a_paired_difference_mirrors_and_stays_within_the_possible(sample):
    gained, lost, n = sample
    there, back = paired_difference(gained, lost, n), paired_difference(lost, gained, n)
    assert (there.value, there.low, there.high) == pytest.approx((-back.value, -back.high, -back.low))
    assert there.low <= there.high
    assert there.value == pytest.approx((gained - lost) / n)


def test_a_paired_interval_covers_the_difference():
    """Of many samples with a known difference, 95 % of the intervals hold it, or a few more."""
    random = np.random.default_rng(0)
    draws = random.multinomial(400, [0.06, 0.02, 0.92], size=4000)
    found = [paired_difference(int(up), int(down), 400) for up, down, _ in draws]
    assert 0.94 <= np.mean([each.low <= 0.04 <= each.high for each in found]) <= 0.97


def test_pairs_that_agree_make_the_interval_no_wider_than_two_samples_would():
    paired = paired_difference(3, 10, 1000)
    apart = 1.96 * math.sqrt(2 * 0.97 * 0.03 / 1000)
    assert (paired.high - paired.low) / 2 < 0.6 * apart


@pytest.mark.parametrize("wrong", [(0, 0, 0), (-1, 0, 5), (0, -1, 5), (3, 3, 5)])
def test_a_paired_difference_refuses_counts_that_do_not_fit(wrong):
    with pytest.raises(ValueError, match="fit into n"):
        paired_difference(*wrong)
