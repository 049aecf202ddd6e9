"""Shares of a sample with their 95 % interval."""

from __future__ import annotations


def wilson(successes: int, n: int, *, confidence: float = 0.95) -> tuple[float, float]:
    """Return the Wilson score interval of `successes` out of `n` (Wilson 1927).

    Raises:
        ValueError: n < 1, or successes outside 0..n.

    >>> low, high = wilson(95, 100)
    >>> f"{low:.3f} {high:.3f}"
    '0.888 0.978'
    """
    if n < 1 or not 0 <= successes <= n:
        raise ValueError(f"expected 0 <= successes <= n with n >= 1, got {successes} of {n}.")
    from scipy.stats import binomtest  # a second to import, which the command line does without

    interval = binomtest(int(successes), int(n)).proportion_ci(confidence, method="wilson")
    return float(interval.low), float(interval.high)


def percent(share: float, n: int | None = None) -> str:
    """Write a share as a percentage, with its Wilson interval when n is given.

    >>> percent(0.25)
    '25.0 %'
    >>> percent(0.95, 100)
    '95.0 % (88.8–97.8, n = 100)'
    """
    if n is None:
        return f"{100 * share:.1f} %"
    low, high = wilson(round(share * n), n)
    return f"{100 * share:.1f} % ({100 * low:.1f}–{100 * high:.1f}, n = {n})"
