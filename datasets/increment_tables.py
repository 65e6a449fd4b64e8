"""Tables of two days in one: yesterday's ids keep their rows, and today's new ones follow.

n rows of today's table, row 0 included.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from datasets.errors import data_error
from datasets.segments import PreparedStore
from datasets.vocab import Vocabulary

# How often an id must be seen to get a row: the option of Taobao-MM, and the ids of an event log.
_THRESHOLDS = {"item": ("min_frequency", "items"), "user_id": ("user_min_frequency", "users")}


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

    An id of yesterday keeps the count that it had. A new one gets a row; where yesterday's
    preparation had a threshold for the table, only if it is seen as often today.

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
    options = parent.manifest.get("source", {}).get("options", {})
    wanted = new.count.to_numpy() >= _least_count(options, name)
    # Taobao-MM's threshold is for behaviours; the target of a sample has a row however rare it is.
    if name == "item" and "min_frequency" in options:
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


def _least_count(options: Mapping[str, Any], table: str) -> int:
    """The threshold of yesterday's preparation by its options, 0 where it had none."""
    option, ids = _THRESHOLDS.get(table, ("", ""))
    if option in options:
        return int(options[option])
    # Those of an event log; a world has numbers under the same names.
    groups = {name: options.get(name) for name in ("users", "items")}
    entities = {name: group for name, group in groups.items() if isinstance(group, dict)}
    if ids in entities:
        trained = entities[ids].get("vocabulary") == "train"
        return int(entities[ids].get("min_frequency", 0)) if trained else 0
    for group in entities.values():
        if table in group.get("features", {}):
            return int(group["features"][table].get("min_frequency", 0))
    return 0
