"""Rows that each bring a sequence of their own, and the user records that they can share."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

_PIECE_EVENTS = 8_000_000


@dataclass(frozen=True)
class Records:
    """Which rows share a history.

    Args:
        of_row: record of each row, counted from 0, int64 [S].
        longest: a row that has the whole history of each record, int64 [R].
    """

    of_row: NDArray[np.int64]
    longest: NDArray[np.int64]


def share_prefixes(
    user_S: NDArray[np.int64], items_T: NDArray[np.int64], lengths_S: NDArray[np.int64]
) -> Records:
    """Give rows of one user one record where one sequence begins the other.

    A user gets as few records as possible: one for each sequence that begins no longer one. They
    are ordered by user and sequence, whatever the order of the rows.

    Args:
        user_S: user of each row.
        items_T: their sequences, one row after another.
        lengths_S: events of each row, summing to T.
    """
    # As bytes the sequences have some order of words in which beginnings come first.
    ends_S = np.concatenate([[0], np.cumsum(lengths_S)]) * items_T.itemsize
    buffers = [None, pa.py_buffer(ends_S), pa.py_buffer(np.ascontiguousarray(items_T))]
    words = pa.LargeBinaryArray.from_buffers(pa.large_binary(), len(user_S), buffers)
    table = pl.DataFrame({"user": user_S, "word": pl.Series(words)}).with_row_index("row")
    table = table.sort("user", "word", maintain_order=True)
    # What begins any word of its user begins the next one in that order.
    goes_on = (pl.col("user") == pl.col("user").shift(-1)) & pl.col("word").shift(
        -1
    ).bin.starts_with(pl.col("word"))
    last = ~table.select(goes_on.fill_null(False)).to_series().to_numpy()
    row = table["row"].to_numpy().astype(np.int64)
    of_row = np.empty(len(user_S), np.int64)
    of_row[row] = np.cumsum(last) - last
    return Records(of_row, row[last])


def pieces(sizes: NDArray[np.int64], limit: int) -> Iterator[slice]:
    """Cut a list into runs of neighbours of at most `limit` in all, or of one that is larger.

    Args:
        sizes: of each entry, int64 [n].
        limit: of a run.
    """
    total = np.cumsum(sizes)
    begin = 0
    while begin < len(sizes):
        done = int(total[begin - 1]) if begin else 0
        end = max(begin + 1, int(np.searchsorted(total, done + limit, side="right")))
        yield slice(begin, end)
        begin = end


class Sequences:
    """The sequences of all rows, on disk.

    Args:
        path: .npy file of raw ids, one row after another, oldest first, int64 [T].
        lengths_S: events of each row, summing to T.
    """

    def __init__(self, path: Path, lengths_S: NDArray[np.int64]) -> None:
        self.lengths = lengths_S
        self._starts = np.cumsum(lengths_S) - lengths_S
        # A file without entries cannot be memory-mapped.
        self._items = np.load(path, mmap_mode="r" if lengths_S.any() else None)

    def events(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Sequences of the given rows, one after another, int64 [T].

        Args:
            rows: int64 [n].
        """
        lengths = self.lengths[rows]
        shift = self._starts[rows] - (np.cumsum(lengths) - lengths)
        places = np.repeat(shift, lengths) + np.arange(lengths.sum())
        found: NDArray[np.int64] = np.asarray(self._items[places])
        return found

    def pieces(self, rows: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
        """The given rows in runs whose events fit into memory."""
        for part in pieces(self.lengths[rows], _PIECE_EVENTS):
            yield rows[part]

    def records(self, user_S: NDArray[np.int64]) -> Records:
        """Records that the rows share (`share_prefixes`), found some users at a time.

        Args:
            user_S: user of each row, int64 [S].
        """
        order = np.argsort(user_S, kind="stable")
        changed = np.flatnonzero(np.diff(user_S[order])) + 1
        bounds = np.concatenate([[0], changed, [len(order)]])
        of_row = np.empty(len(order), np.int64)
        longest = [np.empty(0, np.int64)]
        done = 0
        sizes = np.add.reduceat(self.lengths[order], bounds[:-1])
        for part in pieces(sizes, _PIECE_EVENTS):
            rows = order[bounds[part.start] : bounds[part.stop]]
            found = share_prefixes(user_S[rows], self.events(rows), self.lengths[rows])
            of_row[rows] = done + found.of_row
            longest.append(rows[found.longest])
            done += len(found.longest)
        return Records(of_row, np.concatenate(longest))
