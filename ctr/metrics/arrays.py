"""Metrics of predictions that are in memory: functions of numpy arrays.

Shape legend: S samples.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np

from ctr.metrics.grouped import GroupMetrics, group_metrics
from ctr.metrics.ties import Array, PredictionError, score_keys
from ctr.metrics.whole import WholeMetrics, whole_metrics


@dataclass(frozen=True)
class Metrics:
    """Offline metrics of one set of predictions.

    Attributes:
        samples: rows; users: distinct known users among them; ctr: share of clicks.
        gauc: weighted by rows; gauc_unweighted: every user counts the same.
        gauc_coverage: share of rows whose user has both classes.
        calibration: mean prediction over mean label.
        pr_auc, predicted_ctr, ece, ece_equal_rows: as of `WholeMetrics`.
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
    gauc_unweighted: float
    pr_auc: float
    predicted_ctr: float
    ece: float
    ece_equal_rows: float

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
    keys = score_keys(label, score)
    grouped = _group_metrics(keys, group, unknown=0)
    keys.sort()
    whole = whole_metrics(keys)
    return Metrics(
        samples=whole.rows,
        users=grouped.groups,
        ctr=whole.ctr,
        auc=whole.auc,
        gauc=grouped.gauc,
        gauc_coverage=grouped.coverage,
        log_loss=whole.log_loss,
        normalised_entropy=whole.normalised_entropy,
        calibration=whole.calibration,
        gauc_unweighted=grouped.gauc_unweighted,
        pr_auc=whole.pr_auc,
        predicted_ctr=whole.predicted_ctr,
        ece=whole.ece,
        ece_equal_rows=whole.ece_equal_rows,
    )


def auc(label: Array, score: Array) -> float:
    """Probability that a click outscores a non-click, ties counting half; NaN with one class.

    Args:
        label: [S], 0 or 1; score: float [S], of any range.
    """
    return _whole_metrics(label, _as_probability(score)).auc


def gauc(label: Array, score: Array, group: Array) -> tuple[float, float]:
    """AUC inside each group, averaged with the group's rows as weight (arXiv 1706.06978, 5.3).

    Groups with one class have no AUC and are left out.

    Args:
        label: [S], 0 or 1; score: float [S], of any range; group: int [S], usually the user.

    Returns:
        GAUC (NaN if no group has both classes) and the share of rows in the groups counted.
    """
    found = _group_metrics(score_keys(label, _as_probability(score)), group)
    return found.gauc, found.coverage


def log_loss(label: Array, score: Array) -> float:
    """Mean binary cross-entropy in nats of probabilities [S], clipped to [1e-15, 1 - 1e-15]."""
    return _whole_metrics(label, score).log_loss


def normalised_entropy(label: Array, score: Array) -> float:
    """Log loss over that of always predicting the mean label (He et al., ADKDD 2014, section 2)."""
    return _whole_metrics(label, score).normalised_entropy


def _whole_metrics(label: Array, score: Array) -> WholeMetrics:
    return whole_metrics(np.sort(score_keys(label, score)))


def _group_metrics(keys: Array, group: Array, unknown: int | None = None) -> GroupMetrics:
    distinct, codes = np.unique(group, return_inverse=True)
    place = np.flatnonzero(distinct == unknown)
    return group_metrics(keys, codes.astype(np.uint32), int(place[0]) if len(place) else None)


def _as_probability(score: Array) -> Array:
    """Numbers in [0, 1] in the same order and with the same ties: ranks over their number."""
    distinct, rank = np.unique(score, return_inverse=True)
    return rank / max(1, len(distinct))
