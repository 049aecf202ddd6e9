"""Wilson's interval against its formula, and how shares are written."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from course_utils.core import percent, wilson

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
