"""Vocabularies: raw id -> row of an embedding table. Row 0 is padding and unknown."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from datasets.lookup import find_sorted

# Rows of a group of the file; parts of a vocabulary are as long.
VOCABULARY_ROWS = 1 << 20


class Vocabulary:
    """Raw ids in row order; the first one has row 1.

    Args:
        raw: distinct ids without nulls, Int64 or String.
        count: how often each was seen, Int64, of the same length.

    Raises:
        ValueError: ids repeat, are null, or are neither Int64 nor String.
    """

    def __init__(self, raw: pl.Series, count: pl.Series) -> None:
        if raw.dtype not in (pl.Int64, pl.String):
            raise ValueError(f"ids of type {raw.dtype}, expected Int64 or String")
        if raw.null_count() or raw.n_unique() != len(raw):
            raise ValueError("ids of a vocabulary must be distinct and not null")
        self.raw = raw.alias("raw")
        self.count = count.cast(pl.Int64).alias("count")
        self._sorted: NDArray[np.int64] = np.empty(0, np.int64)
        self._row_of_sorted: NDArray[np.int32] = np.empty(0, np.int32)
        if raw.dtype == pl.Int64:
            order = np.argsort(raw.to_numpy(), kind="stable")
            self._sorted = raw.to_numpy()[order]
            self._row_of_sorted = (order + 1).astype(np.int32)

    @property
    def size(self) -> int:
        """Rows of the table, row 0 included."""
        return len(self.raw) + 1

    def frame(self) -> pl.DataFrame:
        """Columns `raw`, `row` (Int32) and `count` (Int64), in row order."""
        rows = pl.Series("row", np.arange(1, self.size, dtype=np.int32))
        return pl.DataFrame([self.raw, rows, self.count])

    def rows(self, values: pl.Series | NDArray[Any]) -> NDArray[np.int32]:
        """Look up rows; unknown and null ids get 0.

        Args:
            values: raw ids [n]; integers for an Int64 vocabulary, strings for a String one.

        Returns:
            int32 [n].
        """
        if self.raw.dtype == pl.String:
            series = pl.Series("raw", values, dtype=pl.String)
            found = series.to_frame().join(
                self.frame(), on="raw", how="left", maintain_order="left"
            )
            return found["row"].fill_null(0).to_numpy().astype(np.int32)
        if isinstance(values, pl.Series) and values.null_count():
            rows = np.zeros(len(values), np.int32)
            known = values.is_not_null().to_numpy()
            rows[known] = self._integer_rows(values.drop_nulls().to_numpy())
            return rows
        return self._integer_rows(np.asarray(values))

    def _integer_rows(self, values: NDArray[Any]) -> NDArray[np.int32]:
        place = find_sorted(self._sorted, values.astype(np.int64, copy=False))
        rows = np.zeros(len(place), np.int32)
        rows[place >= 0] = self._row_of_sorted[place[place >= 0]]
        return rows


def write_vocabulary(
    file: Path,
    dtype: pl.DataType | type[pl.DataType],
    parts: Iterable[tuple[pl.Series, pl.Series]],
) -> None:
    """Write columns `raw`, `row` and `count` of a vocabulary, in row order.

    Args:
        file: to create.
        dtype: of the ids, Int64 or String.
        parts: ids and counts, one after another; the first id has row 1. All but the last one have
            a multiple of `VOCABULARY_ROWS`, so that the file does not depend on the parts.
    """
    kind = pa.int64() if dtype == pl.Int64 else pa.large_string()
    schema = pa.schema({"raw": kind, "row": pa.int32(), "count": pa.int64()})
    first = 1
    with pq.ParquetWriter(file, schema, compression="zstd") as writer:
        for raw, count in parts:
            for start in range(0, len(raw), VOCABULARY_ROWS):
                ids = raw[start : start + VOCABULARY_ROWS].to_arrow().cast(kind)
                rows = pa.array(np.arange(first, first + len(ids), dtype=np.int32))
                counts = count[start : start + VOCABULARY_ROWS].to_arrow()
                writer.write_table(pa.table([ids, rows, counts], schema=schema))
                first += len(ids)


def build_vocabulary(
    counts: pl.DataFrame,
    *,
    min_frequency: int = 1,
    always: pl.Series | None = None,
    missing: Iterable[int | str] = (),
) -> Vocabulary:
    """Make a vocabulary, rows ordered by falling count, then by rising raw id.

    Args:
        counts: columns `raw` and `count`; a raw id may come several times, nulls are left out.
        min_frequency: ids seen fewer times than this share row 0.
        always: ids that get a row whatever their count, even if `counts` lacks them.
        missing: ids that stand for "no value" and never get a row.
    """
    parts = [counts.select("raw", pl.col("count").cast(pl.Int64))]
    if always is not None:
        zero = pl.lit(0, dtype=pl.Int64).alias("count")
        parts.append(always.unique().alias("raw").to_frame().select("raw", zero))
    totals = pl.concat(parts).drop_nulls("raw").group_by("raw").agg(pl.col("count").sum())
    keep = pl.col("count") >= min_frequency
    if always is not None:
        keep = keep | pl.col("raw").is_in(always.drop_nulls().implode())
    absent = pl.Series("absent", list(missing), dtype=totals.schema["raw"])
    kept = totals.filter(keep & ~pl.col("raw").is_in(absent.implode()))
    kept = kept.sort(["count", "raw"], descending=[True, False])
    return Vocabulary(kept["raw"], kept["count"])


def count_values(values: pl.Series | NDArray[Any]) -> pl.DataFrame:
    """Count ids: columns `raw` and `count`, as `build_vocabulary` takes them.

    Args:
        values: raw ids [n].
    """
    series = pl.Series("raw", values)
    return series.to_frame().group_by("raw").agg(pl.len().cast(pl.Int64).alias("count"))
