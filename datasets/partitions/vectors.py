"""Item vectors by ranges of rows.

n vectors of a batch or a range, M entries each.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from datasets.npy import write_rows_sparsely
from datasets.partitions.keys import sort_order
from datasets.partitions.reading import PieceTask
from datasets.partitions.runs import read_column, read_runs, write_run
from datasets.partitions.source import SnapshotSource, VectorKind

_HIGH = np.uint64(32)


def read_vectors(
    source: SnapshotSource, spill: Path, bounds: NDArray[np.int64], task: tuple[PieceTask, Path]
) -> list[Path]:
    """Spill the vectors of items that have a row, by their rows.

    Args:
        source: the data set.
        spill: folder for runs.
        bounds: first row of each range.
        task: a piece of the vectors, and the run of its items.
    """
    (_, place, piece), keys = task
    row = np.empty(piece.rows, np.int32)
    row[read_column(keys, "place", np.int64)] = read_column(keys, "row", np.int32)
    folders = []
    done = 0
    for number, vectors in enumerate(source.vectors(piece)):
        theirs = row[done : done + len(vectors)]
        done += len(vectors)
        wanted = np.flatnonzero(theirs)
        key = theirs[wanted].astype(np.uint64) << _HIGH
        order = sort_order(key)
        folder = spill / "vectors" / f"{place:06d}-{number:04d}"
        columns = {"vector": vectors[wanted[order]]}
        write_run(folder, key[order], columns, bounds.astype(np.uint64) << _HIGH)
        folders.append(folder)
    return folders


def write_vectors_range(
    file: Path, kind: VectorKind, runs: Sequence[Path], task: tuple[int, int, int]
) -> tuple[int, int]:
    """Write the vectors of a range of rows; of several for one item the first one counts.

    Args:
        file: of the store, made already.
        kind: of the vectors.
        runs: of the vectors, in the order of the source.
        task: number of the range, its first row and the row after its last.

    Returns:
        Items with a vector, and how many of these are all zeros.
    """
    number, first, last = task
    whole = np.dtype((kind.dtype, (kind.width,)))
    columns, _ = read_runs(runs, (number, number + 1), {"key": np.uint64, "vector": whole})
    row, place = np.unique(columns["key"], return_index=True)
    block: NDArray[Any] = np.zeros((last - first, kind.width), kind.dtype)
    vectors = columns["vector"][place]
    block[(row >> _HIGH).astype(np.int64) - first] = vectors
    write_rows_sparsely(file, first, block)
    return len(row), int((~vectors.any(axis=1)).sum())


def count_repeats(runs: Sequence[Path], span: tuple[int, int]) -> int:
    """Rows of a partition of the vectors whose item had one before."""
    keys = read_runs(runs, span, {"key": np.uint64})[0]["key"]
    return len(keys) - len(np.unique(keys))
