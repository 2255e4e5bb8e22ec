"""Statistics of two methods side by side: exact tests and small-sample intervals, without a statistics package."""

import math
from collections.abc import Sequence
from statistics import mean, stdev
from typing import NamedTuple

_HALVINGS = 200


class Interval(NamedTuple):
    """A mean with the interval around it; its ends are None where a single value leaves them unknown."""

    mean: float
    low: float | None
    high: float | None


def sign_test(more: int, fewer: int) -> float:
    """Two-sided p-value of an exact sign test: how often a fair coin falls at least as unevenly.

    Of two runs' verdicts on the same prompts it is McNemar's exact test: ``more`` prompts are unsafe under one alone,
    ``fewer`` under the other alone.

    >>> sign_test(1, 7), sign_test(0, 0)
    (0.0703125, 1.0)
    """
    total, least = more + fewer, min(more, fewer)
    as_uneven = 2 * sum(math.comb(total, k) for k in range(least + 1))
    return min(1.0, as_uneven / (1 << total))


def mean_interval(values: Sequence[float], confidence: float = 0.95) -> Interval:
    """Student's interval of the mean of independent values, e.g. of two methods' differences by seed.

    Args:
        values: One at least.
        confidence: Between 0 and 1.

    >>> mean_interval([1.0])
    Interval(mean=1.0, low=None, high=None)
    """
    centre = mean(values)
    if len(values) == 1:
        return Interval(centre, None, None)
    half = t_quantile(confidence, len(values) - 1) * stdev(values) / math.sqrt(len(values))
    return Interval(centre, centre - half, centre + half)


def t_quantile(confidence: float, freedom: int) -> float:
    """The t that Student's distribution lies within ±t of with this probability, by halving.

    >>> round(t_quantile(0.95, 2), 4)
    4.3027
    """
    low, high = 0.0, 1.0
    while _within(high, freedom) < confidence:
        high *= 2
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if _within(middle, freedom) < confidence else (low, middle)
    return high


def _within(t: float, freedom: int) -> float:
    """P(|T| ≤ t) of Student's distribution with whole degrees of freedom: Abramowitz & Stegun, 26.7.3 and 26.7.4."""
    angle = math.atan2(t, math.sqrt(freedom))
    cosine, sine = math.cos(angle), math.sin(angle)
    is_odd = freedom % 2 == 1
    term = cosine if is_odd else 1.0
    total = term if freedom > 1 else 0.0
    for k in range(3 if is_odd else 2, freedom - 1, 2):
        term *= cosine**2 * (k - 1) / k
        total += term
    return 2 / math.pi * (angle + sine * total) if is_odd else sine * total
