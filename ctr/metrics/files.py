"""Columns of a Parquet file of predictions, read a batch at a time.

Shape legend: S rows of the file.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ctr.metrics.ties import Array, PredictionError, score_keys

_BATCH_ROWS = 1 << 20
# Pages are read as they are needed, however large the file's row groups are.
_READ_BUFFER = 1 << 23
# Rows whose strings are numbered together, in so many parts by hash.
_CODED_ROWS = 1 << 22
_PART_BITS = 4
_PARTS = 1 << _PART_BITS
_THREADS = 2


class PredictionFile:
    """A Parquet file with a row for each prediction, of any system.

    Args:
        path: of the file.

    Raises:
        PredictionError: no such file, no Parquet, or no rows.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            # Neither mapped nor read ahead: both would count as memory of this process.
            self._file = pq.ParquetFile(path, buffer_size=_READ_BUFFER, pre_buffer=False)
        except (OSError, pa.ArrowException) as error:
            raise PredictionError(f"{path}: cannot be read as Parquet ({error})") from None
        self.rows: int = self._file.metadata.num_rows
        self.types: dict[str, pa.DataType] = {
            item.name: item.type for item in self._file.schema_arrow
        }
        if self.rows == 0:
            raise PredictionError(f"{path}: has no rows")

    def require(self, columns: Sequence[str]) -> None:
        """Raise PredictionError, with the columns that there are, unless all of these are."""
        missing = [name for name in columns if name not in self.types]
        if missing:
            raise PredictionError(
                f"{self.path}: has no column {', '.join(map(repr, missing))}; it has "
                f"{', '.join(map(repr, self.types))}"
            )

    def read_keys(self, label: str, score: str) -> Array:
        """Keys of `score_keys`, in the file's order: uint32 [S] for float32 scores, else uint64.

        Args:
            label, score: columns.

        Raises:
            PredictionError: a missing column, one of another type, an empty cell, a label other
                than 0 and 1, or a score outside [0, 1]; names file, column and row.
        """
        self.require([label, score])
        if label == score:
            raise PredictionError(f"{self.path}: columns {label!r} and {score!r} are the same")
        if not pa.types.is_floating(self.types[score]):
            raise self._wrong_type(score, "floating point numbers")
        kind = self.types[label]
        if not (pa.types.is_boolean(kind) or pa.types.is_integer(kind) or _is_float(kind)):
            raise self._wrong_type(label, "0 and 1")
        keys: Array | None = None
        for begin, batch in self._batches([label, score]):
            labels, scores = (c.to_numpy(zero_copy_only=False) for c in batch.columns)
            part = score_keys(labels, scores, self._column(label), self._column(score), begin)
            if keys is None:
                keys = np.empty(self.rows, dtype=part.dtype)
            keys[begin : begin + len(part)] = part
        assert keys is not None
        return keys

    def read_codes(self, column: str, unknown: str | None = None) -> tuple[Array, int | None]:
        """A code for each distinct value of a column: the group of each row.

        Args:
            column: of any type, usually integers or strings.
            unknown: a value that stands for no group, as text; None if there is none.

        Returns:
            uint32 [S], and the code of `unknown`; None if no row can have it.

        Raises:
            PredictionError: no such column, an empty cell, or an `unknown` of another type.
        """
        self.require([column])
        wanted = None if unknown is None else self._parse(column, unknown)
        if pa.types.is_integer(self.types[column]):
            codes = self._small_integers(column)
            if codes is not None:
                value = None if wanted is None else wanted.as_py()
                return codes, value if value is not None and 0 <= value < 1 << 32 else None
        codes, distinct = self._dictionary(column)
        if wanted is None:
            return codes, None
        part = int(_part_of(pa.array([wanted.as_py()], wanted.type))[0])
        place = -1 if distinct[part] is None else pc.index(distinct[part], wanted).as_py()
        return codes, None if place < 0 else place * _PARTS + part

    def _small_integers(self, column: str) -> Array | None:
        """Integers as they are, or None if one does not fit uint32."""
        codes = np.empty(self.rows, dtype=np.uint32)
        for begin, batch in self._batches([column]):
            values = batch.column(0).to_numpy()
            if values.min() < 0 or values.max() >= 1 << 32:
                return None
            codes[begin : begin + len(values)] = values
        return codes

    def _dictionary(self, column: str) -> tuple[Array, list[pa.Array]]:
        """Codes, and the distinct values by part: a code is a place in its part, times parts."""
        codes = np.empty(self.rows, dtype=np.uint32)
        distinct: list[pa.Array | None] = [None] * _PARTS
        begin = 0
        waiting: list[pa.Array] = []
        with ThreadPoolExecutor(_THREADS) as threads:
            for next_row, batch in self._batches([column]):
                if next_row - begin >= _CODED_ROWS:
                    codes[begin:next_row] = _code(waiting, distinct, threads)
                    begin, waiting = next_row, []
                waiting.append(_plain(batch.column(0)))
            codes[begin:] = _code(waiting, distinct, threads)
        return codes, distinct

    def _batches(self, columns: list[str]) -> Iterator[tuple[int, pa.RecordBatch]]:
        """Number of the first row, and the columns in the order given."""
        begin = 0
        try:
            for batch in self._file.iter_batches(_BATCH_ROWS, columns=columns):
                if not batch.num_rows:
                    continue
                batch = batch.select(columns)
                for name in columns:
                    self._check_full(name, batch.column(name), begin)
                yield begin, batch
                begin += batch.num_rows
        except (OSError, pa.ArrowException) as error:
            raise PredictionError(
                f"{self.path}: cannot be read from row {begin} on ({error})"
            ) from None

    def _check_full(self, name: str, values: pa.Array, begin: int) -> None:
        if values.null_count:
            row = begin + pc.index(pc.is_null(values), True).as_py()
            raise PredictionError(f"{self._column(name)}: row {row} is empty")

    def _column(self, name: str) -> str:
        return f"{self.path}: column {name!r}"

    def _parse(self, column: str, text: str) -> pa.Scalar:
        kind = self.types[column]
        if pa.types.is_dictionary(kind):
            kind = kind.value_type
        try:
            return pa.scalar(text).cast(kind)
        except pa.ArrowException as error:
            raise PredictionError(
                f"{self._column(column)}: {text!r} is no value of it ({error})"
            ) from None

    def _wrong_type(self, column: str, wanted: str) -> PredictionError:
        return PredictionError(
            f"{self._column(column)}: of type {self.types[column]}, must hold {wanted}"
        )


def _is_float(kind: pa.DataType) -> bool:
    return bool(pa.types.is_floating(kind))


def _plain(values: pa.Array) -> pa.Array:
    """The values themselves of an array that may be a dictionary."""
    kind = values.type
    return values.cast(kind.value_type) if pa.types.is_dictionary(kind) else values


def _part_of(values: pa.Array) -> Array:
    """Part of each value, uint8: equal ones have the same."""
    hashed = pl.Series(pl.from_arrow(values)).hash(seed=0).to_numpy()
    return (hashed >> np.uint64(64 - _PART_BITS)).astype(np.uint8)


def _code(
    batches: Sequence[pa.Array], distinct: list[pa.Array | None], threads: ThreadPoolExecutor
) -> Array:
    """Codes of the rows of all batches, uint32; distinct values that are new join the others."""
    values = pa.concat_arrays(batches)
    part = _part_of(values)
    # By part, since a table of all distinct values does not fit the processor's cache.
    order = np.argsort(part, kind="stable")
    ends = np.cumsum(np.bincount(part, minlength=_PARTS))
    codes = np.empty(len(order), dtype=np.uint32)

    def code_part(number: int) -> None:
        rows = order[int(ends[number - 1]) if number else 0 : int(ends[number])]
        encoded = values.take(pa.array(rows)).dictionary_encode()
        places, distinct[number] = _join(distinct[number], encoded)
        codes[rows] = places * np.uint32(_PARTS) + np.uint32(number)

    list(threads.map(code_part, range(_PARTS)))
    return codes


def _join(known: pa.Array | None, encoded: pa.DictionaryArray) -> tuple[Array, pa.Array]:
    """Place of each value among all distinct ones, uint32, and those: known ones, then new ones."""
    if known is not None:
        none = pa.DictionaryArray.from_arrays(pa.array([], pa.int32()), known)
        encoded = pa.chunked_array([none, encoded]).unify_dictionaries().chunk(1)
    return encoded.indices.to_numpy().view(np.uint32), encoded.dictionary
