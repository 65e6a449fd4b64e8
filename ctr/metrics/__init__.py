"""Exact offline metrics of click predictions, in memory or streamed from files."""

from ctr.metrics.arrays import (
    Metrics,
    auc,
    evaluate_predictions,
    gauc,
    log_loss,
    normalised_entropy,
)
from ctr.metrics.ties import PredictionError

__all__ = [
    "Metrics",
    "PredictionError",
    "auc",
    "evaluate_predictions",
    "gauc",
    "log_loss",
    "normalised_entropy",
]
