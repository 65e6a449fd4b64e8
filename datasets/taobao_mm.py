"""Taobao-MM: raw tables -> prepared store. The only file that knows the raw column ids.

Reads the raw tree (train_samples, test_samples, train_user_features, test_user_features,
item_features, scl_embedding_int8_p90) and the joined form (train/, test/ with shards).
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from datasets.batches import Batch
from datasets.command import run
from datasets.counting import MISSING
from datasets.errors import DataError, data_error
from datasets.parquet import (
    INTEGER,
    INTEGER_LIST,
    NUMBER_LIST,
    ParquetSource,
    Piece,
    file_sizes,
    find_files,
)
from datasets.partitions.budget import Budget, parse_memory
from datasets.partitions.engines import ENGINES, open_engine
from datasets.partitions.source import Snapshots, VectorKind
from datasets.remote_store import destination
from datasets.samples import Samples, one_hot_labels
from datasets.snapshots import Means, Options, prepare
from datasets.taobao_mm_joined import BATCHES_A_PIECE, SPLITS, JoinedColumns, JoinedTables
from datasets.vectors import vector_rows
from remote.path import Location, RemotePath, location

VECTOR_WIDTH = 128
PROFILE = ("profile_1", "profile_2", "profile_3", "profile_4", "profile_5")
ITEM_FEATURES = ("category", "brand", "shop")
RAW = {
    "label": "label_0",
    "user_id": "129_1",
    "item": "205",
    "category": "206",
    "brand": "213",
    "shop": "214",
    "profile_1": "130_1",
    "profile_2": "130_2",
    "profile_3": "130_3",
    "profile_4": "130_4",
    "profile_5": "130_5",
    "history_item": "150_2_180",
    "history_category": "151_2_180",
    "vector": "205_c",
}
WORD = {raw: word for word, raw in RAW.items()}
_TYPES = {
    "label": pa.list_(pa.int8()),
    "history_item": pa.list_(pa.int64()),
    "history_category": pa.list_(pa.int64()),
    "vector": pa.list_(pa.int8()),
}
TABLES = {
    "train_samples": ("label", "user_id", "item"),
    "test_samples": ("label", "user_id", "item"),
    "train_user_features": ("user_id", *PROFILE, "history_item", "history_category"),
    "test_user_features": ("user_id", *PROFILE, "history_item", "history_category"),
    "item_features": ("item", *ITEM_FEATURES),
    "scl_embedding_int8_p90": ("item", "vector"),
}

_RAW_TABLES = {
    "train_users": "train_user_features",
    "test_users": "test_user_features",
    "items": "item_features",
    "vectors": "scl_embedding_int8_p90",
}


def raw_schema(table: str) -> pa.Schema:
    """Schema of a raw table as published.

    Args:
        table: one of `TABLES`.
    """
    return pa.schema([(RAW[word], _TYPES.get(word, pa.int64())) for word in TABLES[table]])


def check_no_tables(folder: Path) -> None:
    """Refuse to write raw tables where there are some, which might be the published ones.

    Args:
        folder: to be written into.

    Raises:
        DataError: it has a file or folder of one of `TABLES`.
    """
    for table in TABLES:
        for found in folder.glob(f"{table}*"):
            raise data_error("already exists", "Choose another folder for the tables", file=found)


def _columns(words: tuple[str, ...]) -> dict[str, str]:
    kinds = {
        "label": INTEGER_LIST,
        "history_item": INTEGER_LIST,
        "history_category": INTEGER_LIST,
        "vector": NUMBER_LIST,
    }
    return {RAW[word]: kinds.get(word, INTEGER) for word in words}


def _samples(batch: Batch) -> Samples:
    return Samples(
        batch.integers(RAW["user_id"]),
        batch.integers(RAW["item"]),
        one_hot_labels(batch, RAW["label"]),
    )


def _snapshots(batch: Batch) -> Snapshots:
    items, lengths = batch.lists(RAW["history_item"], null_is_empty=True)
    categories, aligned = batch.lists(RAW["history_category"], null_is_empty=True)
    bad = np.flatnonzero(lengths != aligned)
    if len(bad):
        row = int(bad[0])
        problem = f"{aligned[row]} categories for {lengths[row]} items of {RAW['history_item']}"
        advice = "Write one category for each item of the history, 0 where it is missing"
        raise batch.fail(problem, advice, RAW["history_category"], row)
    return Snapshots(
        batch.integers(RAW["user_id"]),
        {word: batch.integers(RAW[word], null=MISSING) for word in PROFILE},
        items.astype(np.int64, copy=False),
        categories.astype(np.int64, copy=False),
        lengths,
    )


def _features(batch: Batch) -> dict[str, NDArray[np.int64]]:
    columns = {"item": batch.integers(RAW["item"])}
    return columns | {word: batch.integers(RAW[word], null=MISSING) for word in ITEM_FEATURES}


_JOINED = JoinedColumns(
    tables={
        "samples": _columns(TABLES["train_samples"]),
        "users": _columns(TABLES["train_user_features"]),
        "ids": _columns(("user_id",)),
        "items": _columns(TABLES["item_features"]),
    },
    user=RAW["user_id"],
    history=RAW["history_item"],
    profile=PROFILE,
    features=ITEM_FEATURES,
    vector_width=VECTOR_WIDTH,
    read_samples=_samples,
    read_snapshots=_snapshots,
    read_features=_features,
)


class RawTaobaoMM:
    """The six raw tables.

    Args:
        path: folder with the files.

    Raises:
        DataError: a file or column is missing, damaged or of another type.
    """

    profile: tuple[str, ...] = PROFILE
    features: tuple[str, ...] = ITEM_FEATURES

    def __init__(self, path: Location) -> None:
        self.path = path
        self._tables = {
            table: ParquetSource(find_files(path, table), _columns(words))
            for table, words in TABLES.items()
        }
        vectors = self._tables["scl_embedding_int8_p90"]
        self._vector_keys = ParquetSource(vectors.files, _columns(("item",)))

    def files(self) -> dict[str, int]:
        """Files read, by name, with their sizes in bytes."""
        files = [file for table in self._tables.values() for file in table.files]
        return file_sizes(files, self.path)

    def pieces(self, table: str) -> list[Piece]:
        """A table cut into pieces, in order."""
        return self._tables[_RAW_TABLES.get(table, table)].pieces(BATCHES_A_PIECE)

    def samples(self, split: str, piece: Piece) -> Iterator[Samples]:
        """Samples of a piece of a split, in batches."""
        return map(_samples, self._tables[f"{split}_samples"].read(piece))

    def snapshots(self, split: str, piece: Piece, share: float) -> Iterator[Snapshots]:
        """Users of a piece of a split, in batches."""
        return map(_snapshots, self._tables[f"{split}_user_features"].read(piece, share))

    def changed_history(self, split: str, piece: Piece) -> DataError:
        """Cannot be: every user has one row."""
        raise AssertionError("a raw user table has one row for each user")

    def users_place(self, split: str) -> str:
        """File of the users of a split."""
        first = self._tables[f"{split}_user_features"].files[0]
        return f"{first}, column '{RAW['user_id']}'"

    def item_features(self, piece: Piece) -> Iterator[dict[str, NDArray[np.int64]]]:
        """Columns item, category, brand and shop of a piece, in batches."""
        return map(_features, self._tables["item_features"].read(piece))

    def vector_kind(self) -> VectorKind:
        """Vectors of the SCL encoder."""
        return VectorKind(VECTOR_WIDTH, np.int8)

    def vector_keys(self, piece: Piece) -> Iterator[NDArray[np.int64]]:
        """Items of a piece of the vectors, in batches."""
        for batch in self._vector_keys.read(piece):
            yield batch.integers(RAW["item"])

    def vectors(self, piece: Piece) -> Iterator[NDArray[Any]]:
        """Vectors of a piece, in batches, int8 [n, 128]."""
        for batch in self._tables["scl_embedding_int8_p90"].read(piece):
            yield vector_rows(batch, RAW["vector"], VECTOR_WIDTH, np.int8)


class JoinedTaobaoMM(JoinedTables):
    """The joined form: every sample carries its user's history and its item's features.

    Args:
        path: folder with `train/`, `test/` and, for the vectors, `feature_map/`.

    Raises:
        DataError: a file or column is missing, damaged or of another type.
    """

    def __init__(self, path: Location) -> None:
        super().__init__(path, _JOINED)


def open_source(path: Location) -> RawTaobaoMM | JoinedTaobaoMM:
    """Open a tree in whichever form it is.

    Args:
        path: its folder.

    Raises:
        DataError: it is in neither form, or not complete.
    """
    if all((path / split).is_dir() for split in SPLITS):
        return JoinedTaobaoMM(path)
    return RawTaobaoMM(path)


def prepare_tree(
    source: Location,
    out: Path,
    options: Options,
    *,
    name: str = "taobao_mm",
    created_by: str = "datasets.taobao_mm",
    overwrite: bool = False,
    source_note: Mapping[str, Any] | None = None,
    means: Means | None = None,
) -> dict[str, Any]:
    """Prepare a store from a tree in either form; see `datasets.snapshots.prepare`."""
    return prepare(
        open_source(source),
        out,
        options,
        name=name,
        created_by=created_by,
        overwrite=overwrite,
        source_note=source_note,
        means=means,
    )


def _check_spill(out: Location, address: str | None) -> None:
    """What tasks spill lies in $TMPDIR when `out` is a URL, and a cluster has several machines."""
    if address is not None and isinstance(out, RemotePath) and not os.environ.get("TMPDIR"):
        problem = f"--out {out} on a cluster, whose machines hand each other files in $TMPDIR"
        raise data_error(problem, "Set TMPDIR to a folder that all of them see", key="--address")


def main(argv: list[str] | None = None) -> int:
    """Command line: prepare a store from a Taobao-MM tree."""
    parser = argparse.ArgumentParser(prog="datasets.taobao_mm", description=__doc__)
    parser.add_argument("--source", required=True, help="folder of the raw tables, or its URL")
    parser.add_argument("--out", required=True, help="folder of the store, or its URL")
    parser.add_argument(
        "--min-frequency",
        type=int,
        default=1,
        help="history items seen fewer times share row 0; 17 keeps about 90%% of the events",
    )
    parser.add_argument("--user-min-frequency", type=int, default=1)
    parser.add_argument("--overwrite", action="store_true")
    parser.add_argument(
        "--memory", default="2GB", help="what all processes together may hold, such as 2GB"
    )
    parser.add_argument("--workers", type=int, default=1, help="tasks that run at once")
    parser.add_argument("--engine", choices=ENGINES, default="local", help="what runs them")
    parser.add_argument("--address", help="of a Ray cluster; by default one is started here")
    arguments = parser.parse_args(argv)
    options = Options(arguments.min_frequency, arguments.user_min_frequency)

    def command() -> None:
        source, overwrite = location(arguments.source), arguments.overwrite
        out = location(arguments.out)
        _check_spill(out, arguments.address)
        budget = Budget(parse_memory(arguments.memory), arguments.workers)
        engine = open_engine(arguments.engine, arguments.workers, arguments.address)
        means = Means(engine, budget)
        with destination(out, overwrite) as folder:
            prepare_tree(source, folder, options, overwrite=overwrite, means=means)

    return run(command)


if __name__ == "__main__":
    sys.exit(main())
