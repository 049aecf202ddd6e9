"""Shares of a sample with their 95 % interval."""

from __future__ import annotations

from dataclasses import dataclass


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
    points = 100 * share + 1e-5  # halves go up, whether the share was computed with 32 or with 64 bits
    if n is None:
        return f"{points:.1f} %"
    low, high = wilson(round(share * n), n)
    return f"{points:.1f} % ({100 * low:.1f}–{100 * high:.1f}, n = {n})"


@dataclass(frozen=True)
class Difference:
    """The difference of two shares of the same n images, with its 95 % interval."""

    value: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        value, low, high = (f"{100 * share:+.1f}".replace("-", "−") for share in (self.value, self.low, self.high))
        return f"{value} points ({low} to {high}, n = {self.n}, paired)"


def paired_difference(gained: int, lost: int, n: int) -> Difference:
    """Return how much larger the second of two shares of the same n things is, with its 95 % interval.

    What both count, or neither, makes the interval no wider: only the images on which the two disagree do.

    Args:
        gained: how many only the second counts. lost: how many only the first counts. n: all.

    Raises:
        ValueError: n < 1, or numbers that do not fit into n.

    >>> print(paired_difference(2, 38, 1000))
    −3.6 points (−4.8 to −2.3, n = 1000, paired)

    Bonett and Price, "Adjusted Wald confidence interval for a difference of binomial proportions based on paired data",
    2012.
    """
    if n < 1 or min(gained, lost) < 0 or gained + lost > n:
        raise ValueError(f"expected counts that fit into n >= 1, got {gained} gained and {lost} lost of {n}.")
    up, down = (gained + 1) / (n + 2), (lost + 1) / (n + 2)
    half = 1.959964 * ((up + down - (up - down) ** 2) / (n + 2)) ** 0.5
    return Difference((gained - lost) / n, up - down - half, up - down + half, n)
