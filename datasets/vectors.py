"""Frozen item vectors: checks while reading, and filling the store's array."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from datasets.batches import Batch
from datasets.store import StoreWriter
from datasets.vocab import Vocabulary

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class VectorTable:
    """Item vectors of a source.

    Args:
        width: entries of a vector.
        dtype: int8, float16 or float32.
        batches: pairs of raw item ids [n] and vectors [n, width].
    """

    width: int
    dtype: DTypeLike
    batches: Iterator[tuple[NDArray[Any], NDArray[Any]]]


def vector_rows(batch: Batch, column: str, width: int, dtype: DTypeLike) -> NDArray[Any]:
    """A list column as vectors [n, width].

    Args:
        batch: rows of the file.
        column: the list column.
        width: entries a vector must have.
        dtype: type of the store's vectors.

    Raises:
        DataError: null, wrong width, NaN or infinite, or a value the type cannot hold.
    """
    values, lengths = batch.lists(column)
    bad = np.flatnonzero(lengths != width)
    if len(bad):
        problem = f"vector of width {lengths[bad[0]]}, expected {width}"
        raise batch.fail(problem, "Write vectors of one width", column, int(bad[0]))
    rows = values.reshape(-1, width)
    wanted = np.dtype(dtype)
    bad = np.flatnonzero(~np.isfinite(rows).all(axis=1))
    if len(bad):
        advice = "Remove the row: an item without a vector is allowed"
        raise batch.fail("vector with NaN or infinity", advice, column, int(bad[0]))
    bounds = np.iinfo(wanted) if wanted.kind in "iu" else np.finfo(wanted)
    outside = ((rows < bounds.min) | (rows > bounds.max)).any(axis=1)
    if wanted.kind in "iu" and rows.dtype.kind == "f":
        outside |= (rows != np.trunc(rows)).any(axis=1)
    bad = np.flatnonzero(outside)
    if len(bad):
        problem = f"vector with values that {wanted.name} cannot hold"
        raise batch.fail(problem, "Choose another vector type", column, int(bad[0]))
    result: NDArray[Any] = rows.astype(wanted, copy=False)
    return result


def write_vectors(store: StoreWriter, items: Vocabulary, table: VectorTable) -> None:
    """Fill the store's vectors; of several vectors for one item the first one counts.

    Args:
        store: where to.
        items: vocabulary of table `item`.
        table: where from.
    """
    target = store.vectors(items.size, table.width, table.dtype)
    seen = np.zeros(items.size, bool)
    keys: list[NDArray[Any]] = []
    zero = 0
    for ids, vectors in table.batches:
        keys.append(ids)
        rows = items.rows(ids)
        _, first = np.unique(rows, return_index=True)
        first = first[(rows[first] > 0) & ~seen[rows[first]]]
        target[rows[first]] = vectors[first]
        seen[rows[first]] = True
        zero += int((~vectors[first].any(axis=1)).sum())
    all_keys = np.concatenate(keys) if keys else np.empty(0, np.int64)
    store.count("duplicate_vector_keys", len(all_keys) - len(np.unique(all_keys)))
    store.count("zero_vectors", zero)
    log.info("%d of %d items have a vector", int(seen.sum()) - zero, items.size - 1)
