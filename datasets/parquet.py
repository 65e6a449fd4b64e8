"""Checked reading of Parquet files in batches: every complaint names file, column and row."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from datasets.batches import FETCH_AGAIN, Batch
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
    return data_error(problem, FETCH_AGAIN, file=file)


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
