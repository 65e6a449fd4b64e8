"""Metrics over all rows, from sorted keys: AUC, PR-AUC, log loss, entropy, calibration.

Sums of floats are pairwise (numpy) within a block and exact (`math.fsum`) over blocks; counts of
pairs are integers. So the result does not depend on the order of the rows.

Shape legend: S rows, T ties of a block, W ways of binning (equal width, equal rows), N bins.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from ctr.metrics.ties import BLOCK_ROWS, Array, Ties, scores_of, tie_blocks

BINS = 15
_TINY = 1e-15


@dataclass(frozen=True)
class WholeMetrics:
    """Metrics over all rows; NaN where one is not defined for these labels.

    Attributes:
        rows, clicks: counts; ctr: share of clicks; predicted_ctr: mean score.
        calibration: predicted_ctr / ctr.
        auc: probability that a click outscores a non-click, ties counting half.
        pr_auc: average precision, the sum over thresholds of precision x rise of recall.
        log_loss: mean binary cross-entropy in nats, scores clipped to [1e-15, 1 - 1e-15].
        normalised_entropy: log loss over that of always predicting the CTR (He et al., ADKDD 2014).
        ece: expected calibration error over bins of equal width (Guo et al., arXiv 1706.04599).
        ece_equal_rows: the same over bins of equal numbers of rows, ties never split.
    """

    rows: int
    clicks: int
    ctr: float
    predicted_ctr: float
    calibration: float
    auc: float
    pr_auc: float
    log_loss: float
    normalised_entropy: float
    ece: float
    ece_equal_rows: float


@dataclass
class _Sums:
    """What blocks have added up so far.

    Attributes:
        wins: twice the pairs of a click and a non-click of a lower score, plus tied pairs.
        score, loss, precision: a sum for each block.
    """

    wins: int = 0
    rows: int = 0
    clicks: int = 0
    score: list[float] = field(default_factory=list)
    loss: list[float] = field(default_factory=list)
    precision: list[float] = field(default_factory=list)


def whole_metrics(keys: Array, bins: int = BINS, block_rows: int = BLOCK_ROWS) -> WholeMetrics:
    """All metrics over all rows.

    Args:
        keys: of `score_keys`, sorted, [S].
        bins: of the expected calibration error.
        block_rows: looked at together.
    """
    sums = _Sums()
    gaps_WN = np.zeros((2, bins))
    for ties in tie_blocks(keys, block_rows):
        score = scores_of(ties.value)
        _add_gaps(gaps_WN, ties, score, sums.rows, len(keys))
        _add(sums, ties, score)
    return _metrics(sums, gaps_WN)


def _add(sums: _Sums, ties: Ties, score: Array) -> None:
    rows = ties.clicks + ties.others
    clicks_through = sums.clicks + np.cumsum(ties.clicks)
    rows_through = sums.rows + np.cumsum(rows)
    clicks_above = clicks_through - ties.clicks
    # Fits int64 up to 4 billion rows.
    sums.wins += int((ties.others * (2 * clicks_above + ties.clicks)).sum())
    sums.precision.append(float((ties.clicks * (clicks_through / rows_through)).sum()))
    sums.score.append(float((score * rows).sum()))
    p = np.clip(score, _TINY, 1.0 - _TINY)
    loss = ties.clicks * np.log(p) + ties.others * np.log1p(-p)
    sums.loss.append(-float(loss.sum()))
    sums.clicks, sums.rows = int(clicks_through[-1]), int(rows_through[-1])


def _add_gaps(gaps_WN: Array, ties: Ties, score: Array, rows_before: int, all_rows: int) -> None:
    bins = gaps_WN.shape[1]
    rows = ties.clicks + ties.others
    gap = score * rows - ties.clicks
    width = np.minimum((score * bins).astype(np.int64), bins - 1)
    first_row = rows_before + np.cumsum(rows) - rows
    for gaps_N, place in zip(gaps_WN, (width, first_row * bins // all_rows), strict=True):
        # Sorted scores: the ties of a bin are neighbours, and reduceat adds them pairwise.
        start = np.flatnonzero(np.diff(place, prepend=-1))
        gaps_N[place[start]] += np.add.reduceat(gap, start)


def _metrics(sums: _Sums, gaps_WN: Array) -> WholeMetrics:
    rows, clicks = sums.rows, sums.clicks
    ctr, predicted = _ratio(clicks, rows), _ratio(math.fsum(sums.score), rows)
    pairs = 2 * clicks * (rows - clicks)
    loss = _ratio(math.fsum(sums.loss), rows)
    width, equal = (_ratio(math.fsum(np.abs(gaps_N)), rows) for gaps_N in gaps_WN)
    return WholeMetrics(
        rows=rows,
        clicks=clicks,
        ctr=ctr,
        predicted_ctr=predicted,
        calibration=_ratio(predicted, ctr),
        auc=_ratio(sums.wins, pairs),
        pr_auc=_ratio(math.fsum(sums.precision), clicks),
        log_loss=loss,
        normalised_entropy=loss / entropy(ctr) if 0 < clicks < rows else math.nan,
        ece=width,
        ece_equal_rows=equal,
    )


def entropy(ctr: float) -> float:
    """Log loss in nats of always predicting a CTR strictly between 0 and 1."""
    return -(ctr * math.log(ctr) + (1.0 - ctr) * math.log1p(-ctr))


def _ratio(a: float, b: float) -> float:
    return a / b if b > 0 else math.nan
