"""Comparisons of two sides' predictions: over all rows and over slices of them.

Shape legend: S rows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import NormalDist

import numpy as np

from ctr.metrics.bootstrap import (
    Advance,
    add_seed_spread,
    interval,
    joint_interval,
    resampled_differences,
    units_of,
)
from ctr.metrics.differences import PairedRows, Ratio, delong, lower_is_better, metric_ratios
from ctr.metrics.paired import Aligned
from ctr.metrics.slicing import doubts, slices_of
from ctr.metrics.ties import Array

_NORMAL_95 = NormalDist().inv_cdf(0.975)


@dataclass(frozen=True)
class Difference:
    """A metric of both sides and how they differ, B minus A.

    Attributes:
        metric: name; slice: empty for all rows, else `column = value`.
        rows, users: of the slice; users without a row in it are not counted.
        a, b: of each seed.
        difference: mean of b minus mean of a.
        low, high: 95% interval; NaN where the metric is not defined.
        verdict: better, worse, no difference shown, or undefined; of B against A.
        holds_for_all: whether the verdict stands if all intervals shall hold together (Bonferroni).
        delong_low, delong_high: of AUC, 95% interval as if rows were independent; else None.
    """

    metric: str
    slice: str
    rows: int
    users: int
    a: list[float]
    b: list[float]
    difference: float
    low: float
    high: float
    verdict: str
    holds_for_all: bool
    delong_low: float | None = None
    delong_high: float | None = None


@dataclass(frozen=True)
class Comparison:
    """All differences: every metric over all rows, then over each slice.

    Attributes:
        intervals: how many were looked at.
        warnings: what to know when reading.
    """

    differences: list[Difference]
    rows: int
    users: int
    resamples: int
    intervals: int
    warnings: list[str] = field(default_factory=list)


def compare(
    aligned: Aligned,
    count_a: int,
    metrics: Sequence[str],
    resamples: int,
    seed: int,
    others: int = 0,
    advance: Advance | None = None,
) -> Comparison:
    """Compare the mean of the first `count_a` predictions with the mean of the others.

    Args:
        aligned: rows and predictions, one for each seed of A, then of B.
        count_a: seeds of A.
        metrics: names.
        resamples: of the bootstrap; seed: of its weights.
        others: intervals of other comparisons that are looked at together with these.
        advance: told of the progress, resamples x the number of intervals in all.
    """
    unit, units = units_of(aligned.user, seed)
    rows = PairedRows(aligned.label, unit, aligned.group, aligned.known, aligned.scores, units)
    in_a = np.arange(len(aligned.scores)) < count_a
    warnings = list(aligned.warnings)
    parts = [_Part("", rows, len(np.unique(aligned.user)))]
    for some in slices_of(aligned.slices, warnings):
        users = len(np.unique(aligned.user[some.mask]))
        parts.append(_Part(some.name, rows.where(some.mask), users))
    ratios = [metric_ratios(metrics, part.rows) for part in parts]
    drawn = resampled_differences(
        [of_metric for part in ratios for of_metric in part.values()],
        in_a,
        resamples,
        seed,
        advance,
    )
    names = [(part, metric) for part in parts for metric in metrics]
    tests = len(names) + others
    differences = []
    for number, (part, metric) in enumerate(names):
        values_M = _values(ratios[number // len(metrics)][metric])
        differences.append(_difference(part, metric, values_M, in_a, drawn[number], tests, seed))
    for number, part in enumerate(parts):
        drawn_part = drawn[number * len(metrics) : (number + 1) * len(metrics)]
        warnings += doubts(part.name, part.users, dict(zip(metrics, drawn_part, strict=True)))
    return Comparison(differences, len(aligned.label), parts[0].users, resamples, tests, warnings)


@dataclass(frozen=True)
class _Part:
    """All rows or those of a slice, by name, and how many users have any."""

    name: str
    rows: PairedRows
    users: int


def _values(ratios: Sequence[Ratio]) -> Array:
    # All are the metric; their mean hides that the last bits may differ.
    values_M: Array = np.mean([ratio.values() for ratio in ratios], axis=0)
    return values_M


def _difference(
    part: _Part, metric: str, values_M: Array, in_a: Array, drawn_R: Array, tests: int, seed: int
) -> Difference:
    a, b = values_M[in_a], values_M[~in_a]
    difference = float(b.mean() - a.mean())
    low, high = interval(add_seed_spread(drawn_R, a, b, seed))
    delong_low, delong_high = None, None
    if metric == "auc":
        count_a = int(in_a.sum())
        scores = part.rows.scores
        _, error = delong(part.rows.label, scores[:count_a], scores[count_a:])
        reach = _NORMAL_95 * error
        delong_low, delong_high = difference - reach, difference + reach
    holds = low > 0 or high < 0
    if holds and tests > 1:
        low_of_all, high_of_all = joint_interval(difference, drawn_R, a, b, tests, seed)
        holds = low_of_all > 0 or high_of_all < 0
    return Difference(
        metric=metric,
        slice=part.name,
        rows=len(part.rows.label),
        users=part.users,
        a=a.tolist(),
        b=b.tolist(),
        difference=difference,
        low=low,
        high=high,
        verdict=_verdict(metric, low, high),
        holds_for_all=holds,
        delong_low=delong_low,
        delong_high=delong_high,
    )


def _verdict(metric: str, low: float, high: float) -> str:
    if math.isnan(low):
        return "undefined"
    if low <= 0 <= high:
        return "no difference shown"
    return "better" if (low > 0) != lower_is_better(metric) else "worse"
