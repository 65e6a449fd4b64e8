"""Metrics of the runs with intervals, on all rows and on slices, and how the runs differ."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import polars as pl

from ctr.metrics import Metrics, evaluate_predictions
from ctr.metrics.bootstrap import Advance
from ctr.metrics.comparison import Comparison, compare
from ctr.metrics.files import PredictionFile
from ctr.metrics.paired import Aligned, Columns, read_aligned
from ctr.metrics.slice_scores import SliceScores, score_slices
from ctr.metrics.slicing import slices_of
from ctr.metrics.ties import Array
from ctr.metrics.whole import BINS
from tools.report.runs import Run
from tools.report.scores import Calibration, calibrations

# Compared between runs; calibration, of which neither more nor less is better, has an interval too.
COMPARED = ("auc", "gauc", "log_loss", "pr_auc")
SLICED = ("auc", "gauc")
SLICE_COLUMNS = (
    "history_length",
    "target_train_samples",
    "target_has_vector",
    "user_train_samples",
    "best_similarity",
)


@dataclass(frozen=True)
class Draws:
    """Of the bootstrap: how many resamples, the seed of their weights, and who is told of them."""

    resamples: int
    seed: int
    advance: Advance | None = None


@dataclass(frozen=True)
class Rows:
    """The rows of all runs.

    Attributes:
        aligned: with the scores in the order of the runs, and the slice columns that there are.
        source: place of the run whose slice columns these are.
    """

    aligned: Aligned
    source: int


@dataclass(frozen=True)
class Measures:
    """All numbers of a report; lists are in the order of the runs, comparisons of those after the
    first with it.

    Attributes:
        plain: metrics without intervals; headline: those with one, on all rows.
        calibration: of each run; slices: metrics on slices.
        differences: on all rows; slice_differences: on slices too.
    """

    plain: list[Metrics]
    headline: list[SliceScores]
    calibration: list[Calibration]
    slices: list[SliceScores]
    differences: list[Comparison]
    slice_differences: list[Comparison]


def read_rows(runs: Sequence[Run], common_rows: bool) -> Rows:
    """Match the rows of the runs' predictions.

    Slice columns come from one run, so that all are cut alike: from the first that has most.

    Raises:
        PredictionError: rows or labels that differ, or a damaged file.
    """
    columns = [_usable(run) for run in runs]
    source = max(range(len(runs)), key=lambda place: (len(columns[place]), -place))
    order = [source, *(place for place in range(len(runs)) if place != source)]
    wanted = Columns(slices=tuple(columns[source]), unknown="0")
    aligned = read_aligned([runs[place].predictions for place in order], wanted, common_rows)
    scores = tuple(aligned.scores[order.index(place)] for place in range(len(runs)))
    return Rows(replace(aligned, scores=scores), source)


def _usable(run: Run) -> list[str]:
    """Slice columns of the run's predictions that hold anything."""
    there = [name for name in SLICE_COLUMNS if name in PredictionFile(run.predictions).types]
    if not there:
        return []
    counts = pl.scan_parquet(run.predictions).select(pl.col(there).count()).collect().row(0)
    return [name for name, count in zip(there, counts, strict=True) if count]


def intervals(rows: Rows) -> int:
    """How many intervals `measure` makes."""
    runs = len(rows.aligned.scores)
    parts = 1 + sum(1 for _ in slices_of(rows.aligned.slices, []))
    sliced = parts * len(SLICED) if rows.aligned.slices else 0
    of_run = 1 + len(COMPARED) + BINS + sliced
    return runs * of_run + (runs - 1) * (len(COMPARED) + sliced)


def measure(rows: Rows, draws: Draws) -> Measures:
    """Compute everything.

    Args:
        rows: of all runs; draws: of the bootstrap, told of resamples x `intervals` in all.
    """
    aligned = rows.aligned
    whole = replace(aligned, slices={})
    plain, headline, slices = [], [], []
    for score in aligned.scores:
        plain.append(_plain(aligned, score))
        headline.append(_scored(whole, score, (*COMPARED, "calibration"), draws))
        if aligned.slices:
            slices.append(_scored(aligned, score, SLICED, draws))
    return Measures(
        plain=plain,
        headline=headline,
        calibration=calibrations(aligned, draws.resamples, draws.seed, draws.advance),
        slices=slices,
        differences=_differences(whole, COMPARED, draws),
        slice_differences=_differences(aligned, SLICED, draws) if aligned.slices else [],
    )


def _plain(aligned: Aligned, score: Array) -> Metrics:
    # Group 0 is that of unknown users.
    group = np.where(aligned.known, aligned.group.astype(np.int64) + 1, 0)
    return evaluate_predictions(aligned.label, score, group)


def _scored(aligned: Aligned, score: Array, metrics: Sequence[str], draws: Draws) -> SliceScores:
    one = replace(aligned, scores=(score,))
    return score_slices(one, metrics, draws.resamples, draws.seed, draws.advance)


def _differences(aligned: Aligned, metrics: Sequence[str], draws: Draws) -> list[Comparison]:
    first, *others = aligned.scores
    parts = 1 + sum(1 for _ in slices_of(aligned.slices, []))
    # Those of the other pairs are looked at together with these.
    beside = (len(others) - 1) * parts * len(metrics)
    return [
        compare(
            replace(aligned, scores=(first, other)),
            1,
            metrics,
            draws.resamples,
            draws.seed,
            beside,
            draws.advance,
        )
        for other in others
    ]
