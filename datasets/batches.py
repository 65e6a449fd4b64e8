"""Columns of some rows of a Parquet file as numpy arrays; complaints name file, column and row.

Shape legend: n rows of a batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from datasets.errors import DataError, data_error
from remote.path import Location

FETCH_AGAIN = "Fetch or write the file again"


@dataclass(frozen=True)
class Batch:
    """Some consecutive rows of a file.

    Args:
        file: where they come from.
        first_row: place of the first one in the file.
        data: the columns.
        places: where its rows are counted from `first_row`, where rows have been left out.
    """

    file: Location
    first_row: int
    data: pa.RecordBatch
    places: NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return int(self.data.num_rows)

    def fail(self, problem: str, advice: str, column: str, row: int) -> DataError:
        """Error about one row of this batch (`row` counted from the start of the batch)."""
        place = int(row if self.places is None else self.places[row])
        return data_error(
            problem, advice, file=self.file, column=column, row=self.first_row + place
        )

    def select(self, keep: NDArray[np.bool_]) -> Batch:
        """Some rows of the batch; messages still name their places in the file.

        Args:
            keep: bool [n].
        """
        data = self.data.filter(pa.array(keep))
        return Batch(self.file, self.first_row, data, np.flatnonzero(keep))

    def _no_nulls(self, array: pa.Array, column: str, advice: str) -> None:
        if array.null_count:
            row = int(np.flatnonzero(pc.is_null(array).to_numpy(zero_copy_only=False))[0])
            raise self.fail("null value", advice, column, row)

    def _fits_int64(
        self, array: pa.Array, column: str, ends: NDArray[np.int64] | None = None
    ) -> None:
        """Refuse what a signed integer cannot hold; `ends` are those of the rows of a list."""
        if not pa.types.is_uint64(array.type):
            return
        values = pc.fill_null(array, 0).to_numpy(zero_copy_only=False)
        bad = np.flatnonzero(values > np.iinfo(np.int64).max)
        if len(bad):
            place = int(bad[0])
            row = place if ends is None else int(np.searchsorted(ends, place, side="right"))
            advice = "Write numbers below 2**63"
            raise self.fail(f"value {values[place]}", advice, column, row)

    def lengths(self, column: str) -> NDArray[np.int64]:
        """Length of each row of a list column, -1 for null, int64 [n]."""
        lengths = pc.fill_null(pc.list_value_length(self.data.column(column)), -1)
        result: NDArray[np.int64] = lengths.cast(pa.int64()).to_numpy(zero_copy_only=False)
        return result

    def ends(self, column: str) -> NDArray[np.int64]:
        """Length of each row of a list column and its first, middle and last number, int64 [n, 4].

        A row without any has 0 for these; so have numbers that are null.
        """
        length, numbers = self.lengths(column), _numbers_at(self.data.column(column))
        return np.column_stack([length, np.where(length[:, None] > 0, numbers, 0)])

    def integers(self, column: str, null: int | None = None) -> NDArray[np.int64]:
        """An integer column as int64 [n].

        Args:
            column: its name.
            null: value to put for null, or None to refuse nulls.

        Raises:
            DataError: a null where none is allowed.
        """
        array = self.data.column(column)
        if null is None:
            self._no_nulls(array, column, "Give every row a value or remove the row")
        else:
            array = pc.fill_null(array, pa.scalar(null, array.type))
        self._fits_int64(array, column)
        result: NDArray[np.int64] = array.cast(pa.int64()).to_numpy(zero_copy_only=False)
        return result

    def numbers(self, column: str) -> NDArray[Any]:
        """A column of numbers as the file has them [n]; NaN may be among them.

        Raises:
            DataError: a null.
        """
        array = self.data.column(column)
        self._no_nulls(array, column, "Give every row a value or remove the row")
        values: NDArray[Any] = array.to_numpy(zero_copy_only=False)
        return values

    def keys(self, column: str, null_allowed: bool = False) -> pl.Series:
        """A column of integers or text as Int64 or String [n].

        Args:
            column: its name.
            null_allowed: keep nulls instead of refusing them.

        Raises:
            DataError: a null where none is allowed.
        """
        array = self.data.column(column)
        if not null_allowed:
            self._no_nulls(array, column, "Give every row a value or remove the row")
        is_integer = pa.types.is_integer(array.type)
        self._fits_int64(array, column)
        series = pl.Series(column, array.cast(pa.int64() if is_integer else pa.large_string()))
        return series

    def order(self, column: str) -> NDArray[Any]:
        """A column of times or places as int64 or float64 [n].

        Raises:
            DataError: null, NaN, infinite or negative.
        """
        array = self.data.column(column)
        advice = "Give every event a place or time of 0 or more"
        self._no_nulls(array, column, advice)
        is_integer = pa.types.is_integer(array.type)
        self._fits_int64(array, column)
        cast = array.cast(pa.int64() if is_integer else pa.float64())
        values: NDArray[Any] = cast.to_numpy(zero_copy_only=False)
        bad = np.flatnonzero(~np.isfinite(values) | (values < 0))
        if len(bad):
            problem = f"order value {values[bad[0]]}"
            raise self.fail(problem, advice, column, int(bad[0]))
        return values

    def lists(
        self, column: str, null_is_empty: bool = False
    ) -> tuple[NDArray[Any], NDArray[np.int64]]:
        """A list column as its values, one row after another, and the length of each row.

        Args:
            column: its name.
            null_is_empty: read a null list as an empty one instead of refusing it.

        Raises:
            DataError: a null list where none is allowed, or a null inside a list.
        """
        array = self.data.column(column)
        if not null_is_empty:
            self._no_nulls(array, column, "Give every row a list or remove the row")
        lengths = np.maximum(self.lengths(column), 0)
        # `flatten` skips null lists and follows the offsets of a sliced array.
        values = array.flatten()
        if values.null_count:
            place = int(np.flatnonzero(pc.is_null(values).to_numpy(zero_copy_only=False))[0])
            row = int(np.searchsorted(np.cumsum(lengths), place, side="right"))
            raise self.fail("null inside the list", FETCH_AGAIN, column, row)
        self._fits_int64(values, column, np.cumsum(lengths))
        return values.to_numpy(zero_copy_only=False), lengths


def _numbers_at(lists: pa.ListArray) -> NDArray[np.int64]:
    """First, middle and last number of each row, int64 [n, 3]; anything where there is none."""
    if not len(lists.values):
        return np.zeros((len(lists), 3), np.int64)
    offsets = lists.offsets.to_numpy()
    begin, end = offsets[:-1], offsets[1:]
    place = np.stack([begin, (begin + end) // 2, end - 1], axis=1).reshape(-1)
    numbers = lists.values.take(pa.array(place.clip(0, len(lists.values) - 1)))
    # What no signed integer holds is refused where the column is read.
    numbers = pc.fill_null(numbers, pa.scalar(0, numbers.type)).cast(pa.int64(), safe=False)
    found: NDArray[np.int64] = numbers.to_numpy(zero_copy_only=False).reshape(-1, 3)
    return found
