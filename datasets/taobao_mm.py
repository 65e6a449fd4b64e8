"""Taobao-MM: raw tables -> prepared store. The only file that knows the raw column ids.

Reads the raw tree (train_samples, test_samples, train_user_features, test_user_features,
item_features, scl_embedding_int8_p90) and the joined form (train/, test/ with shards).
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import DTypeLike, NDArray

from datasets.command import run
from datasets.errors import data_error
from datasets.parquet import (
    INTEGER,
    INTEGER_LIST,
    NUMBER_LIST,
    Batch,
    ParquetSource,
    find_files,
)
from datasets.samples import Samples, concatenate, one_hot_labels
from datasets.snapshots import MISSING, Options, Snapshots, prepare
from datasets.vectors import VectorTable, vector_rows

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


def _feature_frame(batches: Iterator[Batch]) -> pl.DataFrame:
    """Distinct rows that say something, in order of first sight."""
    total = pl.DataFrame(schema=dict.fromkeys(("item", *ITEM_FEATURES), pl.Int64))
    for batch in batches:
        columns = {"item": batch.integers(RAW["item"])}
        columns |= {word: batch.integers(RAW[word], null=MISSING) for word in ITEM_FEATURES}
        told = pl.any_horizontal(pl.col(word) != MISSING for word in ITEM_FEATURES)
        part = pl.DataFrame(columns).filter(told)
        total = pl.concat([total, part]).unique(maintain_order=True)
    return total


def _vector_batches(table: ParquetSource) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int8]]]:
    for batch in table.batches("vectors"):
        yield (
            batch.integers(RAW["item"]),
            vector_rows(batch, RAW["vector"], VECTOR_WIDTH, np.int8),
        )


class RawTaobaoMM:
    """The six raw tables.

    Args:
        path: folder with the files.

    Raises:
        DataError: a file or column is missing, damaged or of another type.
    """

    profile: tuple[str, ...] = PROFILE

    def __init__(self, path: Path) -> None:
        self.path = path
        self._tables = {
            table: ParquetSource(find_files(path, table), _columns(words))
            for table, words in TABLES.items()
        }

    def files(self) -> dict[str, int]:
        """Files read, by name, with their sizes in bytes."""
        files = [file for table in self._tables.values() for file in table.files]
        return {str(file.relative_to(self.path)): file.stat().st_size for file in files}

    def samples(self, split: str) -> Samples:
        """All samples of a split."""
        batches = self._tables[f"{split}_samples"].batches(f"{split} samples")
        return concatenate([_samples(batch) for batch in batches])

    def snapshots(self, split: str) -> Iterator[Snapshots]:
        """Users of a split, in batches."""
        for batch in self._tables[f"{split}_user_features"].batches(f"{split} users"):
            yield _snapshots(batch)

    def users_place(self, split: str) -> str:
        """File of the users of a split."""
        first = self._tables[f"{split}_user_features"].files[0]
        return f"{first}, column '{RAW['user_id']}'"

    def item_features(self) -> pl.DataFrame:
        """Columns item, category, brand and shop."""
        return _feature_frame(self._tables["item_features"].batches("item features"))

    def vectors(self) -> VectorTable:
        """Vectors of the SCL encoder, int8 [128]."""
        table = self._tables["scl_embedding_int8_p90"]
        return VectorTable(VECTOR_WIDTH, np.int8, _vector_batches(table))


class JoinedTaobaoMM:
    """The joined form: every sample carries its user's history and its item's features.

    Args:
        path: folder with `train/`, `test/` and, for the vectors, `feature_map/`.

    Raises:
        DataError: a file or column is missing, damaged or of another type.
    """

    profile: tuple[str, ...] = PROFILE

    def __init__(self, path: Path) -> None:
        self.path = path
        self._shards = {split: sorted((path / split).glob("*.parquet")) for split in SPLITS}
        for split, files in self._shards.items():
            if not files:
                advice = "Check the path of the source"
                raise data_error("no Parquet files", advice, file=path / split)
        self._keys = path / "feature_map" / "scl_emb_int8_p90_keys.npy"
        self._values = path / "feature_map" / "scl_emb_int8_p90_values.npy"
        self._has_vectors = self._keys.is_file()

    def _batches(self, split: str, words: tuple[str, ...], about: str) -> Iterator[Batch]:
        source = ParquetSource(self._shards[split], _columns(words))
        return source.batches(f"{split} {about}")

    def files(self) -> dict[str, int]:
        """Files read, by name, with their sizes in bytes."""
        files = [file for shards in self._shards.values() for file in shards]
        files += [self._keys, self._values] if self._has_vectors else []
        return {str(file.relative_to(self.path)): file.stat().st_size for file in files}

    def samples(self, split: str) -> Samples:
        """All samples of a split."""
        batches = self._batches(split, TABLES["train_samples"], "samples")
        return concatenate([_samples(batch) for batch in batches])

    def snapshots(self, split: str) -> Iterator[Snapshots]:
        """Users of a split, in batches: the first row of each run of one user's rows."""
        last: tuple[int, int] | None = None
        for batch in self._batches(split, TABLES["train_user_features"], "users"):
            user = batch.integers(RAW["user_id"])
            length = batch.lengths(RAW["history_item"])
            first = np.append(True, user[1:] != user[:-1])
            changed = ~first & (length != np.append(length[0], length[:-1]))
            if last is not None and user[0] == last[0]:
                first[0] = False
                changed[0] = length[0] != last[1]
            if changed.any():
                problem = "another history than in the user's row before"
                advice = "Give all rows of a user in a split the same history"
                raise batch.fail(problem, advice, RAW["history_item"], int(np.argmax(changed)))
            last = (int(user[-1]), int(length[-1]))
            # The join leaves null where the user table lacks the user: no record then.
            yield _snapshots(batch.select(first & (length >= 0)))

    def users_place(self, split: str) -> str:
        """Folder of the users of a split."""
        return f"{self.path / split}, column '{RAW['user_id']}'"

    def item_features(self) -> pl.DataFrame:
        """Columns item, category, brand and shop."""
        words = TABLES["item_features"]
        frames = [_feature_frame(self._batches(split, words, "items")) for split in SPLITS]
        return pl.concat(frames).unique(maintain_order=True)

    def vectors(self) -> VectorTable | None:
        """Vectors of the SCL encoder, int8 [128], if `feature_map/` has them."""
        if not self._has_vectors:
            log.warning("%s: no such file, the store will have no vectors", self._keys)
            return None
        keys = _load_array(self._keys, np.int64)
        values = _load_array(self._values, np.int8)
        if values.shape != (len(keys), VECTOR_WIDTH):
            problem = f"shape {values.shape}, expected {(len(keys), VECTOR_WIDTH)}"
            raise data_error(problem, "Fetch both files again", file=self._values)
        size = 1 << 18
        parts = (slice(start, start + size) for start in range(0, len(keys), size))
        batches = ((np.asarray(keys[part]), np.asarray(values[part])) for part in parts)
        return VectorTable(VECTOR_WIDTH, np.int8, batches)


def _load_array(file: Path, dtype: DTypeLike) -> NDArray[Any]:
    try:
        array: NDArray[Any] = np.load(file, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        problem = f"not readable as .npy ({error})"
        raise data_error(problem, "Fetch the file again", file=file) from None
    if array.dtype != np.dtype(dtype):
        problem = f"dtype {array.dtype}, expected {np.dtype(dtype)}"
        raise data_error(problem, "Fetch the file again", file=file)
    return array


def open_source(path: Path) -> RawTaobaoMM | JoinedTaobaoMM:
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
    source: Path,
    out: Path,
    options: Options,
    *,
    name: str = "taobao_mm",
    created_by: str = "datasets.taobao_mm",
    overwrite: bool = False,
    source_note: Mapping[str, Any] | None = None,
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
    )


def main(argv: list[str] | None = None) -> int:
    """Command line: prepare a store from a Taobao-MM tree."""
    parser = argparse.ArgumentParser(prog="datasets.taobao_mm", description=__doc__)
    parser.add_argument("--source", type=Path, required=True, help="folder of the raw tables")
    parser.add_argument("--out", type=Path, required=True, help="folder of the store")
    parser.add_argument(
        "--min-frequency",
        type=int,
        default=1,
        help="history items seen fewer times share row 0; 17 keeps about 90%% of the events",
    )
    parser.add_argument("--user-min-frequency", type=int, default=1)
    parser.add_argument("--overwrite", action="store_true")
    arguments = parser.parse_args(argv)
    options = Options(arguments.min_frequency, arguments.user_min_frequency)
    return run(
        lambda: prepare_tree(
            arguments.source, arguments.out, options, overwrite=arguments.overwrite
        )
    )


if __name__ == "__main__":
    sys.exit(main())
