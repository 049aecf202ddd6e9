"""The arithmetic of the tables, and their Markdown."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence

from scipy.stats import binom

from course_utils.core import percent, wilson

from .contestants import EFFORTS, FOOLBOX, OURS, REFERENCE
from .measure import Cell
from .networks import PHOTOGRAPHS

# What is asked of an effort: how much more than AutoAttack it may leave (None: what the interval allows), and the share
# of AutoAttack's time; six photographs are too few to ask anything
BARS = {"ours, standard": (0.005, 1 / 10), "ours, thorough": (None, 1 / 3)}
SPEED = 2.0  # DeepFool's and Carlini-Wagner's, beside foolbox's


def paired_difference(ones: Sequence[int], others: Sequence[int]) -> tuple[float, float, float]:
    """Return mean(ones) − mean(others), of the same images, and its 95 % interval.

    Newcombe, "Improved confidence intervals for the difference between binomial proportions based on paired data",
    1998, method 10: two Wilson intervals, put together with the correlation of the pairs.
    """
    n, a, b = len(ones), sum(ones), sum(others)
    both = sum(one & other for one, other in zip(ones, others, strict=True))
    spread = math.sqrt(a * (n - a) * b * (n - b))
    covariance = both * (n - a - b + both) - (a - both) * (b - both)
    covariance = max(covariance - n / 2, 0) if covariance > 0 else covariance
    correlation = covariance / spread if spread else 0.0
    (low_a, high_a), (low_b, high_b) = wilson(a, n), wilson(b, n)

    def width(one: float, other: float) -> float:
        return math.sqrt(max(one**2 - 2 * correlation * one * other + other**2, 0.0))

    difference = (a - b) / n
    low = difference - width(a / n - low_a, high_b - b / n)
    return difference, low, difference + width(high_a - a / n, b / n - low_b)


def median_interval(values: Iterable[float]) -> tuple[float, float, float]:
    """Return the median and two of the values, between which it lies at 95 %; of less than six, smallest and largest.

    >>> median_interval(range(1, 21))
    (10.5, 6, 15)
    """
    ordered = sorted(values)
    below = max(int(binom.ppf(0.025, len(ordered), 0.5)) - 1, 0)
    return statistics.median(ordered), ordered[below], ordered[-1 - below]


def share_of_time(ratio: float) -> str:
    """Write a time as a share of another one.

    >>> share_of_time(0.05), share_of_time(0.4), share_of_time(1.5)
    ('1/20.0', '1/2.5', '1.5 ×')
    """
    return f"{ratio:.1f} ×" if ratio >= 1 else f"1/{1 / ratio:.1f}"


def points(difference: tuple[float, float, float]) -> str:
    """Write a difference of two shares in points, with its interval.

    >>> points((0.01, -0.002, 0.02))
    '+1.0 (−0.2 to +2.0)'
    """
    middle, low, high = (f"{round(100 * d, 1) + 0.0:+.1f}".replace("-", "−") for d in difference)
    return f"{middle} ({low} to {high})"


def markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table."""
    return "\n".join("| " + " | ".join(row) + " |" for row in [head, ["---"] * len(head), *rows])


def verdict(missed: Sequence[str], met: str = "met") -> str:
    """Write what is missed in bold, so that lost rows are seen."""
    return f"**missed: {', '.join(missed)}**" if missed else met


def bar(cell: Cell, reference: Cell) -> str:
    """Say whether an effort does what is asked of it beside AutoAttack, or by how much not; "" where nothing is."""
    if cell.attack not in BARS or cell.network == PHOTOGRAPHS:
        return ""
    allowed, share = BARS[cell.attack]
    difference, low, _ = paired_difference(cell.correct, reference.correct)
    weak = low > 0 if allowed is None else round(difference - allowed, 9) > 0
    slow = cell.seconds > share * reference.seconds
    accuracy = [f"leaves {100 * difference:.1f} points more"] if weak else []
    return verdict(
        accuracy + ([f"takes {share_of_time(cell.seconds / reference.seconds)} of the time"] if slow else [])
    )


def ensemble_table(cells: Sequence[Cell]) -> str:
    """Return the robust accuracies, beside the authors' AutoAttack on the same network and in the same norm."""
    head = ["network", "attack", "robust accuracy", "points more than AutoAttack", "passes", "seconds", "time", "bar"]
    references = {(cell.network, cell.norm): cell for cell in cells if cell.attack == REFERENCE}
    return markdown(head, [_ensemble_row(cell, references.get((cell.network, cell.norm))) for cell in cells])


def _ensemble_row(cell: Cell, reference: Cell | None) -> list[str]:
    row = [f"{cell.network}, {cell.norm} {cell.eps:.3g}", cell.attack]
    row += [percent(sum(cell.correct) / len(cell.correct), len(cell.correct))]
    cost = [f"{cell.forward:,.0f} + {cell.backward:,.0f}", f"{cell.seconds:.1f}"]
    if reference is None or cell is reference:
        return [*row, "", *cost, "", ""]
    difference = points(paired_difference(cell.correct, reference.correct))
    time = share_of_time(cell.seconds / reference.seconds) + ("" if cell.run == reference.run else " †")
    remarks = [bar(cell, reference), "warns" if cell.attack in EFFORTS and cell.said else ""]
    return [*row, difference, *cost, time, "; ".join(filter(None, remarks))]


def overhead_table(ratios: Mapping[str, Sequence[float]]) -> str:
    """Return what each PGD takes beside bare passes."""
    medians = {name: median_interval(values) for name, values in ratios.items()}
    missed = ["more than torchattacks"] if medians[OURS][0] > medians["torchattacks"][0] else []
    rows = [
        [name, f"{median:.2f} ({low:.2f}–{high:.2f})", str(len(ratios[name])), verdict(missed) if name == OURS else ""]
        for name, (median, low, high) in medians.items()
    ]
    return markdown(["PGD of", "time over bare passes", "rounds", "bar"], rows)


def distance_ratios(one: Cell, other: Cell) -> list[float]:
    """Return the distance of one over that of the other, for each image that both fooled by a change."""
    rows = zip(one.correct, other.correct, one.distance, other.distance, strict=True)
    return [a / b for right, still, a, b in rows if not (right or still) and a > 0 and b > 0]


def distance_bar(own: Cell, foolboxes: Cell) -> str:
    """Say whether ours fools as many as foolbox's, no farther away and twice as fast."""
    speed, ratios = foolboxes.seconds / own.seconds, distance_ratios(own, foolboxes)
    farther, fewer = statistics.median(ratios) if ratios else 1.0, sum(own.correct) - sum(foolboxes.correct)
    missed = [f"only {speed:.1f} times as fast"] if speed < SPEED else []
    missed += [f"{farther:.3f} times as far"] if round(farther, 3) > 1 else []
    missed += [f"fools {fewer} images less"] if fewer > 0 else []
    return verdict(missed, f"met, {speed:.1f} times as fast")


def distance_table(cells: Sequence[Cell]) -> str:
    """Return the attacks that look for the smallest change, beside foolbox's on the same network."""
    head = ["network", "attack", "of", "fooled", "median distance", "over ours", "passes", "seconds", "bar"]
    known = {(cell.network, cell.group, cell.attack): cell for cell in cells}
    return markdown(head, [_distance_row(cell, *(known.get((cell.network, cell.group, n)) for n in (OURS, FOOLBOX)))
                           for cell in cells])  # fmt: skip


def _distance_row(cell: Cell, own: Cell | None, foolboxes: Cell | None) -> list[str]:
    fooled = [d for d, right in zip(cell.distance, cell.correct, strict=True) if not right and d > 0]
    ratios = distance_ratios(cell, own) if own else []
    return [
        *(cell.network, cell.group.replace("_", "-"), cell.attack),
        f"{100 * (1 - sum(cell.correct) / len(cell.correct)):.1f} %",
        f"{statistics.median(fooled):.3f}" if fooled else "",
        f"{statistics.median(ratios):.3f}" if ratios else "",
        f"{cell.forward:,.0f} + {cell.backward:,.0f}",
        f"{cell.seconds:.1f}",
        distance_bar(cell, foolboxes) if cell is own and foolboxes else "",
    ]
