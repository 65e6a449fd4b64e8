"""Samples as arrays, and the checks every source needs for them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from datasets.batches import Batch


@dataclass(frozen=True)
class Samples:
    """Samples of a split under raw ids, in the order of the source.

    Args:
        user_id: int64 [S].
        item: raw id of the target, int64 [S].
        label: 0 or 1, uint8 [S].
    """

    user_id: NDArray[np.int64]
    item: NDArray[np.int64]
    label: NDArray[np.uint8]


def concatenate(parts: list[Samples]) -> Samples:
    """Join samples, keeping their order."""
    return Samples(
        np.concatenate([np.empty(0, np.int64), *(part.user_id for part in parts)]),
        np.concatenate([np.empty(0, np.int64), *(part.item for part in parts)]),
        np.concatenate([np.empty(0, np.uint8), *(part.label for part in parts)]),
    )


def binary_labels(batch: Batch, column: str) -> NDArray[np.uint8]:
    """A label column of 0 and 1 as uint8 [n].

    Raises:
        DataError: a null, or another value.
    """
    values = batch.numbers(column)
    bad = np.flatnonzero((values != 0) & (values != 1))
    if len(bad):
        problem = f"label {values[bad[0]]}, expected 0 or 1"
        raise batch.fail(problem, "Write labels as 0 or 1", column, int(bad[0]))
    return values.astype(np.uint8)


def one_hot_labels(batch: Batch, column: str) -> NDArray[np.uint8]:
    """A label column of lists [not clicked, clicked] as uint8 [n].

    Raises:
        DataError: a null, a list of another length, or one that is not one-hot.
    """
    values, lengths = batch.lists(column)
    advice = "Write labels as [1, 0] for no click and [0, 1] for a click"
    bad = np.flatnonzero(lengths != 2)
    if len(bad):
        problem = f"one-hot label of length {lengths[bad[0]]}, expected 2"
        raise batch.fail(problem, advice, column, int(bad[0]))
    pairs = values.reshape(-1, 2)
    valid = ((pairs == 0) | (pairs == 1)).all(axis=1) & (pairs.sum(axis=1) == 1)
    bad = np.flatnonzero(~valid)
    if len(bad):
        problem = f"label {pairs[bad[0]].tolist()} is not one-hot"
        raise batch.fail(problem, advice, column, int(bad[0]))
    clicked: NDArray[np.uint8] = pairs[:, 1].astype(np.uint8)
    return clicked
