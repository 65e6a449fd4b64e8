"""What the scores are like: calibration, and how clicks and others are spread over them.

Shape legend: S rows, N bins, U units of resampling.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from matplotlib.figure import Figure

from ctr.metrics.bootstrap import Advance, interval, resampled_metrics, units_of
from ctr.metrics.differences import Ratio
from ctr.metrics.paired import Aligned
from ctr.metrics.ties import Array
from ctr.metrics.whole import BINS
from tools.report.drawing import INK, LINE, MARKERS, MUTED, SERIES, Sketch, legend, slug

_SPREAD_BINS = 40
# Log-odds beyond these are nearer to 0 or 1 than float32 scores mean anything.
_FURTHEST = 16.0
_ROUND = np.array([1e-6, 1e-5, 1e-4, 1e-3, 0.01, 0.1, 0.5, 0.9, 0.99, 0.999])
_FINE = np.unique(np.concatenate([_ROUND, 2 * _ROUND[:6], 5 * _ROUND[:5], [0.3, 0.7, 0.8]]))


@dataclass(frozen=True)
class Calibration:
    """Bins of equally many rows, highest scores first.

    Attributes:
        rows: int64 [N]; predicted, clicked: float64 [N], mean score and share of clicks.
        low, high: float64 [N], 95% interval of the share of clicks.
    """

    rows: Array
    predicted: Array
    clicked: Array
    low: Array
    high: Array


def calibrations(
    aligned: Aligned, resamples: int, seed: int, advance: Advance | None = None
) -> list[Calibration]:
    """Calibration of each predictions, in the bins that `ece_equal_rows` is made of.

    Args:
        aligned: rows and predictions.
        resamples: of the bootstrap over users; seed: of its weights.
        advance: told of the progress, `BINS` x resamples for each predictions at most.
    """
    unit, units = units_of(aligned.user, seed)
    found = []
    for score in aligned.scores:
        bins = equal_row_bins(score)
        ratios = []
        for place in np.unique(bins):
            mine = bins == place
            clicks = np.bincount(unit[mine], aligned.label[mine], units)
            rows = np.bincount(unit[mine], minlength=units).astype(np.float64)
            ratios.append([Ratio(clicks[None], rows)])
        drawn = resampled_metrics(ratios, np.ones(1), resamples, seed, advance)
        ends = np.array([interval(drawn_R) for drawn_R in drawn])
        in_bin = np.bincount(bins)
        there = in_bin > 0
        predicted = np.bincount(bins, score.astype(np.float64))[there] / in_bin[there]
        clicked = np.bincount(bins, aligned.label)[there] / in_bin[there]
        found.append(Calibration(in_bin[there], predicted, clicked, ends[:, 0], ends[:, 1]))
    return found


def equal_row_bins(score: Array, bins: int = BINS) -> Array:
    """Bin of each row by falling score, int64 [S]; a tie lies whole in the bin of its first row.

    Args:
        score: float [S]; bins: N.
    """
    _, place, count = np.unique(-score, return_inverse=True, return_counts=True)
    first = np.cumsum(count) - count
    found: Array = (first * bins // max(1, len(score)))[place]
    return found


def calibration_sketch(labels: Sequence[str], found: Sequence[Calibration]) -> Sketch:
    """Share of clicks against mean score, of all predictions."""
    return Sketch(
        "calibration",
        "Calibration",
        f"Share of clicks against mean score in {BINS} bins of equally many rows, with 95% "
        "intervals over users. On the diagonal the model promises what happens; below it, too "
        "much.",
        partial(_draw_calibration, labels=labels, found=found),
        height=3.6,
    )


def _draw_calibration(figure: Figure, labels: Sequence[str], found: Sequence[Calibration]) -> None:
    plot = figure.add_subplot()
    highs = [np.nanmax([c.predicted.max(), c.clicked.max(), np.nanmax(c.high)]) for c in found]
    top = min(1.0, 1.05 * max(highs))
    plot.plot([0, top], [0, top], color=MUTED, linewidth=1, linestyle=(0, (4, 3)))
    for place, (label, bins) in enumerate(zip(labels, found, strict=True)):
        # The interval of a share need not hold it when few users make it.
        reach = np.maximum(0, [bins.clicked - bins.low, bins.high - bins.clicked])
        plot.errorbar(
            bins.predicted,
            bins.clicked,
            yerr=np.nan_to_num(reach),
            color=SERIES[place],
            marker=MARKERS[place],
            linewidth=1.2,
            elinewidth=1,
            label=label,
        )
    plot.set(xlabel="mean score", ylabel="share of clicks", xlim=(0, top), ylim=(0, top))
    legend(plot)


def spread_sketches(labels: Sequence[str], aligned: Aligned) -> list[Sketch]:
    """For each predictions, how clicks and other rows are spread over the scores."""
    odds = [_log_odds(score) for score in aligned.scores]
    low, high = min(o.min() for o in odds), max(o.max() for o in odds)
    if low == high:
        low, high = low - 0.5, high + 0.5
    edges = np.linspace(low, high, _SPREAD_BINS + 1)
    clicked = aligned.label.astype(bool)
    found = []
    for place, (label, of_run) in enumerate(zip(labels, odds, strict=True)):
        shares = [_shares(of_run[rows], edges) for rows in (clicked, ~clicked)]
        found.append(
            Sketch(
                f"scores_{place + 1}_{slug(label)}",
                f"Scores of {label}",
                f"Share of the {clicked.sum():,} clicks, and of the {(~clicked).sum():,} other "
                f"rows, in each of {_SPREAD_BINS} bins of the score; its axis is even in log-odds."
                " The further apart, the better they are told from each other.",
                partial(_draw_spread, shares=shares, edges=edges, colour=SERIES[place]),
                height=2.7,
            )
        )
    return found


def _shares(odds: Array, edges: Array) -> Array:
    counts = np.histogram(odds, edges)[0]
    shares: Array = counts / max(1, len(odds))
    return shares


def _log_odds(score: Array) -> Array:
    p = score.astype(np.float64)
    with np.errstate(divide="ignore"):
        odds: Array = np.clip(np.log(p) - np.log1p(-p), -_FURTHEST, _FURTHEST)
    return odds


def _draw_spread(figure: Figure, shares: Sequence[Array], edges: Array, colour: str) -> None:
    plot = figure.add_subplot()
    clicks, others = shares
    plot.stairs(others, edges, fill=True, facecolor=LINE, edgecolor=MUTED, label="no click")
    plot.stairs(clicks, edges, color=colour, linewidth=1.8, label="click")
    plot.stairs(others, edges, color=INK, linewidth=0.8, alpha=0.6)
    shown = _ticks(edges[0], edges[-1])
    plot.set_xticks(np.log(shown / (1 - shown)), [f"{p:.4g}" for p in shown])
    plot.set(xlabel="score", ylabel="share of rows", xlim=(edges[0], edges[-1]))
    plot.set_ylim(bottom=0)
    legend(plot)


def _ticks(low: float, high: float) -> Array:
    """Probabilities between two log-odds that an axis names: as round as leaves at least three."""
    first, last = 1 / (1 + np.exp(-low)), 1 / (1 + np.exp(-high))
    for ticks in (_ROUND, _FINE):
        shown: Array = ticks[(ticks > first) & (ticks < last)]
        if len(shown) >= 3:
            return shown
    odds = np.linspace(low, high, 5)[1:-1]
    return np.asarray(1 / (1 + np.exp(-odds)))
