"""Comparisons of two sides' predictions: over all rows and over slices of them.

Shape legend: S rows, M predictions, R resamples.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from statistics import NormalDist

import numpy as np

from ctr.metrics.bootstrap import (
    Advance,
    add_seed_spread,
    interval,
    joint_interval,
    resampled_differences,
    resampled_together,
    units_of,
)
from ctr.metrics.differences import PairedRows, Ratio, delong, lower_is_better, metric_ratios
from ctr.metrics.paired import Aligned
from ctr.metrics.slicing import Slice, doubts, slices_of
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
    found: list[_Drawn] = []
    every = _parts(aligned, rows, metrics, in_a, warnings)
    for parts in resampled_together(every, units, len(in_a), len(metrics)):
        found += _drawn(parts, in_a, resamples, seed, advance)
    # Of all of them together, so that none can be judged before the last is known.
    tests = len(found) * len(metrics) + others
    differences = [
        _difference(part, metric, in_a, tests, seed) for part in found for metric in metrics
    ]
    for part in found:
        warnings += doubts(part.name, part.users, part.drawn)
    return Comparison(differences, len(aligned.label), found[0].users, resamples, tests, warnings)


@dataclass(frozen=True)
class _Part:
    """All rows or those of a slice, before resampling.

    Attributes:
        name: of the slice; rows, users: how many.
        ratios: by metric.
        delong: standard error of AUC's difference as if rows were independent; None without AUC.
    """

    name: str
    rows: int
    users: int
    ratios: dict[str, list[Ratio]]
    delong: float | None


@dataclass(frozen=True)
class _Drawn:
    """What is left of a part when its users' sums are no longer needed.

    Attributes:
        name, rows, users, delong: as of the part.
        values: float64 [M] by metric; drawn: float64 [R] by metric, differences.
    """

    name: str
    rows: int
    users: int
    delong: float | None
    values: dict[str, Array]
    drawn: dict[str, Array]


def _parts(
    aligned: Aligned, rows: PairedRows, metrics: Sequence[str], in_a: Array, warnings: list[str]
) -> Iterator[_Part]:
    everything = Slice("", "", "", np.ones(len(aligned.label), dtype=bool))
    count_a = int(in_a.sum())
    for some in chain([everything], slices_of(aligned.slices, warnings)):
        mine, delong_error = rows.where(some.mask), None
        if "auc" in metrics:
            _, delong_error = delong(mine.label, mine.scores[:count_a], mine.scores[count_a:])
        users = len(np.unique(aligned.user[some.mask]))
        ratios = metric_ratios(metrics, mine)
        yield _Part(some.name, len(mine.label), users, ratios, delong_error)


def _drawn(
    parts: Sequence[_Part], in_a: Array, resamples: int, seed: int, advance: Advance | None
) -> Iterator[_Drawn]:
    every = [of_metric for part in parts for of_metric in part.ratios.values()]
    drawn = iter(resampled_differences(every, in_a, resamples, seed, advance))
    for part in parts:
        values = {metric: _values(ratios) for metric, ratios in part.ratios.items()}
        drawn_of = {metric: next(drawn) for metric in part.ratios}
        yield _Drawn(part.name, part.rows, part.users, part.delong, values, drawn_of)


def _values(ratios: Sequence[Ratio]) -> Array:
    # All are the metric; their mean hides that the last bits may differ.
    values_M: Array = np.mean([ratio.values() for ratio in ratios], axis=0)
    return values_M


def _difference(part: _Drawn, metric: str, in_a: Array, tests: int, seed: int) -> Difference:
    values_M, drawn_R = part.values[metric], part.drawn[metric]
    a, b = values_M[in_a], values_M[~in_a]
    difference = float(b.mean() - a.mean())
    low, high = interval(add_seed_spread(drawn_R, a, b, seed))
    delong_low, delong_high = None, None
    if metric == "auc" and part.delong is not None:
        reach = _NORMAL_95 * part.delong
        delong_low, delong_high = difference - reach, difference + reach
    holds = low > 0 or high < 0
    if holds and tests > 1:
        low_of_all, high_of_all = joint_interval(difference, drawn_R, a, b, tests, seed)
        holds = low_of_all > 0 or high_of_all < 0
    return Difference(
        metric=metric,
        slice=part.name,
        rows=part.rows,
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
