"""A Parquet file of raw (user, item) ids as samples of a prepared store.

Shape legend: n samples of a part, U user records.
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
from ctr.data.samples import Part, Samples
from ctr.data.store import Array, Split, Store
from ctr.data.vocabulary import Vocabulary
from ctr.schema import StoreError, StoreSchema

_log = logging.getLogger(__name__)

# In every store: the feature that tells which raw user a record is of (docs/store_format.md).
_USER_ID = "user_id"


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

    A user of several records has the one with the longest history, and of equally long ones the
    last, since preparations write a later snapshot of a user after an earlier one. Ids outside the
    vocabulary stand for the unknown user, with an empty history, and the unknown item.

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
        user_table, feature_tables = _user_table(store), _feature_tables(store.schema, columns)
        self.file.require(columns.names())
        if columns.history_end is not None:
            self.file.require_kind(columns.history_end, True, "numbers of events")
        opened: dict[str, Vocabulary] = {}
        for column, table in (
            (columns.user, user_table),
            (columns.item, "item"),
            *((column, feature_tables[name]) for name, column in columns.features.items()),
        ):
            if table not in opened:
                opened[table] = Vocabulary(store, table)
            integers = opened[table].of_integers
            self.file.require_kind(column, integers, f"ids of table '{table}'")
        self._users, self._items = opened[user_table], opened["item"]
        self._features = {name: opened[feature_tables[name]] for name in columns.features}
        self._records = _record_of_user(store, user_table)

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
        record = self._records[self._users.rows(stretch.full_values(columns.user))]
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


def _user_table(store: Store) -> str:
    for feature in store.schema.user:
        if feature.name == _USER_ID:
            return feature.table
    raise StoreError(
        f"{store.path}: no user feature '{_USER_ID}', by which raw users would be found; set "
        "samples to a split"
    )


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


def _record_of_user(store: Store, table: str) -> Array:
    """User record by row of the users' table, 0 for row 0: int32 [rows]."""
    # Sorting is stable: of equally long histories, the later record comes later.
    order_U = np.argsort(np.diff(store.history_offsets), kind="stable")
    records = np.zeros(store.schema.table_rows[table], dtype=np.int32)
    # Where a user has several, the last assignment stands.
    records[store.user_features[_USER_ID][order_U]] = order_U
    records[0] = 0
    return records
