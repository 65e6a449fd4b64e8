"""Metrics of one model on all rows and on slices of them, with intervals.

Shape legend: S rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np

from ctr.metrics.bootstrap import (
    Advance,
    interval,
    resampled_metrics,
    resampled_together,
    units_of,
)
from ctr.metrics.differences import PairedRows, Ratio, metric_ratios
from ctr.metrics.paired import Aligned
from ctr.metrics.slicing import Slice, doubts, slices_of
from ctr.metrics.ties import Array

# Resampled by their linear part, which leaves what these can be where users are few.
_LINEAR = ("auc", "pr_auc")


@dataclass(frozen=True)
class Estimate:
    """A metric and its 95% interval; NaN where the metric is not defined."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class SliceScore:
    """Metrics of some rows.

    Attributes:
        slice: name; column and values: its parts. All empty for all rows.
        rows, users: of the slice; share: of all rows.
        metrics: by name.
    """

    slice: str
    column: str
    values: str
    rows: int
    share: float
    users: int
    metrics: dict[str, Estimate]


@dataclass(frozen=True)
class SliceScores:
    """Metrics of all rows, then of each slice.

    Attributes:
        intervals: how many there are; resamples: that each is made of.
        warnings: what to know when reading.
    """

    slices: list[SliceScore]
    intervals: int
    resamples: int
    warnings: list[str]


@dataclass(frozen=True)
class _Part:
    """A slice, or all rows, before resampling."""

    slice: Slice
    users: int
    ratios: dict[str, list[Ratio]]


def score_slices(
    aligned: Aligned,
    metrics: Sequence[str],
    resamples: int,
    seed: int,
    advance: Advance | None = None,
) -> SliceScores:
    """Metrics of the first predictions on all rows and on the slices of every slice column.

    Args:
        aligned: rows and predictions.
        metrics: names, of `ctr.metrics.differences`.
        resamples: of the bootstrap over users; seed: of its weights.
        advance: told of the progress, resamples x the number of intervals in all.
    """
    unit, units = units_of(aligned.user, seed)
    score = aligned.scores[:1]
    rows = PairedRows(aligned.label, unit, aligned.group, aligned.known, score, units)
    warnings = list(aligned.warnings)
    parts = _parts(aligned, rows, metrics, warnings)
    slices: list[SliceScore] = []
    for some in resampled_together(parts, units, 1, len(metrics)):
        slices += _scores(some, resamples, seed, warnings, advance)
    return SliceScores(slices, len(slices) * len(slices[0].metrics), resamples, warnings)


def _scores(
    parts: Sequence[_Part],
    resamples: int,
    seed: int,
    warnings: list[str],
    advance: Advance | None,
) -> Iterator[SliceScore]:
    every = [of_metric for part in parts for of_metric in part.ratios.values()]
    drawn = iter(resampled_metrics(every, np.ones(1), resamples, seed, advance))
    for part in parts:
        drawn_of = {metric: next(drawn) for metric in part.ratios}
        warnings += doubts(part.slice.name, part.users, drawn_of)
        yield SliceScore(
            slice=part.slice.name,
            column=part.slice.column,
            values=part.slice.values,
            rows=int(part.slice.mask.sum()),
            share=float(part.slice.mask.mean()),
            users=part.users,
            metrics={
                metric: _estimate(float(part.ratios[metric][0].values()[0]), drawn_R, metric)
                for metric, drawn_R in drawn_of.items()
            },
        )


def _estimate(value: float, drawn_R: Array, metric: str) -> Estimate:
    if metric in _LINEAR:
        drawn_R = np.clip(drawn_R, 0.0, 1.0)
    return Estimate(value, *interval(drawn_R))


def _parts(
    aligned: Aligned, rows: PairedRows, metrics: Sequence[str], warnings: list[str]
) -> Iterator[_Part]:
    everything = Slice("", "", "", np.ones(len(aligned.label), dtype=bool))
    for some in chain([everything], slices_of(aligned.slices, warnings)):
        users = len(np.unique(aligned.user[some.mask]))
        yield _Part(some, users, metric_ratios(metrics, rows.where(some.mask)))
