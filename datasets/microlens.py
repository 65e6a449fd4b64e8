"""MicroLens_1M_x1, the tables of the MMCTR challenge (WWW 2025) -> prepared store.

Every row brings the sequence of its user at its own time. Rows of a user whose sequences begin one
another share a user record and see as much of its history as their own sequence had.
"""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from datasets.command import run
from datasets.microlens_tables import (
    HIGHEST_LEVEL,
    LEVELS,
    MISSING,
    SCHEMAS,
    SPLITS,
    TAGS,
    ItemInfo,
    Rows,
    open_table,
    read_item_info,
    read_rows,
    read_vectors,
)
from datasets.npy import NpyAppender
from datasets.remote_store import destination
from datasets.sequences import Records, Sequences
from datasets.store import StoreWriter
from datasets.vectors import write_vectors
from datasets.vocab import Vocabulary, build_vocabulary, count_values
from remote.path import Location, location

log = logging.getLogger(__name__)


def prepare(
    source: Location, out: Path, *, with_user_id: bool = False, overwrite: bool = False
) -> dict[str, Any]:
    """Prepare a store from the four tables.

    Args:
        source: folder of train, valid, test and item_info, each a Parquet file.
        out: the store's folder.
        with_user_id: write the user feature `user_id`, with a row for every user of `train`.
        overwrite: replace a store that is already there.

    Returns:
        The manifest.

    Raises:
        DataError: bad input, or `out` exists.
    """
    tables = {name: open_table(source, name) for name in SCHEMAS}
    files = [table.files[0] for table in tables.values()]
    note = {
        "path": str(source),
        "files": {file.name: file.stat().st_size for file in files},
        "options": {"with_user_id": with_user_id},
    }
    with StoreWriter(
        out, name="microlens", created_by="datasets.microlens", source=note, overwrite=overwrite
    ) as store:
        info = read_item_info(open_table(source, "item_info", "item_id", "item_tags"))
        file = store.folder / "sequences.npy"
        writer = NpyAppender(file, np.int64)
        splits = {split: read_rows(tables[split], split, writer) for split in SPLITS}
        writer.close()
        sequences = Sequences(file, np.concatenate([rows.length for rows in splits.values()]))
        users = np.concatenate([rows.user_id for rows in splits.values()])
        records = sequences.records(users)
        items = _write_items(store, info, splits, sequences, records)
        write_vectors(store, items, read_vectors(source))
        _write_users(store, users[records.longest], splits["train"], with_user_id)
        histories = store.histories()
        for part in sequences.pieces(records.longest):
            histories.append(items.rows(sequences.events(part)), sequences.lengths[part])
        file.unlink()
        _write_splits(store, splits, records, items)
        return store.finish()


def _write_items(
    store: StoreWriter,
    info: ItemInfo,
    splits: dict[str, Rows],
    sequences: Sequences,
    records: Records,
) -> Vocabulary:
    """Write tables `item` and `tag` and the tags of the items."""
    counts = count_values(splits["train"].item)
    for part in sequences.pieces(records.longest):
        counts = pl.concat([counts, count_values(sequences.events(part))])
        counts = counts.group_by("raw").agg(pl.col("count").sum())
    everywhere = [info.item, *(rows.item for rows in splits.values())]
    always = pl.Series(np.unique(np.concatenate(everywhere)))
    items = build_vocabulary(counts, always=always, missing=(MISSING,))
    store.add_table("item", items)
    store.count("duplicate_item_features", info.repeats)
    store.count("items_without_features", items.size - 1 - len(info.item))
    tags = build_vocabulary(count_values(info.tags.reshape(-1)), missing=(MISSING,))
    store.add_table("tag", tags)
    of_item = np.zeros((items.size, TAGS), np.int32)
    of_item[items.rows(info.item)] = tags.rows(info.tags.reshape(-1)).reshape(-1, TAGS)
    store.add_feature("item", "tags", of_item, "tag")
    return items


def _write_users(
    store: StoreWriter, users: NDArray[np.int64], train: Rows, with_user_id: bool
) -> None:
    """Count records, and write their raw users and, if it is wanted, the feature `user_id`."""
    distinct, times = np.unique(users, return_counts=True)
    log.info("%d users, %d records", len(distinct), len(users))
    store.count("users_with_several_records", int((times > 1).sum()))
    store.add_raw_users([pl.Series(users)], pl.Int64)
    if with_user_id:
        vocabulary = build_vocabulary(count_values(train.user_id), missing=(MISSING,))
        store.add_table("user_id", vocabulary)
        store.count("users_outside_vocabulary", int((vocabulary.rows(distinct) == 0).sum()))
        rows = np.concatenate([np.zeros(1, np.int32), vocabulary.rows(users)])
        store.add_feature("user", "user_id", rows)


def _write_splits(
    store: StoreWriter, splits: dict[str, Rows], records: Records, items: Vocabulary
) -> None:
    for level in LEVELS:
        # A level is its own row, so that row 0 holds level 0 and what is unknown.
        counts = np.bincount(splits["train"].levels[level], minlength=HIGHEST_LEVEL + 1)
        raw = pl.Series(np.arange(1, HIGHEST_LEVEL + 1))
        store.add_table(level, Vocabulary(raw, pl.Series(counts[1:])))
    store.sample_features({level: level for level in LEVELS})
    done = 0
    for split, rows in splits.items():
        record = 1 + records.of_row[done : done + len(rows.item)]
        done += len(rows.item)
        item = items.rows(rows.item)
        store.count(f"{split}_samples_unknown_item", int((item == 0).sum()))
        store.add_split(
            split,
            record.astype(np.int32),
            item,
            rows.length,
            rows.label,
            features=rows.levels,
            source_row=np.arange(len(item)),
        )


def main(argv: list[str] | None = None) -> int:
    """Command line: prepare a store from MicroLens_1M_x1."""
    parser = argparse.ArgumentParser(prog="datasets.microlens", description=__doc__)
    parser.add_argument("--source", required=True, help="folder of the four tables, or its URL")
    parser.add_argument("--out", required=True, help="folder of the store, or its URL")
    parser.add_argument(
        "--user-id",
        action="store_true",
        help="write the user feature user_id, which QIN does not embed",
    )
    parser.add_argument("--overwrite", action="store_true")
    arguments = parser.parse_args(argv)

    def command() -> None:
        source, overwrite = location(arguments.source), arguments.overwrite
        with destination(location(arguments.out), overwrite) as out:
            prepare(source, out, with_user_id=arguments.user_id, overwrite=overwrite)

    return run(command)


if __name__ == "__main__":
    sys.exit(main())
