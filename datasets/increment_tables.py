"""Tables of two days in one: yesterday's ids keep their rows, and today's new ones follow.

n rows of today's table, row 0 included.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from datasets.errors import data_error
from datasets.segments import PreparedStore
from datasets.vocab import Vocabulary

# How often an id must be seen to get a row, as the preparation of yesterday was asked.
_MINIMUM = {"item": "min_frequency", "user_id": "user_min_frequency"}


@dataclass(frozen=True)
class Table:
    """A table of both days.

    Args:
        vocabulary: ids of yesterday, then those that are new.
        row: row in it of each row of today's table, int32 [n], 0 for row 0 and what has none.
        before: rows of yesterday's table, row 0 included.
    """

    vocabulary: Vocabulary
    row: NDArray[np.int32]
    before: int


def merge_table(parent: PreparedStore, day: PreparedStore, name: str) -> Table:
    """Put today's ids of a table after yesterday's.

    An id of yesterday keeps the count that it had. A new one must be seen today as often as
    yesterday's preparation asked for, unless it is the target of a sample.

    Args:
        parent: yesterday's store.
        day: today's rows, with every id in its tables.
        name: of the table.

    Raises:
        DataError: ids of another type.
    """
    old, new = _vocabulary(parent, name), _vocabulary(day, name)
    if old.raw.dtype != new.raw.dtype:
        problem = f"ids are {new.raw.dtype}, those of {parent.path} {old.raw.dtype}"
        raise data_error(problem, "Write both with one type", file=day.path, key=name)
    wanted = new.count.to_numpy() >= _least_count(parent, name)
    if name == "item":
        for split in day.manifest["splits"]:
            targets = np.unique(day.array(f"splits/{split}/item"))
            wanted[targets[targets > 0] - 1] = True
    row = np.zeros(new.size, np.int32)
    row[1:] = old.rows(new.raw)
    fresh = np.flatnonzero((row[1:] == 0) & wanted)
    row[1 + fresh] = old.size + np.arange(len(fresh), dtype=np.int32)
    raw = pl.concat([old.raw, new.raw.gather(fresh)])
    count = pl.concat([old.count, new.count.gather(fresh)])
    return Table(Vocabulary(raw, count), row, old.size)


def _vocabulary(store: PreparedStore, table: str) -> Vocabulary:
    file = store.path / "vocab" / f"{table}.parquet"
    try:
        frame = pl.read_parquet(file, glob=False)
        return Vocabulary(frame["raw"], frame["count"])
    except (OSError, ValueError, pl.exceptions.PolarsError) as error:
        problem = f"cannot be read ({error})"
        raise data_error(problem, "Prepare the store again", file=file) from None


def _least_count(parent: PreparedStore, table: str) -> int:
    options = parent.manifest.get("source", {}).get("options", {})
    return int(options.get(_MINIMUM[table], 1)) if table in _MINIMUM else 0
