"""What each prediction is about: columns to cut an evaluation by, beside label and score.

What the store knows of a sample is looked up for a whole split; what the search did comes batch by
batch from the forward pass.

Shape legend: S samples of the split, B samples of a batch, K picks, U user records.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

import numpy as np

from ctr.metrics.ties import Array, PredictionError

if TYPE_CHECKING:
    # Tools that only read predictions ask here for names, and start without torch.
    from torch import Tensor

    from ctr.data.batch import Batch
    from ctr.data.store import Split, Store
    from ctr.model.gsu import Retrieved

SLICE_COLUMNS = (
    "history_length",
    "target_train_samples",
    "target_has_vector",
    "user_train_samples",
    "retrieved",
    "best_similarity",
    "mean_similarity",
    "median_age",
)
ALL = "all"
# Samples counted together: a count of each row of a table is made anew for every such piece.
_COUNTED = 1 << 24
# Above any place in a history.
_NO_AGE = 2**31 - 1


def wanted_slices(given: Sequence[str], there: Collection[str], where: object) -> tuple[str, ...]:
    """The slice columns that a command line asks for, `all` being those of this module.

    Args:
        given: names, or `all` among them.
        there: columns of the file; where: the file, for the error.

    Raises:
        PredictionError: `all` of a file that has none.
    """
    if ALL not in given:
        return tuple(dict.fromkeys(given))
    found = [name for name in SLICE_COLUMNS if name in there]
    if not found:
        raise PredictionError(
            f"{where}: has no slice column; ctr/evaluate.py writes {', '.join(SLICE_COLUMNS)}"
        )
    return tuple(dict.fromkeys([*found, *(name for name in given if name != ALL)]))


def store_columns(
    store: Store, split: Split, train: Split, history_length: int
) -> dict[str, Array]:
    """What the store tells of every sample of a split.

    Args:
        store: that the splits are of.
        split: whose samples are looked at.
        train: that the run was trained on.
        history_length: latest behaviours that a sample may see.

    Returns:
        history_length int32: events the sample sees. target_train_samples int32: samples of `train`
        with its target; 0 for the unknown item. target_has_vector bool, where the store has
        vectors. user_train_samples int32: samples of `train` of its user, whichever records they
        look at; 0 for the unknown user. Each [S].
    """
    items = _counts(train.item, store.schema.table_rows["item"])
    items[0] = 0
    columns = {
        "history_length": np.minimum(split.history_end, history_length).astype(np.int32),
        "target_train_samples": items[split.item].astype(np.int32),
    }
    if store.vector_inv_norm is not None:
        columns["target_has_vector"] = store.vector_inv_norm[split.item] > 0
    columns["user_train_samples"] = _user_counts(store, train)[split.user].astype(np.int32)
    return columns


def search_columns(batch: Batch, retrieved: Retrieved) -> dict[str, Array]:
    """What the search found for every sample of a batch.

    Args:
        batch: on any device; may be empty.
        retrieved: its picks.

    Returns:
        retrieved int32: picks. best_similarity, mean_similarity float32: highest and mean cosine of
        the picks that have one, where the picks carry similarities. median_age float32: of the
        picks, 1 being the latest event that the sample sees. Each [B]; NaN where nothing is known.
    """
    mask_BK = retrieved.mask_BK
    # Sorted by numpy, which is many times as fast as torch on a CPU.
    age_BK = ages(batch, retrieved).masked_fill(~mask_BK, _NO_AGE).int().cpu().numpy()
    count_B = (age_BK < _NO_AGE).sum(axis=1)
    columns = {"retrieved": count_B.astype(np.int32)}
    if retrieved.similarity_BK is not None:
        known_BK = mask_BK if retrieved.known_BK is None else mask_BK & retrieved.known_BK
        similarity_BK = retrieved.similarity_BK.float().masked_fill(~known_BK, np.nan)
        columns |= _similarities(similarity_BK.cpu().numpy())
    age_BK.sort(axis=1)
    # The one in the middle twice, or the two of an even number.
    places_B2 = np.stack([(count_B - 1) // 2, count_B // 2], axis=1)
    places_B2 = places_B2.clip(0, age_BK.shape[1] - 1)
    middle_B = np.take_along_axis(age_BK, places_B2, axis=1).mean(axis=1)
    columns["median_age"] = np.where(count_B > 0, middle_B, np.nan).astype(np.float32)
    return columns


def _similarities(similarity_BK: Array) -> dict[str, Array]:
    """Highest and mean of what is not NaN in each row of float32 [B, K]; NaN where all is."""
    known_BK = ~np.isnan(similarity_BK)
    count_B = known_BK.sum(axis=1)
    sum_B = np.where(known_BK, similarity_BK, 0.0).sum(axis=1, dtype=np.float64)
    mean_B = np.divide(sum_B, count_B, out=np.full(len(sum_B), np.nan), where=count_B > 0)
    return {
        "best_similarity": np.fmax.reduce(similarity_BK, axis=1),
        "mean_similarity": mean_B.astype(np.float32),
    }


def ages(batch: Batch, retrieved: Retrieved) -> Tensor:
    """Place of each pick counted back from the end of what its sample sees: int64 [B, K], 1 is the
    latest; of no meaning where nothing was picked."""
    end_B = batch.history_offsets_U.index_select(0, batch.user_B) + batch.history_end_B
    return end_B[:, None] - retrieved.index_BK


def _user_counts(store: Store, train: Split) -> Array:
    """Samples of `train` by user record, int64 [U]; records of one user share their sum."""
    records = _counts(train.user, len(store.history_offsets) - 1)
    records[0] = 0
    user_id = store.user_features.get("user_id")
    if user_id is None:
        return records
    # Exact: sums of whole numbers far below 2^53.
    users = np.bincount(user_id, records).astype(np.int64)
    # Row 0 of the table stands for many users, whose records nobody can join.
    return np.where(user_id > 0, users[user_id], records)


def _counts(rows: Array, size: int) -> Array:
    """How often each row of a table of that size comes, int64 [size]."""
    total = np.zeros(size, dtype=np.int64)
    for begin in range(0, len(rows), _COUNTED):
        total += np.bincount(rows[begin : begin + _COUNTED], minlength=size)
    return total
