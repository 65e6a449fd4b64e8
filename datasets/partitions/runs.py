"""Runs: spilled rows in the order of a key, of which any range of keys can be read.

A run is a folder with one file of bytes for each column and `fences`: how many keys lie below each
of the bounds that it was written with. N rows; F bounds.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from datasets.partitions.keys import HASH_BOUNDS


def write_column(folder: Path, name: str, values_N: NDArray[Any]) -> None:
    """Write a column of a run or a column by itself.

    Args:
        folder: that is there.
        name: of the column.
        values_N: [N] or [N, width].
    """
    values_N.tofile(folder / name)


def read_column(
    folder: Path, name: str, dtype: DTypeLike, start: int = 0, stop: int | None = None
) -> NDArray[Any]:
    """Read rows [start, stop) of a column, by default all.

    Args:
        folder: of the run.
        name: of the column.
        dtype: it was written with; of vectors one that holds a whole row.
        start: first row.
        stop: row after the last.
    """
    kind = np.dtype(dtype)
    count = -1 if stop is None else stop - start
    return np.fromfile(folder / name, kind, count, offset=start * kind.itemsize)


def write_rows(file: Path, start: int, values_n: NDArray[Any]) -> None:
    """Overwrite rows of a column that `reserve` made; other rows may be written meanwhile."""
    with file.open("r+b") as opened:
        opened.seek(start * values_n.itemsize)
        opened.write(np.ascontiguousarray(values_n).data)


def reserve(file: Path, rows: int, dtype: DTypeLike) -> None:
    """Make a column of zeros, which takes no room on disk until it is written."""
    with file.open("wb") as opened:
        opened.truncate(rows * np.dtype(dtype).itemsize)


def write_run(
    folder: Path,
    key_N: NDArray[np.uint64],
    columns: Mapping[str, NDArray[Any]],
    bounds_F: NDArray[np.uint64] = HASH_BOUNDS,
) -> None:
    """Write a run.

    Args:
        folder: made here, or of another run of the same name, which is replaced.
        key_N: rising, uint64.
        columns: further columns, each [N] or [N, width].
        bounds_F: rising, the first one not above any key.
    """
    folder.mkdir(parents=True, exist_ok=True)
    write_column(folder, "key", key_N)
    for name, values in columns.items():
        write_column(folder, name, values)
    fences = np.append(np.searchsorted(key_N, bounds_F), len(key_N))
    write_column(folder, "fences", fences.astype(np.int64))


def fences(folder: Path) -> NDArray[np.int64]:
    """First row of each range of keys and the end of the last, int64 [F + 1]."""
    return read_column(folder, "fences", np.int64)


def read_runs(
    folders: Iterable[Path], span: tuple[int, int], columns: Mapping[str, DTypeLike]
) -> tuple[dict[str, NDArray[Any]], NDArray[np.int64]]:
    """Read some ranges of keys of several runs.

    Args:
        folders: of the runs.
        span: from this bound to before that one.
        columns: those wanted, with their dtypes.

    Returns:
        The columns, one run after another, and the rows of each run, int64.
    """
    parts: dict[str, list[NDArray[Any]]] = {name: [] for name in columns}
    lengths = []
    for folder in folders:
        cuts = fences(folder)
        start, stop = int(cuts[span[0]]), int(cuts[span[1]])
        lengths.append(stop - start)
        for name, dtype in columns.items() if stop > start else ():
            parts[name].append(read_column(folder, name, dtype, start, stop))
    joined = {
        name: np.concatenate([np.empty(0, dtype), *parts[name]]) for name, dtype in columns.items()
    }
    return joined, np.array(lengths, np.int64)
