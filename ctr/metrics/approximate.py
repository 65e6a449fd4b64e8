"""What public code often computes in place of AUC and GAUC, to show how far that is off.

Shape legend: S rows.
"""

from __future__ import annotations

import numpy as np

from ctr.metrics.grouped import group_metrics
from ctr.metrics.ties import Array, score_keys, scores_of
from ctr.metrics.whole import whole_metrics

THRESHOLDS = 200


def binned_auc(keys: Array, thresholds: int = THRESHOLDS) -> float:
    """Area under the ROC curve drawn straight between equally spaced thresholds, 0 and 1 included.

    Scores between two thresholds count as tied, whatever their order. So do `tf.metrics.auc` and
    `tf.keras.metrics.AUC`, with 200 thresholds unless told otherwise.

    Args:
        keys: of `score_keys`, in any order, [S].
        thresholds: their number.
    """
    one = keys.dtype.type(1)
    place = np.ceil(scores_of(keys >> one) * (thresholds - 1)) / (thresholds - 1)
    return whole_metrics(np.sort(score_keys(keys & one, place))).auc


def batch_gauc(
    keys: Array, codes: Array, batch_rows: int, unknown: int | None = None
) -> tuple[float, float]:
    """GAUC where a group ends with its batch, weighted by rows, over all batches.

    Args:
        keys: of `score_keys`, in the order of the batches, [S].
        codes: uint32 [S], the group of each row.
        batch_rows: rows of a batch.
        unknown: code that stands for no group.

    Returns:
        GAUC and the share of rows that it is made of.
    """
    known = slice(None) if unknown is None else codes != np.uint32(unknown)
    batch = (np.arange(len(keys), dtype=np.uint64) // np.uint64(batch_rows))[known]
    pairs = batch << np.uint64(32) | codes[known]
    of_pair = np.unique(pairs, return_inverse=True)[1].astype(np.uint32)
    found = group_metrics(keys[known], of_pair)
    return found.gauc, found.coverage * len(pairs) / max(1, len(keys))
