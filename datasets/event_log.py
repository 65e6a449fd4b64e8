"""A log of events and the tables beside it, read, checked, sorted by user and split.

Shape legend: T events, U users.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from datasets.errors import data_error
from datasets.events_config import Entities, EventLog, Feature
from datasets.parquet import INTEGER, KEY, NUMBER, ParquetSource
from datasets.samples import binary_labels
from remote.path import Location

TRAIN, VALID, TEST = 0, 1, 2
SPLITS = {"train": TRAIN, "valid": VALID, "test": TEST}


@dataclass(frozen=True)
class Log:
    """All events, sorted by user and by order within a user.

    Args:
        user: place of the event's user in `users`, int64 [T].
        users: distinct raw ids, sorted [U].
        item: raw ids, Int64 or String [T].
        label: uint8 [T].
        side: side columns, Int64 or String [T].
        place: of the event in its user's history, int64 [T].
        split: TRAIN, VALID or TEST, int8 [T].
    """

    user: NDArray[np.int64]
    users: pl.Series
    item: pl.Series
    label: NDArray[np.uint8]
    side: dict[str, pl.Series]
    place: NDArray[np.int64]
    split: NDArray[np.int8]

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Events of each user, int64 [U]."""
        return np.bincount(self.user, minlength=len(self.users)).astype(np.int64)


def split_by_user(
    lengths: NDArray[np.int64], test_fraction: float, valid_fraction: float
) -> NDArray[np.int8]:
    """Split each user's events in order.

    Args:
        lengths: events of each user, int64 [U].
        test_fraction: of a user's events, rounded down, at least one event.
        valid_fraction: of a user's events, rounded down.

    Returns:
        TRAIN, VALID or TEST for each event, one user after another, int8 [sum of lengths].
    """
    # The tiny addition undoes float products that fall just short of a whole number.
    tested = np.maximum(1, np.floor(lengths * test_fraction + 1e-9)).astype(np.int64)
    validated = np.floor(lengths * valid_fraction + 1e-9).astype(np.int64)
    from_end = np.repeat(np.cumsum(lengths), lengths) - np.arange(lengths.sum())
    tested, both = np.repeat(tested, lengths), np.repeat(tested + validated, lengths)
    split = np.where(from_end <= tested, TEST, np.where(from_end <= both, VALID, TRAIN))
    return split.astype(np.int8)


def read_log(config: EventLog, source: Location) -> Log:
    """Read, sort and split the events.

    Args:
        config: description of the log.
        source: folder of its files.

    Raises:
        DataError: bad input.
    """
    events = config.events
    kinds = {side.column: KEY for side in events.side.values()}
    kinds |= {events.user: KEY, events.item: KEY, events.order: NUMBER, events.label: INTEGER}
    parts = []
    for batch in ParquetSource([source / events.file], kinds).batches("events"):
        columns = {
            "user": batch.keys(events.user),
            "item": batch.keys(events.item),
            "order": pl.Series(batch.order(events.order)),
            "label": pl.Series(binary_labels(batch, events.label)),
        }
        for name, side in events.side.items():
            columns[f"side_{name}"] = batch.keys(side.column, null_allowed=True)
        parts.append(pl.DataFrame(columns))
    if sum(len(part) for part in parts) == 0:
        raise data_error("no events", "Check the source", file=source / events.file)
    frame = pl.concat(parts).sort("user", "order", maintain_order=True)
    users = frame["user"].unique(maintain_order=True)
    user = (frame["user"].rle_id()).cast(pl.Int64).to_numpy()
    lengths = np.bincount(user)
    return Log(
        user,
        users,
        frame["item"],
        frame["label"].to_numpy(),
        {name: frame[f"side_{name}"] for name in events.side},
        np.arange(len(user)) - np.repeat(np.cumsum(lengths) - lengths, lengths),
        split_by_user(lengths, config.split.test_fraction, config.split.valid_fraction),
    )


def read_entities(entities: Entities, source: Location, unique: bool) -> pl.DataFrame | None:
    """Read the table of users or items: column `key` and one column a feature.

    Args:
        entities: description of the table.
        source: folder of its file.
        unique: a key that comes twice is an error; otherwise all rows are returned.

    Raises:
        DataError: bad input.
    """
    if entities.file is None or entities.key is None:
        return None
    file = source / entities.file
    kinds = {feature.column: KEY for feature in entities.features.values()} | {entities.key: KEY}
    parts = []
    for batch in ParquetSource([file], kinds).batches("features"):
        columns = {"key": batch.keys(entities.key)}
        for name, feature in entities.features.items():
            columns[f"feature_{name}"] = _shorten(
                batch.keys(feature.column, null_allowed=True), feature
            )
        parts.append(pl.DataFrame(columns))
    if not parts:
        raise data_error("no rows", "Check the source", file=file)
    frame = pl.concat(parts)
    if unique and frame["key"].n_unique() < len(frame):
        key = frame["key"].filter(frame["key"].is_duplicated())[0]
        advice = "Keep one row for each"
        raise data_error("key comes twice", advice, file=file, column=entities.key, key=key)
    return frame


def _shorten(values: pl.Series, feature: Feature) -> pl.Series:
    if values.dtype == pl.String and feature.separator is not None:
        values = values.str.split(feature.separator).list.first()
    if values.dtype == pl.String and feature.prefix is not None:
        values = values.str.slice(0, feature.prefix)
    return values
