"""Exact offline metrics of click predictions: pure functions of numpy arrays.

Shape legend: S samples.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np

from ctr.errors import UserError

Array = np.ndarray
_TINY = 1e-15


def _average_ranks(score: Array, group: Array) -> Array:
    """1-based rank of each score within its group; ties share the mean of their ranks.

    Both arrays are sorted by group, then by score.
    """
    places = np.arange(len(score), dtype=np.float64)
    new_group = np.empty(len(score), dtype=bool)
    new_group[:1] = True
    new_group[1:] = group[1:] != group[:-1]
    new_tie = new_group.copy()
    new_tie[1:] |= score[1:] != score[:-1]
    tie_start = np.flatnonzero(new_tie)
    tie_length = np.diff(tie_start, append=len(score))
    mean_place = places[tie_start] + (tie_length - 1) / 2.0
    group_start = np.flatnonzero(new_group)
    group_length = np.diff(group_start, append=len(score))
    return np.repeat(mean_place, tie_length) - np.repeat(places[group_start], group_length) + 1.0


def _group_auc(label: Array, score: Array, group: Array) -> tuple[Array, Array, Array]:
    """AUC, rows and clicks of each group, groups rising; AUC is NaN for one-class groups."""
    order = np.lexsort((score, group))
    label, score, group = label[order].astype(np.float64), score[order], group[order]
    starts = np.flatnonzero(np.diff(group, prepend=group[:1] - 1))
    rows = np.diff(starts, append=len(group)).astype(np.float64)
    clicks = np.add.reduceat(label, starts)
    rank_sum = np.add.reduceat(label * _average_ranks(score, group), starts)
    pairs = clicks * (rows - clicks)
    wins = rank_sum - clicks * (clicks + 1.0) / 2.0
    return np.where(pairs > 0, wins / np.where(pairs > 0, pairs, 1.0), np.nan), rows, clicks


def auc(label: Array, score: Array) -> float:
    """Probability that a click outscores a non-click, ties counting half; NaN with one class.

    Args:
        label: [S], 0 or 1; score: float [S].
    """
    if len(label) == 0:
        return float("nan")
    return float(_group_auc(label, score, np.zeros(len(label), dtype=np.int64))[0][0])


def gauc(label: Array, score: Array, group: Array) -> tuple[float, float]:
    """AUC inside each group, averaged with the group's rows as weight (arXiv 1706.06978, 5.3).

    Groups with one class have no AUC and are left out.

    Args:
        label: [S], 0 or 1; score: float [S]; group: int [S], usually the user.

    Returns:
        GAUC (NaN if no group has both classes) and the share of rows in the groups counted.
    """
    if len(label) == 0:
        return float("nan"), 0.0
    value, rows, _ = _group_auc(label, score, group.astype(np.int64))
    counted = ~np.isnan(value)
    if not counted.any():
        return float("nan"), 0.0
    weight = rows[counted]
    return float((value[counted] * weight).sum() / weight.sum()), float(weight.sum() / rows.sum())


def log_loss(label: Array, score: Array) -> float:
    """Mean binary cross-entropy in nats of probabilities [S], clipped to [1e-15, 1 - 1e-15]."""
    p = np.clip(score.astype(np.float64), _TINY, 1.0 - _TINY)
    y = label.astype(np.float64)
    return float(-(y * np.log(p) + (1.0 - y) * np.log1p(-p)).mean()) if len(y) else float("nan")


def normalised_entropy(label: Array, score: Array) -> float:
    """Log loss over that of always predicting the mean label (He et al., ADKDD 2014, section 2)."""
    mean = float(label.mean()) if len(label) else 0.0
    if not 0.0 < mean < 1.0:
        return float("nan")
    base = -(mean * np.log(mean) + (1.0 - mean) * np.log(1.0 - mean))
    return log_loss(label, score) / float(base)


class PredictionError(UserError):
    """Predictions that no metric is defined for; names the row."""


@dataclass(frozen=True)
class Metrics:
    """Offline metrics of one set of predictions.

    Attributes:
        samples: rows; users: distinct known users among them; ctr: share of clicks.
        gauc_coverage: share of rows whose user has both classes.
        calibration: mean prediction over mean label.
    """

    samples: int
    users: int
    ctr: float
    auc: float
    gauc: float
    gauc_coverage: float
    log_loss: float
    normalised_entropy: float
    calibration: float

    def as_dict(self) -> dict[str, float]:
        """Plain values by name."""
        return asdict(self)


def evaluate_predictions(label: Array, score: Array, group: Array) -> Metrics:
    """All metrics of probabilities `score` [S] for labels [S], grouped by user `group` [S].

    Group 0 is the unknown user: its rows come from different people, so GAUC leaves them out.

    Raises:
        PredictionError: different lengths, labels other than 0/1, or scores outside [0, 1].
    """
    if not len(label) == len(score) == len(group):
        raise PredictionError(f"{len(label)} labels, {len(score)} scores and {len(group)} groups")
    if not np.isin(label, (0, 1)).all():
        raise PredictionError("label: values other than 0 and 1")
    if not ((score >= 0) & (score <= 1)).all():
        row = int(np.flatnonzero(~((score >= 0) & (score <= 1)))[0])
        raise PredictionError(
            f"score: row {row} is {score[row]}, must be a probability; did training diverge?"
        )
    # A float32 sum of many probabilities would lose digits that the metrics promise.
    label, score = label.astype(np.float64), score.astype(np.float64)
    known = group != 0
    value, coverage = gauc(label[known], score[known], group[known])
    clicks = float(label.mean()) if len(label) else float("nan")
    return Metrics(
        samples=len(label),
        users=len(np.unique(group[known])),
        ctr=clicks,
        auc=auc(label, score),
        gauc=value,
        gauc_coverage=coverage * float(known.mean()) if len(label) else 0.0,
        log_loss=log_loss(label, score),
        normalised_entropy=normalised_entropy(label, score),
        calibration=float(score.mean() / clicks) if clicks > 0 else float("nan"),
    )
