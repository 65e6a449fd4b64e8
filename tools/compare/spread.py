"""Spread over seeds: standard deviation, and the interval of the mean."""

from __future__ import annotations

import functools
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

# The point of one degree of freedom is the largest, 12.71.
_LARGEST = 13.0
_HALVINGS = 60


@dataclass(frozen=True)
class Spread:
    """A figure over the seeds of a variant.

    Attributes:
        mean: None without any value.
        deviation: sample standard deviation; None for fewer than two values.
        low, high: 95% interval of the mean (Student's t); None for fewer than two values.
        values: of each seed, those left out that are not defined.
    """

    mean: float | None
    deviation: float | None
    low: float | None
    high: float | None
    values: tuple[float, ...]


def spread(values: Sequence[float | None]) -> Spread:
    """Mean, standard deviation and 95% interval of the mean; None stands for not defined."""
    known = tuple(value for value in values if value is not None)
    if not known:
        return Spread(None, None, None, None, known)
    mean = statistics.mean(known)
    if len(known) == 1:
        return Spread(mean, None, None, None, known)
    deviation = statistics.stdev(known)
    half = students_t(len(known) - 1) * deviation / math.sqrt(len(known))
    return Spread(mean, deviation, mean - half, mean + half, known)


@functools.cache
def students_t(freedom: int) -> float:
    """The point that a variable of Student's t exceeds in 2.5% of cases.

    Args:
        freedom: degrees of it, at least 1.
    """
    low, high = 0.0, _LARGEST
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (low, middle) if _within(middle, freedom) > 0.95 else (middle, high)
    return high


def _within(point: float, freedom: int) -> float:
    """P(|t| <= point), for whole degrees of freedom (Abramowitz and Stegun, 26.7.3 and 26.7.4)."""
    angle = math.atan(point / math.sqrt(freedom))
    sine, cosine = math.sin(angle), math.cos(angle)
    odd = freedom % 2
    term, total = cosine if odd else 1.0, 0.0
    for place in range(freedom // 2):
        total += term
        above = 2 * place + 1 + odd
        term *= cosine * cosine * above / (above + 1)
    return 2 / math.pi * (angle + sine * total) if odd else sine * total
