"""Any log of (user, item, order, label) events -> prepared store, set up by a short YAML file.

The history of a sample is every earlier event of its user, whatever its split. The log is sorted
in memory: about 60 bytes an event.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from datasets.command import run
from datasets.errors import data_error
from datasets.event_log import SPLITS, TRAIN, Log, read_entities, read_log
from datasets.events_config import Entities, EventLog, Vectors, read_config
from datasets.manifest import check_destination
from datasets.parquet import KEY, NUMBER_LIST, ParquetSource
from datasets.remote_store import destination
from datasets.store import StoreWriter
from datasets.vectors import VectorTable, vector_rows, write_vectors
from datasets.vocab import Vocabulary, build_vocabulary, count_values
from remote.path import Location, location


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
    store.add_raw_users([log.users], log.users.dtype)
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
