"""Taobao-MM: raw tables -> prepared store. The only file that knows the raw column ids.

Reads the raw tree (train_samples, test_samples, train_user_features, test_user_features,
item_features, scl_embedding_int8_p90) and the joined form (train/, test/ with shards).
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import DTypeLike, NDArray

from datasets.command import run
from datasets.counting import MISSING
from datasets.errors import DataError, data_error
from datasets.parquet import (
    INTEGER,
    INTEGER_LIST,
    NUMBER_LIST,
    Batch,
    ParquetSource,
    Piece,
    file_sizes,
    find_files,
)
from datasets.partitions.budget import Budget, parse_memory
from datasets.partitions.engine import ENGINES, open_engine
from datasets.partitions.source import Snapshots, VectorKind
from datasets.remote_store import destination, mapped_array
from datasets.samples import Samples, one_hot_labels
from datasets.snapshots import Means, Options, prepare
from datasets.vectors import vector_rows
from remote.path import Location, RemoteError, location

log = logging.getLogger(__name__)

SPLITS = ("train", "test")
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
_JOINED_TABLES = {
    "samples": TABLES["train_samples"],
    "users": TABLES["train_user_features"],
    "ids": ("user_id",),
    "items": TABLES["item_features"],
}
# Of the largest size that is read at once; a piece is the work of one task.
_BATCHES_A_PIECE = 4
_VECTORS_A_PIECE = 1 << 18


def raw_schema(table: str) -> pa.Schema:
    """Schema of a raw table as published.

    Args:
        table: one of `TABLES`.
    """
    return pa.schema([(RAW[word], _TYPES.get(word, pa.int64())) for word in TABLES[table]])


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
        return self._tables[_RAW_TABLES.get(table, table)].pieces(_BATCHES_A_PIECE)

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


class JoinedTaobaoMM:
    """The joined form: every sample carries its user's history and its item's features.

    Args:
        path: folder with `train/`, `test/` and, for the vectors, `feature_map/`.

    Raises:
        DataError: a file or column is missing, damaged or of another type.
    """

    profile: tuple[str, ...] = PROFILE
    features: tuple[str, ...] = ITEM_FEATURES

    def __init__(self, path: Location) -> None:
        self.path = path
        self._shards: dict[str, list[Location]] = {
            split: sorted((path / split).glob("*.parquet")) for split in SPLITS
        }
        for split, files in self._shards.items():
            if not files:
                advice = "Check the path of the source"
                raise data_error("no Parquet files", advice, file=path / split)
        self._keys = path / "feature_map" / "scl_emb_int8_p90_keys.npy"
        self._values = path / "feature_map" / "scl_emb_int8_p90_values.npy"
        self._has_vectors = self._keys.is_file()
        if not self._has_vectors:
            log.warning("%s: no such file, the store will have no vectors", self._keys)
        self._tables: dict[str, ParquetSource] = {}

    def _table(self, split: str, table: str) -> ParquetSource:
        """Columns of the shards of a split, opened when they are first asked for."""
        name = f"{split}_{table}"
        if name not in self._tables:
            self._tables[name] = ParquetSource(self._shards[split], _columns(_JOINED_TABLES[table]))
        return self._tables[name]

    def files(self) -> dict[str, int]:
        """Files read, by name, with their sizes in bytes."""
        files = [file for shards in self._shards.values() for file in shards]
        files += [self._keys, self._values] if self._has_vectors else []
        return file_sizes(files, self.path)

    def pieces(self, table: str) -> list[Piece]:
        """A table cut into pieces, in order; items are those of train, then those of test."""
        if table == "vectors":
            rows = len(self._vector_arrays()[0])
            starts = range(0, rows, _VECTORS_A_PIECE)
            return [Piece(0, (0, 0), at, min(_VECTORS_A_PIECE, rows - at)) for at in starts]
        if table != "items":
            return self._table(*table.split("_")).pieces(_BATCHES_A_PIECE)
        pieces = self._table("train", "items").pieces(_BATCHES_A_PIECE)
        before = len(self._shards["train"])
        for piece in self._table("test", "items").pieces(_BATCHES_A_PIECE):
            pieces.append(replace(piece, file=before + piece.file))
        return pieces

    def samples(self, split: str, piece: Piece) -> Iterator[Samples]:
        """Samples of a piece of a split, in batches."""
        return map(_samples, self._table(split, "samples").read(piece))

    def _user_before(self, split: str, piece: Piece) -> int | None:
        """User of the row before a piece, if there is one."""
        table = self._table(split, "ids")
        place = (piece.file, piece.first_row)
        groups = [one for one in table.pieces(0) if (one.file, one.first_row) < place and one.rows]
        last = None
        for batch in table.read(groups[-1]) if groups else ():
            last = int(batch.integers(RAW["user_id"])[-1])
        return last

    def snapshots(self, split: str, piece: Piece, share: float) -> Iterator[Snapshots]:
        """Users of a piece of a split, in batches: the first row of each run of one user's rows."""
        user_before = self._user_before(split, piece)
        length_before: int | None = None
        for batch in self._table(split, "users").read(piece, share):
            user = batch.integers(RAW["user_id"])
            length = batch.lengths(RAW["history_item"])
            first = np.append(True, user[1:] != user[:-1])
            changed = ~first & (length != np.append(length[0], length[:-1]))
            if user[0] == user_before:
                first[0] = False
                # Across pieces it is looked at when all pieces have been read.
                changed[0] = length_before is not None and length[0] != length_before
            if changed.any():
                raise self._changed(batch, int(np.argmax(changed)))
            continued = length_before is None and not first[0]
            user_before, length_before = int(user[-1]), int(length[-1])
            # The join leaves null where the user table lacks the user: no record then.
            found = _snapshots(batch.select(first & (length >= 0)))
            ends = (int(length[0]), int(length[-1]))
            yield replace(found, continued=continued, ends=ends)

    def _changed(self, batch: Batch, row: int) -> DataError:
        problem = "another history than in the user's row before"
        advice = "Give all rows of a user in a split the same history"
        return batch.fail(problem, advice, RAW["history_item"], row)

    def changed_history(self, split: str, piece: Piece) -> DataError:
        """The error of a piece that goes on with a user of the piece before by another history."""
        first = next(self._table(split, "ids").read(piece))
        return self._changed(first, 0)

    def users_place(self, split: str) -> str:
        """Folder of the users of a split."""
        return f"{self.path / split}, column '{RAW['user_id']}'"

    def item_features(self, piece: Piece) -> Iterator[dict[str, NDArray[np.int64]]]:
        """Columns item, category, brand and shop of a piece, in batches."""
        before = len(self._shards["train"])
        split = "train" if piece.file < before else "test"
        within = replace(piece, file=piece.file - (before if split == "test" else 0))
        return map(_features, self._table(split, "items").read(within))

    def vector_kind(self) -> VectorKind | None:
        """Vectors of the SCL encoder, if `feature_map/` has them."""
        return VectorKind(VECTOR_WIDTH, np.int8) if self._has_vectors else None

    def _vector_arrays(self) -> tuple[NDArray[Any], NDArray[Any]]:
        keys = _load_array(self._keys, np.int64)
        values = _load_array(self._values, np.int8)
        if values.shape != (len(keys), VECTOR_WIDTH):
            problem = f"shape {values.shape}, expected {(len(keys), VECTOR_WIDTH)}"
            raise data_error(problem, "Fetch both files again", file=self._values)
        return keys, values

    def vector_keys(self, piece: Piece) -> Iterator[NDArray[np.int64]]:
        """Items of a piece of the vectors."""
        keys, _ = self._vector_arrays()
        yield np.array(keys[piece.first_row : piece.first_row + piece.rows])

    def vectors(self, piece: Piece) -> Iterator[NDArray[Any]]:
        """Vectors of a piece, int8 [n, 128]."""
        _, values = self._vector_arrays()
        yield np.array(values[piece.first_row : piece.first_row + piece.rows])


def _load_array(file: Location, dtype: DTypeLike) -> NDArray[Any]:
    try:
        array = mapped_array(file)
    except RemoteError:
        raise
    except (OSError, ValueError) as error:
        problem = f"not readable as .npy ({error})"
        raise data_error(problem, "Fetch the file again", file=file) from None
    if array.dtype != np.dtype(dtype):
        problem = f"dtype {array.dtype}, expected {np.dtype(dtype)}"
        raise data_error(problem, "Fetch the file again", file=file)
    return array


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
        budget = Budget(parse_memory(arguments.memory), arguments.workers)
        engine = open_engine(arguments.engine, arguments.workers, arguments.address)
        means = Means(engine, budget)
        with destination(location(arguments.out), overwrite) as out:
            prepare_tree(source, out, options, overwrite=overwrite, means=means)

    return run(command)


if __name__ == "__main__":
    sys.exit(main())
