"""Checked reading of a Parquet file of samples: every complaint names file, column and row."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ctr.errors import UserError

_BATCH_ROWS = 1 << 16
# Pages are read as they are needed, however large the file's row groups are.
_READ_BUFFER = 1 << 23


class SamplesError(UserError):
    """A file of samples that cannot be scored; names file, column and row and says what to do."""


@dataclass(frozen=True)
class Stretch:
    """Consecutive rows of a file.

    Attributes:
        file: where they come from.
        first: place of the first one in it.
        table: the columns that were asked for.
    """

    file: Path
    first: int
    table: pa.Table

    def values(self, name: str) -> pl.Series:
        """A column of integers or text as Int64 or String, empty cells as null.

        Raises:
            SamplesError: a number of more than 63 bits.
        """
        column = self.table.column(name)
        if pa.types.is_uint64(column.type):
            row = pc.index(pc.greater(column, pa.scalar(2**63 - 1, pa.uint64())), True).as_py()
            if row >= 0:
                raise self.wrong(name, row, f"{column[row]}; write numbers below 2^63")
        kind = _plain(column.type)
        wanted = pa.int64() if pa.types.is_integer(kind) else pa.large_string()
        return pl.Series(column.cast(kind).cast(wanted))

    def full_values(self, name: str) -> pl.Series:
        """As `values`, of a column in which every cell must be filled.

        Raises:
            SamplesError: an empty cell.
        """
        column = self.table.column(name)
        if column.null_count:
            row = pc.index(pc.is_null(column), True).as_py()
            raise self.wrong(name, row, "empty; give every row a value")
        return self.values(name)

    def wrong(self, column: str, row: int, problem: str) -> SamplesError:
        """Error about a row, counted from the first one of the stretch."""
        return SamplesError(f"{self.file}: column {column!r}, row {self.first + row}: {problem}")


class RawFile:
    """A Parquet file whose rows are read a stretch at a time.

    Args:
        path: of the file.

    Raises:
        SamplesError: no such file, or no Parquet.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            # Neither mapped nor read ahead: both would count as memory of this process.
            self._file = pq.ParquetFile(
                path, buffer_size=_READ_BUFFER, pre_buffer=False, page_checksum_verification=True
            )
        except (OSError, pa.ArrowException) as error:
            raise SamplesError(f"{path}: cannot be read as Parquet ({error})") from None
        self.rows: int = self._file.metadata.num_rows
        self.schema: pa.Schema = self._file.schema_arrow

    def require(self, names: Sequence[str]) -> None:
        """Raise SamplesError, with the columns that there are, unless each of these is, once."""
        there = self.schema.names
        for name in names:
            if there.count(name) != 1:
                problem = "is there twice" if name in there else "is not there"
                raise SamplesError(
                    f"{self.path}: column {name!r} {problem}; the file has "
                    f"{', '.join(map(repr, there))}; set user_column, item_column, "
                    "history_end_column and sample_columns to those that are meant"
                )

    def require_kind(self, name: str, integers: bool, meaning: str) -> None:
        """Raise SamplesError unless a column holds integers, or text.

        Args:
            name: of the column.
            integers: whether it must hold integers; text otherwise.
            meaning: what its values are, for the message.
        """
        kind = _plain(self.schema.field(name).type)
        if pa.types.is_integer(kind) if integers else _is_text(kind):
            return
        first = next(self._read([name], 1), pa.table({name: []})).column(name)
        value = repr(first[0].as_py())[:60] if len(first) else "no value"
        wanted = "integers" if integers else "text"
        raise SamplesError(
            f"{self.path}: column {name!r}, row 0: {value}, of type {kind}; {meaning} are "
            f"{wanted}; write the column as such"
        )

    def stretches(self, names: Sequence[str], rows: int) -> Iterator[Stretch]:
        """Some columns of all rows, in order.

        Args:
            names: of the columns.
            rows: of a stretch, exactly; the last one may be shorter.

        Raises:
            SamplesError: a damaged file.
        """
        waiting: list[pa.RecordBatch] = []
        first, wanted = 0, rows
        for batch in self._read(names, min(rows, _BATCH_ROWS)):
            while batch.num_rows >= wanted:
                waiting.append(batch.slice(0, wanted))
                yield Stretch(self.path, first, pa.Table.from_batches(waiting))
                batch = batch.slice(wanted)
                first, wanted, waiting = first + rows, rows, []
            if batch.num_rows:
                waiting.append(batch)
                wanted -= batch.num_rows
        if waiting:
            yield Stretch(self.path, first, pa.Table.from_batches(waiting))

    def row_groups(self) -> Iterator[pa.Table]:
        """All columns of all rows, as the file's writer grouped them.

        Raises:
            SamplesError: a damaged file.
        """
        for group in range(self._file.num_row_groups):
            try:
                yield self._file.read_row_group(group)
            except (OSError, pa.ArrowException) as error:
                raise SamplesError(f"{self.path}: row group {group} is damaged ({error})") from None

    def _read(self, names: Sequence[str], rows: int) -> Iterator[pa.RecordBatch]:
        row = 0
        try:
            for batch in self._file.iter_batches(rows, columns=list(names)):
                yield batch
                row += batch.num_rows
        except (OSError, pa.ArrowException) as error:
            raise SamplesError(f"{self.path}: damaged from row {row} on ({error})") from None


def _plain(kind: pa.DataType) -> pa.DataType:
    """Type of the values of a column that may be a dictionary of them."""
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))
