"""Raw ids -> rows of an embedding table, by the vocabularies of a prepared store."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from ctr.data.store import Store
from ctr.schema import StoreError


class Vocabulary:
    """The raw ids of a table, held in memory: integers or strings.

    Args:
        store: prepared store.
        table: a table of it.

    Raises:
        StoreError: its file is missing, damaged, or not of this table.
    """

    def __init__(self, store: Store, table: str) -> None:
        self._file = store.path / "vocab" / f"{table}.parquet"
        frame = read_ids(self._file, ["raw", "row"])
        if frame.schema["row"] != pl.Int32:
            raise unusable(self._file, f"raw {frame.schema['raw']}, row {frame.schema['row']}")
        rows = store.schema.table_rows[table]
        if not np.array_equal(frame["row"].to_numpy(), np.arange(1, rows)):
            raise unusable(self._file, f"its rows are not 1 to {rows - 1}")
        self._frame = frame

    @property
    def of_integers(self) -> bool:
        """Whether the ids are integers; they are strings otherwise."""
        return self._frame.schema["raw"] == pl.Int64

    def rows(self, values: pl.Series) -> np.ndarray:
        """Row of each id, 0 for those that are unknown or null: int32 [n].

        Args:
            values: Int64 or String [n], as the ids are.

        Raises:
            StoreError: an id that stands in the vocabulary twice.
        """
        asked = values.alias("raw").to_frame()
        # First the few ids that are asked for are found in one walk through the vocabulary, which
        # then need not be hashed or sorted.
        known = self._frame.join(asked.unique(), on="raw", how="semi")
        if known["raw"].n_unique() < len(known):
            twice = known["raw"].filter(known["raw"].is_duplicated())[0]
            raise unusable(self._file, f"id {twice!r} comes twice")
        found = asked.join(known, on="raw", how="left", maintain_order="left")
        return found["row"].fill_null(0).to_numpy()

    def raw(self, rows: np.ndarray) -> list[int | str | None]:
        """Raw id of each row int [n], None for row 0.

        Raises:
            IndexError: a row that the table does not have.
        """
        return self.ids(rows).to_list()

    def ids(self, rows: np.ndarray) -> pl.Series:
        """As `raw`, as a column: Int64 or String [n]."""
        place = pl.Series(rows)
        # Row r is at place r - 1.
        return self._frame["raw"].gather(place.set(place == 0, None) - 1)


def read_ids(file: Path, columns: list[str]) -> pl.DataFrame:
    """Some columns of a Parquet file of a store, `raw` with integers or strings among them.

    Raises:
        StoreError: the file is missing or damaged, or `raw` is of another type.
    """
    try:
        with pq.ParquetFile(file, page_checksum_verification=True) as opened:
            found = opened.read(columns)
        frame = pl.DataFrame(found.select(columns))
    except (OSError, KeyError, pa.ArrowException, pl.exceptions.PolarsError) as error:
        raise unusable(file, f"cannot be read ({str(error).splitlines()[0]})") from None
    if frame.schema["raw"] not in (pl.Int64, pl.String):
        kinds = ", ".join(f"{name} {kind}" for name, kind in frame.schema.items())
        raise unusable(file, kinds)
    return frame


def unusable(file: Path, problem: str) -> StoreError:
    """Error about a file of a store."""
    return StoreError(f"{file}: {problem}; prepare the store again")
