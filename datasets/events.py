"""Any log of (user, item, order, label) events -> prepared store, set up by a short YAML file.

The history of a sample is every earlier event of its user, whatever its split. The log is sorted
in memory: about 60 bytes an event.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from datasets.command import run
from datasets.errors import data_error
from datasets.events_config import Entities, EventLog, Feature, Vectors, read_config
from datasets.manifest import check_destination
from datasets.parquet import INTEGER, KEY, NUMBER, NUMBER_LIST, ParquetSource
from datasets.remote_store import destination
from datasets.samples import binary_labels
from datasets.store import StoreWriter
from datasets.vectors import VectorTable, vector_rows, write_vectors
from datasets.vocab import Vocabulary, build_vocabulary, count_values
from remote.path import Location, location

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


def _vocabulary(
    entities: Entities, trained: pl.Series, everything: pl.Series, table: pl.DataFrame | None
) -> Vocabulary:
    """Rows for the ids of the training events, or for all ids there are."""
    if entities.vocabulary == "train":
        return build_vocabulary(count_values(trained), min_frequency=entities.min_frequency)
    always = everything if table is None else pl.concat([everything, table["key"]])
    return build_vocabulary(count_values(trained), always=always)


def _check_keys(events: pl.Series, table: pl.DataFrame | None, file: str | None) -> None:
    if table is not None and table["key"].dtype != events.dtype:
        problem = f"keys are {table['key'].dtype}, those of the events {events.dtype}"
        raise data_error(problem, "Write both with one type", file=file)


def _add_features(
    store: StoreWriter, kind: str, entities: Entities, table: pl.DataFrame | None, keys: pl.Series
) -> None:
    """Write the features of records or items whose raw ids are `keys` (entry 0 left out)."""
    if table is None:
        return
    store.count(f"{kind}s_without_features", int((~keys.is_in(table["key"].implode())).sum()))
    wanted = keys.alias("key").to_frame()
    joined = wanted.join(table, on="key", how="left", maintain_order="left")
    for name, feature in entities.features.items():
        values = table[f"feature_{name}"]
        vocabulary = build_vocabulary(count_values(values), min_frequency=feature.min_frequency)
        store.add_table(name, vocabulary)
        rows = vocabulary.rows(joined[f"feature_{name}"])
        store.add_feature(kind, name, np.concatenate([np.zeros(1, np.int32), rows]))


def _vector_table(vectors: Vectors, source: Location, items: pl.Series) -> VectorTable:
    table = ParquetSource([source / vectors.file], {vectors.item: KEY, vectors.column: NUMBER_LIST})
    first = next(table.batches("vectors"), None)
    if first is None:
        raise data_error("no rows", "Check the source", file=source / vectors.file)
    if first.keys(vectors.item).dtype != items.dtype:
        problem = f"keys are {first.keys(vectors.item).dtype}, those of the events {items.dtype}"
        file = source / vectors.file
        raise data_error(problem, "Write both with one type", file=file, column=vectors.item)
    width = max(1, int(first.lengths(vectors.column)[0]))

    def batches() -> Iterator[tuple[Any, NDArray[Any]]]:
        for batch in table.batches("vectors"):
            rows = vector_rows(batch, vectors.column, width, vectors.dtype)
            yield batch.keys(vectors.item).to_numpy(), rows

    return VectorTable(width, vectors.dtype, batches())


def prepare(
    config: EventLog, source: Location, out: Path, *, overwrite: bool = False
) -> dict[str, Any]:
    """Prepare a store from an event log.

    Args:
        config: description of the log.
        source: folder of its files.
        out: the store's folder.
        overwrite: replace a store that is already there.

    Returns:
        The manifest.

    Raises:
        DataError: bad input, or `out` exists.
    """
    check_destination(out, overwrite)
    names = [config.events.file, config.users.file, config.items.file]
    names += [config.vectors.file] if config.vectors else []
    for name in names:
        if name is not None and not (source / name).is_file():
            raise data_error("no such file", "Check the path of the source", file=source / name)
    log = read_log(config, source)
    users = read_entities(config.users, source, unique=True)
    items = read_entities(config.items, source, unique=False)
    _check_keys(log.users, users, config.users.file)
    _check_keys(log.item, items, config.items.file)
    note = {
        "path": str(source),
        "files": {name: (source / name).stat().st_size for name in names if name is not None},
        "options": asdict(config),
    }
    with StoreWriter(
        out, name=config.name, created_by="datasets.events", source=note, overwrite=overwrite
    ) as store:
        vocabulary = _write_items(store, config, source, log, items)
        _write_users(store, config, log, users)
        rows = vocabulary.rows(log.item)
        store.count("events_outside_vocabulary", int((rows == 0).sum()))
        _write_histories(store, config, log, rows)
        for split, number in SPLITS.items():
            if split == "valid" and config.split.valid_fraction == 0:
                continue
            chosen = log.split == number
            record = (log.user[chosen] + 1).astype(np.int32)
            store.add_split(split, record, rows[chosen], log.place[chosen], log.label[chosen])
        return store.finish()


def _write_items(
    store: StoreWriter, config: EventLog, source: Location, log: Log, table: pl.DataFrame | None
) -> Vocabulary:
    if table is not None:
        distinct = table.unique("key", keep="first", maintain_order=True)
        store.count("duplicate_item_features", len(table) - len(distinct))
        table = distinct
    trained = log.item.filter(log.split == TRAIN)
    vocabulary = _vocabulary(config.items, trained, log.item, table)
    store.add_table("item", vocabulary)
    _add_features(store, "item", config.items, table, vocabulary.raw)
    if config.vectors is not None:
        write_vectors(store, vocabulary, _vector_table(config.vectors, source, vocabulary.raw))
    return vocabulary


def _write_users(
    store: StoreWriter, config: EventLog, log: Log, table: pl.DataFrame | None
) -> None:
    trained = log.users.gather(log.user[log.split == TRAIN])
    vocabulary = _vocabulary(config.users, trained, log.users, table)
    store.add_table("user_id", vocabulary)
    rows = np.concatenate([np.zeros(1, np.int32), vocabulary.rows(log.users)])
    store.add_feature("user", "user_id", rows)
    store.count("users_outside_vocabulary", int((rows[1:] == 0).sum()))
    _add_features(store, "user", config.users, table, log.users)


def _write_histories(
    store: StoreWriter, config: EventLog, log: Log, rows: NDArray[np.int32]
) -> None:
    side = {}
    for name, values in log.side.items():
        fixed = config.events.side[name].values
        if fixed is None:
            vocabulary = build_vocabulary(count_values(values.filter(log.split == TRAIN)))
        else:
            try:
                raw = pl.Series(fixed, dtype=values.dtype, strict=True)
            except (TypeError, OverflowError, pl.exceptions.PolarsError):
                problem = f"values that a column of {values.dtype} cannot hold"
                advice = "Write the values as the column has them"
                key, file = f"events.side.{name}.values", config.events.file
                raise data_error(problem, advice, file=file, key=key) from None
            counts = count_values(values.filter(log.split == TRAIN))
            found = (
                raw.alias("raw")
                .to_frame()
                .join(counts, on="raw", how="left", maintain_order="left")
            )
            vocabulary = Vocabulary(raw, found["count"].fill_null(0))
        store.add_table(name, vocabulary)
        side[name] = vocabulary.rows(values)
    histories = store.histories({name: name for name in side})
    histories.append(rows, log.lengths, side)


def main(argv: list[str] | None = None) -> int:
    """Command line: prepare a store from an event log."""
    parser = argparse.ArgumentParser(prog="datasets.events", description=__doc__)
    parser.add_argument("--config", type=Path, required=True, help="YAML description of the log")
    parser.add_argument("--source", required=True, help="folder of its files, or its URL")
    parser.add_argument("--out", required=True, help="folder of the store, or its URL")
    parser.add_argument("--overwrite", action="store_true")
    arguments = parser.parse_args(argv)

    def command() -> None:
        config, source = read_config(arguments.config), location(arguments.source)
        with destination(location(arguments.out), arguments.overwrite) as out:
            prepare(config, source, out, overwrite=arguments.overwrite)

    return run(command)


if __name__ == "__main__":
    sys.exit(main())
