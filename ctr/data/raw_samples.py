"""A Parquet file of raw (user, item) ids as samples of a prepared store.

Shape legend: n samples of a part.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from ctr.data.raw_file import RawFile, SamplesError, Stretch
from ctr.data.raw_users import RawUsers
from ctr.data.samples import Part, Samples
from ctr.data.store import Array, Split, Store
from ctr.data.vocabulary import Vocabulary
from ctr.schema import StoreSchema

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RawColumns:
    """Columns of a file of samples.

    Attributes:
        user, item: of raw ids.
        history_end: events that the sample may see of its user's history; None for all of them.
        features: of raw values, by the sample feature that they are.
    """

    user: str = "user"
    item: str = "item"
    history_end: str | None = None
    features: dict[str, str] = field(default_factory=dict)

    def names(self) -> list[str]:
        """All of them, each once."""
        end = [] if self.history_end is None else [self.history_end]
        return list(dict.fromkeys([self.user, self.item, *end, *self.features.values()]))


class RawSamples(Samples):
    """A Parquet file with a row for each sample, never held in memory as a whole.

    Users without a record (`RawUsers`) have an empty history, and ids outside the vocabulary stand
    for the unknown item.

    Args:
        path: of the file.
        columns: its columns.
        store: whose raw ids they hold.

    Raises:
        SamplesError: no such file, no Parquet, or a column that is missing or of another type.
        StoreError: a vocabulary that is missing or damaged, or a store without raw users.
    """

    def __init__(self, path: Path, columns: RawColumns, store: Store) -> None:
        self.columns, self.store = columns, store
        self.file = RawFile(path)
        self.schema: pa.Schema = self.file.schema
        self._users, feature_tables = RawUsers(store), _feature_tables(store.schema, columns)
        self.file.require(columns.names())
        if columns.history_end is not None:
            self.file.require_kind(columns.history_end, True, "numbers of events")
        self.file.require_kind(columns.user, self._users.of_integers, "ids of users")
        opened: dict[str, Vocabulary] = {}
        for column, table in (
            (columns.item, "item"),
            *((column, feature_tables[name]) for name, column in columns.features.items()),
        ):
            if table not in opened:
                opened[table] = Vocabulary(store, table)
            integers = opened[table].of_integers
            self.file.require_kind(column, integers, f"ids of table '{table}'")
        self._items = opened["item"]
        self._features = {name: opened[feature_tables[name]] for name in columns.features}

    def __len__(self) -> int:
        return self.file.rows

    def identity(self) -> dict[str, Any]:
        """Digest of the file, and what is read of it."""
        with self.file.path.open("rb") as file:
            digest = hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16))
        return {"file": digest.hexdigest(), "columns": vars(self.columns)}

    def parts(self, rows: int, skip: Collection[int] = ()) -> Iterator[Part]:
        """Stretches of the file, sorted by user record and end of history.

        Raises:
            SamplesError: an empty cell, a number that does not fit, or a damaged file.
        """
        for number, stretch in enumerate(self.file.stretches(self.columns.names(), rows)):
            if number not in skip:
                yield self._part(number, stretch)

    def tables(self) -> Iterator[pa.Table]:
        """The file as it is."""
        return self.file.row_groups()

    def _part(self, number: int, stretch: Stretch) -> Part:
        columns = self.columns
        record = self._users.records(stretch.full_values(columns.user))
        item = self._items.rows(stretch.full_values(columns.item))
        unknown = {"user": int((record == 0).sum()), "item": int((item == 0).sum())}
        features = {}
        for spec in self.store.schema.sample:
            features[spec.name] = np.zeros(len(item), dtype=np.int32)
            if spec.name in self._features:
                # Of this a sample may have none, which is row 0 too.
                values = stretch.values(columns.features[spec.name])
                rows = self._features[spec.name].rows(values)
                features[spec.name] = rows
                unknown[f"sample {spec.name}"] = int((rows == 0).sum()) - values.null_count()
        end = self._history_ends(stretch, record)
        order = np.lexsort((end, record))
        sorted_features = {name: rows[order] for name, rows in features.items()}
        split = Split(record[order], item[order], end[order], None, sorted_features)
        return Part(number, split, order, unknown)

    def _history_ends(self, stretch: Stretch, record: Array) -> Array:
        """Events of each record that the sample may see: int64 [n]."""
        offsets, column = self.store.history_offsets, self.columns.history_end
        length = offsets[record + 1] - offsets[record]
        if column is None:
            return length
        end = stretch.full_values(column).to_numpy()
        # It is not known what an unknown user has seen, and record 0 has no event to show.
        bad = np.flatnonzero((end < 0) | ((end > length) & (record > 0)))
        if len(bad):
            row = int(bad[0])
            raise stretch.wrong(column, row, f"{end[row]}; its user has {length[row]} events")
        return np.where(record > 0, end, 0)


def _feature_tables(schema: StoreSchema, columns: RawColumns) -> dict[str, str]:
    """Table of every sample feature."""
    tables = {feature.name: feature.table for feature in schema.sample}
    there = ", ".join(tables) or "none"
    for name in columns.features.keys() - tables.keys():
        raise SamplesError(
            f"sample_columns.{name}: store '{schema.name}' has no such feature of samples (it has: "
            f"{there}); take it out"
        )
    for name in tables.keys() - columns.features.keys():
        _log.warning(
            "sample feature '%s' has no column, so that all rows lack it; name one with "
            "sample_columns={%s: COLUMN}",
            *(name, name),
        )
    return tables
