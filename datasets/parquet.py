"""Checked reading of Parquet files in batches: every complaint names file, column and row."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray
from tqdm import tqdm

from datasets.errors import DataError, data_error
from remote.path import Location, RemotePath

INTEGER = "integer"
NUMBER = "number"
TEXT = "text"
INTEGER_LIST = "list of integers"
NUMBER_LIST = "list of numbers"
KEY = "integer or text"
_BATCH_VALUES = 4_000_000
_MAX_BATCH_ROWS = 262_144
_FETCH_AGAIN = "Fetch or write the file again"


def _is_number(kind: pa.DataType) -> bool:
    return pa.types.is_integer(kind) or pa.types.is_floating(kind)


def _fits(kind: pa.DataType, wanted: str) -> bool:
    is_list = (
        pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    )
    if wanted in (INTEGER_LIST, NUMBER_LIST):
        test = pa.types.is_integer if wanted == INTEGER_LIST else _is_number
        return bool(is_list and test(kind.value_type))
    is_text = pa.types.is_string(kind) or pa.types.is_large_string(kind)
    if wanted in (TEXT, KEY):
        return bool(is_text or (wanted == KEY and pa.types.is_integer(kind)))
    return bool((pa.types.is_integer if wanted == INTEGER else _is_number)(kind))


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
            raise self.fail("null inside the list", _FETCH_AGAIN, column, row)
        self._fits_int64(values, column, np.cumsum(lengths))
        return values.to_numpy(zero_copy_only=False), lengths


@dataclass(frozen=True)
class Piece:
    """Some consecutive rows of one file of a table, small enough for one task.

    Args:
        file: which of the table's files.
        groups: row groups [first, last) of a Parquet file.
        first_row: place of the first row in the file.
        rows: how many.
    """

    file: int
    groups: tuple[int, int]
    first_row: int
    rows: int


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


class ParquetSource:
    """One table kept in one or several Parquet files, read column by column in batches.

    Args:
        files: the files, in order; of a URL only the columns that are wanted are fetched, one row
            group at a time.
        columns: wanted columns: name in the file -> INTEGER, NUMBER, TEXT, KEY,
            INTEGER_LIST or NUMBER_LIST.

    Attributes:
        rows: of all files.
        names: all columns of the first file.

    Raises:
        DataError: a file is missing or damaged, or a column is missing or of another type.
    """

    def __init__(self, files: Sequence[Location], columns: Mapping[str, str]) -> None:
        self.files = list(files)
        self.columns = list(columns)
        self.rows = 0
        self.names: list[str] = []
        self._batch_rows: list[int] = []
        self._group_rows: list[list[int]] = []
        for file in files:
            with _open(file) as opened:
                _check_schema(file, opened.schema_arrow, columns)
                self.names = self.names or list(opened.schema_arrow.names)
                self.rows += opened.metadata.num_rows
                self._batch_rows.append(_rows_per_batch(opened.metadata, self.columns))
                groups = range(opened.metadata.num_row_groups)
                self._group_rows.append([opened.metadata.row_group(g).num_rows for g in groups])

    def batches(self, about: str) -> Iterator[Batch]:
        """Read the files in order, with a progress bar on a terminal.

        Args:
            about: words for the progress bar.

        Raises:
            DataError: a file turns out to be damaged.
        """
        with tqdm(total=self.rows, desc=about, unit="row", unit_scale=True, disable=None) as bar:
            for file, size in zip(self.files, self._batch_rows, strict=True):
                first = 0
                for data in _record_batches(file, size, self.columns):
                    yield Batch(file, first, data)
                    first += data.num_rows
                    bar.update(data.num_rows)

    def pieces(self, batches: int) -> list[Piece]:
        """Cut the table into pieces of whole row groups, in order.

        Args:
            batches: how many a piece should make, row groups allowing.
        """
        pieces = []
        for file, (size, rows) in enumerate(zip(self._batch_rows, self._group_rows, strict=True)):
            first_group = first_row = held = 0
            for group, count in enumerate(rows):
                held += count
                if held >= batches * size or group == len(rows) - 1:
                    pieces.append(Piece(file, (first_group, group + 1), first_row, held))
                    first_group, first_row, held = group + 1, first_row + held, 0
        return pieces

    def read(self, piece: Piece, share: float = 1.0) -> Iterator[Batch]:
        """Read a piece in batches.

        Args:
            piece: of this table.
            share: size of a batch in that of `batches`, where memory asks for less.

        Raises:
            DataError: the file turns out to be damaged.
        """
        file, first = self.files[piece.file], piece.first_row
        size = max(1, int(self._batch_rows[piece.file] * share))
        for data in _record_batches(file, size, self.columns, range(*piece.groups)):
            yield Batch(file, first, data)
            first += data.num_rows


@contextmanager
def _open(file: Location) -> Iterator[pq.ParquetFile]:
    """A file, opened; what goes wrong while it is read becomes a DataError."""
    if not file.is_file():
        raise data_error("no such file", "Check the path of the source", file=file)
    try:
        # Checksums are those of pages that were written with one; others are read as they are. Read
        # ahead, Arrow would fetch a column of all row groups at once.
        with (
            file.open() if isinstance(file, RemotePath) else nullcontext(file) as content,
            pq.ParquetFile(
                content, pre_buffer=content is file, page_checksum_verification=True
            ) as table,
        ):
            yield table
    except DataError:
        raise
    except Exception as error:
        # Arrow's own are ArrowException and plain OSError; a protocol's package has others.
        own = isinstance(error, pa.ArrowException) or type(error) is OSError
        if isinstance(file, RemotePath) and not own:
            raise file.failure(error) from None
        if own or isinstance(error, OSError):
            raise _damaged(file, error) from None
        raise


def _damaged(file: Location, error: Exception) -> DataError:
    problem = f"cannot be read, it is truncated or damaged ({str(error).splitlines()[0]})"
    return data_error(problem, _FETCH_AGAIN, file=file)


def _record_batches(
    file: Location, size: int, columns: list[str], groups: Sequence[int] | None = None
) -> Iterator[pa.RecordBatch]:
    with _open(file) as opened:
        yield from opened.iter_batches(batch_size=size, columns=columns, row_groups=groups)


def _check_schema(file: Location, schema: pa.Schema, columns: Mapping[str, str]) -> None:
    for column, wanted in columns.items():
        if column not in schema.names:
            problem = f"no such column; the file has {', '.join(schema.names)}"
            raise data_error(problem, "Check that this is the right file", file=file, column=column)
        if schema.names.count(column) > 1:
            problem, advice = "column comes twice", "Write each column once"
            raise data_error(problem, advice, file=file, column=column)
        kind = schema.field(column).type
        if not _fits(kind, wanted):
            problem = f"type {kind}, expected {wanted}"
            raise data_error(problem, "Write the column with that type", file=file, column=column)


def _rows_per_batch(metadata: pq.FileMetaData, columns: list[str]) -> int:
    """Choose batches that hold about the same number of values however long the lists are."""
    values = 0
    for group in range(metadata.num_row_groups):
        chunks = metadata.row_group(group)
        for index in range(chunks.num_columns):
            chunk = chunks.column(index)
            if chunk.path_in_schema.split(".")[0] in columns:
                values += chunk.num_values
    mean = max(1.0, values / max(1, metadata.num_rows))
    return max(1, min(_MAX_BATCH_ROWS, int(_BATCH_VALUES / mean)))


def find_files(folder: Location, stem: str) -> list[Location]:
    """Files of one table: `stem*.parquet`, each a file or a folder of Parquet files.

    Args:
        folder: where to look.
        stem: how their names begin.

    Raises:
        DataError: there are none.
    """
    files: list[Location] = []
    for path in sorted([*folder.glob(f"{stem}*.parquet"), *folder.glob(stem)]):
        files.extend(sorted(path.rglob("*.parquet")) if path.is_dir() else [path])
    if not files:
        problem = f"neither a file {stem}*.parquet nor a folder {stem} with Parquet files"
        raise data_error(problem, "Check the path of the source", file=folder / f"{stem}.parquet")
    return files


def file_sizes(files: Sequence[Location], folder: Location) -> dict[str, int]:
    """Size of each file in bytes, by its name within a folder.

    Args:
        files: in the folder or below it.
        folder: of the source.
    """
    # As text: a local path and a URL say differently what follows a folder.
    return {str(file).removeprefix(f"{folder}/"): file.stat().st_size for file in files}
