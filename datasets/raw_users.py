"""The raw users of a store's records: writing, reading and checking `users/raw.parquet`.

U user records, the unknown one included.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from datasets.errors import DataError, data_error
from datasets.vocab import VOCABULARY_ROWS

_FILE = "users/raw.parquet"
_USER_ID = "user_id"


def write_raw_users(
    store: Path, parts: Iterable[pl.Series], dtype: pl.DataType | type[pl.DataType]
) -> None:
    """Write the raw user of every record but 0.

    Args:
        store: its folder.
        parts: ids of records 1, 2, ..., null where not known, one part after another. All but the
            last one have a multiple of `VOCABULARY_ROWS`, so that the file does not depend on them.
        dtype: of the ids, Int64 or String.
    """
    kind = pa.int64() if dtype == pl.Int64 else pa.large_string()
    schema = pa.schema({"raw": kind})
    with pq.ParquetWriter(store / _FILE, schema, compression="zstd") as writer:
        for raw in parts:
            for start in range(0, len(raw), VOCABULARY_ROWS):
                ids = raw[start : start + VOCABULARY_ROWS].to_arrow().cast(kind)
                writer.write_table(pa.table([ids], schema=schema))


def read_raw_users(store: Path, manifest: Mapping[str, Any]) -> pl.Series | None:
    """Read the raw user of every record but 0.

    Args:
        store: its folder.
        manifest: of the store.

    Returns:
        Int64 or String [U - 1], null where not known; None of a store that does not hold them.

    Raises:
        DataError: the file is damaged, or of another length or type.
    """
    if not manifest.get("raw_users", False):
        return None
    try:
        frame = pl.read_parquet(store / _FILE, glob=False)
    except (OSError, pl.exceptions.PolarsError) as error:
        raise _wrong(store, f"cannot be read ({error})") from None
    if list(frame.schema) != ["raw"] or frame.schema["raw"] not in (pl.Int64, pl.String):
        raise _wrong(store, f"columns {dict(frame.schema)}, expected raw")
    records = manifest["histories"]["records"]
    if len(frame) != records - 1:
        problem = f"{len(frame)} ids, expected {records - 1}: one for each record but 0"
        raise _wrong(store, problem)
    return frame["raw"]


def check_raw_users(store: Path, manifest: Mapping[str, Any]) -> None:
    """Compare raw users with the rows that they have in the table of `user_id`.

    Args:
        store: its folder; all its other files of users are as they must be.
        manifest: of the store.

    Raises:
        DataError: the file is damaged, of another length or type, tells another user than the
            feature `user_id`, or is there though the manifest does not say so.
    """
    raw = read_raw_users(store, manifest)
    if raw is None:
        if (store / _FILE).exists():
            raise _wrong(store, "raw users that the manifest does not tell of")
        return
    tables = [f["table"] for f in manifest["features"]["user"] if f["name"] == _USER_ID]
    if not tables:
        return
    known = pl.read_parquet(store / "vocab" / f"{tables[0]}.parquet", glob=False)["raw"]
    if known.dtype != raw.dtype:
        raise _wrong(store, f"ids are {raw.dtype}, those of table {tables[0]} {known.dtype}")
    row = np.load(store / "users" / f"feature_{_USER_ID}.npy", mmap_mode="r")[1:]
    having = np.flatnonzero(row)
    differs = raw.gather(having).ne_missing(known.gather(row[having] - 1))
    if differs.any():
        place = int(having[differs.arg_true()[0]])
        problem = f"id {raw[place]} of a record whose user has the id {known[int(row[place]) - 1]}"
        raise _wrong(store, problem, place)


def _wrong(store: Path, problem: str, row: int | None = None) -> DataError:
    return data_error(problem, "Prepare the data set again", file=store / _FILE, row=row)
