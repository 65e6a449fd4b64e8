"""Reading MicroLens_1M_x1: the four tables as published, checked, under raw ids."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from datasets.batches import Batch
from datasets.errors import data_error
from datasets.npy import NpyAppender
from datasets.parquet import (
    INTEGER,
    INTEGER_LIST,
    NUMBER,
    NUMBER_LIST,
    ParquetSource,
)
from datasets.samples import binary_labels
from datasets.vectors import VectorTable, vector_rows
from remote.path import Location

MISSING = 0
TAGS = 5
VECTOR_WIDTH = 128
LEVELS = ("likes_level", "views_level")
HIGHEST_LEVEL = 10
# Whether the rows of a split come with labels.
SPLITS = {"train": True, "valid": True, "test": False}
_ROW = {
    "user_id": pa.int64(),
    "item_seq": pa.list_(pa.int64()),
    "item_id": pa.int64(),
    "likes_level": pa.int64(),
    "views_level": pa.int64(),
}
SCHEMAS = {
    "train": pa.schema({**_ROW, "label": pa.int64()}),
    "valid": pa.schema({**_ROW, "label": pa.int64()}),
    "test": pa.schema(_ROW),
    "item_info": pa.schema(
        {
            "item_id": pa.int64(),
            "item_tags": pa.list_(pa.int64()),
            "item_emb_d128": pa.list_(pa.float32()),
        }
    ),
}
# What is asked of a column: published files differ in the width of numbers and the kind of lists.
_KINDS = {"item_seq": INTEGER_LIST, "item_tags": INTEGER_LIST, "item_emb_d128": NUMBER_LIST}
_KINDS["label"] = NUMBER


@dataclass(frozen=True)
class Rows:
    """Rows of a split under raw ids, in the order of the file; sequences are kept elsewhere.

    Args:
        user_id: int64 [S].
        item: of the target, int64 [S].
        levels: by name, each int32 [S].
        label: uint8 [S], or None for a split without labels.
        length: events of the sequence, int64 [S].
    """

    user_id: NDArray[np.int64]
    item: NDArray[np.int64]
    levels: dict[str, NDArray[np.int32]]
    label: NDArray[np.uint8] | None
    length: NDArray[np.int64]


@dataclass(frozen=True)
class ItemInfo:
    """Items with tags.

    Args:
        item: raw ids, distinct, int64 [n].
        tags: raw ids, 0 = none, int64 [n, TAGS].
        repeats: rows left out because their item had one before.
    """

    item: NDArray[np.int64]
    tags: NDArray[np.int64]
    repeats: int


def open_table(source: Location, table: str, *columns: str) -> ParquetSource:
    """Open a file of the source.

    Args:
        source: folder of the files.
        table: one of `SCHEMAS`.
        columns: those wanted, all by default.

    Raises:
        DataError: the file or a column is missing, damaged or of another type, or has no rows.
    """
    wanted = columns or tuple(SCHEMAS[table].names)
    kinds = {column: _KINDS.get(column, INTEGER) for column in wanted}
    opened = ParquetSource([source / f"{table}.parquet"], kinds)
    if opened.rows == 0:
        raise data_error("no rows", "Check the source", file=opened.files[0])
    return opened


def _ids(batch: Batch, column: str) -> NDArray[np.int64]:
    ids = batch.integers(column)
    _refuse_negative(batch, column, ids, np.arange(len(ids)))
    return ids


def _refuse_negative(batch: Batch, column: str, ids: NDArray[Any], row: NDArray[np.int64]) -> None:
    bad = np.flatnonzero(ids < 0)
    if len(bad):
        problem = f"id {ids[bad[0]]}"
        raise batch.fail(problem, "Write ids from 1 and 0 for none", column, int(row[bad[0]]))


def _levels(batch: Batch, column: str) -> NDArray[np.int32]:
    levels = batch.integers(column)
    bad = np.flatnonzero((levels < 0) | (levels > HIGHEST_LEVEL))
    if len(bad):
        problem = f"level {levels[bad[0]]}, expected 0 to {HIGHEST_LEVEL}"
        raise batch.fail(problem, "Check that this is the right file", column, int(bad[0]))
    return levels.astype(np.int32)


def _sequences(batch: Batch, column: str) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Items of every row without the padding, and how many they are.

    Raises:
        DataError: a null, a negative id, or a 0 that does not pad one end of the list.
    """
    padded, widths = batch.lists(column)
    row_T = np.repeat(np.arange(len(widths)), widths)
    _refuse_negative(batch, column, padded, row_T)
    place = np.flatnonzero(padded)
    row = row_T[place]
    lengths = np.bincount(row, minlength=len(widths))
    some = np.flatnonzero(lengths)
    ends = np.cumsum(lengths)[some]
    first, last = place[ends - lengths[some]], place[ends - 1]
    begin = (np.cumsum(widths) - widths)[some]
    at_one_end = (first == begin) | (last == begin + widths[some] - 1)
    bad = some[(last - first + 1 != lengths[some]) | ~at_one_end]
    if len(bad):
        problem = "0 among the items of a sequence, or on both sides of them"
        advice = "Pad sequences with 0 on the left and leave no item out"
        raise batch.fail(problem, advice, column, int(bad[0]))
    return padded[place].astype(np.int64, copy=False), lengths


def read_rows(table: ParquetSource, split: str, sequences: NpyAppender) -> Rows:
    """Read a split.

    Args:
        table: its file.
        split: one of `SPLITS`.
        sequences: where the items of the sequences go, one row after another, oldest first.

    Raises:
        DataError: bad input.
    """
    parts: list[dict[str, NDArray[Any]]] = []
    for batch in table.batches(f"{split} rows"):
        items, lengths = _sequences(batch, "item_seq")
        sequences.append(items)
        part: dict[str, NDArray[Any]] = {
            "user_id": batch.integers("user_id"),
            "item": _ids(batch, "item_id"),
            "length": lengths,
            **{level: _levels(batch, level) for level in LEVELS},
        }
        if SPLITS[split]:
            part["label"] = binary_labels(batch, "label")
        parts.append(part)
    columns = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    levels = {level: columns.pop(level) for level in LEVELS}
    return Rows(levels=levels, label=columns.pop("label", None), **columns)


def read_item_info(table: ParquetSource) -> ItemInfo:
    """Read the tags; the row of item 0 is padding and left out.

    Raises:
        DataError: bad input.
    """
    items, tags = [], []
    for batch in table.batches("item tags"):
        values, lengths = batch.lists("item_tags")
        bad = np.flatnonzero(lengths != TAGS)
        if len(bad):
            problem = f"{lengths[bad[0]]} tags, expected {TAGS}"
            raise batch.fail(problem, "Fill up with 0 on the left", "item_tags", int(bad[0]))
        _refuse_negative(batch, "item_tags", values, np.repeat(np.arange(len(lengths)), TAGS))
        items.append(_ids(batch, "item_id"))
        tags.append(values.reshape(-1, TAGS).astype(np.int64, copy=False))
    item, tag = np.concatenate(items), np.concatenate(tags)
    _, first = np.unique(item, return_index=True)
    kept = np.sort(first[item[first] != MISSING])
    return ItemInfo(item[kept], tag[kept], len(item) - len(first))


def read_vectors(source: Location) -> VectorTable:
    """The content vectors, float32 [VECTOR_WIDTH], read as they are asked for.

    Args:
        source: folder of the files.
    """
    table = open_table(source, "item_info", "item_id", "item_emb_d128")

    def batches() -> Iterator[tuple[NDArray[Any], NDArray[Any]]]:
        for batch in table.batches("item vectors"):
            rows = vector_rows(batch, "item_emb_d128", VECTOR_WIDTH, np.float32)
            yield batch.integers("item_id"), rows

    return VectorTable(VECTOR_WIDTH, np.float32, batches())
