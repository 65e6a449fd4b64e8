"""Small inputs for the tests of preparation, and the place of the shared real data."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from datasets import taobao_mm

Columns = dict[str, dict[str, list[Any]]]


@pytest.fixture
def shared_data() -> Path:
    """Folder of the real data; the test is skipped where it is absent."""
    root = Path(__file__).parents[2]
    folder = Path(os.environ.get("CTR_SHARED", root.parent / "shared")) / "data"
    if not folder.is_dir():
        pytest.skip(f"no shared data at {folder}: set CTR_SHARED")
    return folder


@pytest.fixture
def taobao_columns() -> Columns:
    """A tree of three train and three test users, by words; user 13's history goes on in test,
    user 12's is another one."""
    profiles = {word: [1, 2, 3] for word in taobao_mm.PROFILE}
    train_histories = [[100, 101, 100], [101, 102], [100, 0, 103]]
    test_histories = [[100, 0, 103, 104], [102, 102], [103]]

    def categories(histories: list[list[int]]) -> list[list[int]]:
        return [[item // 2 * 10 for item in history] for history in histories]

    return {
        "train_samples": {
            "label": [[0, 1], [1, 0], [1, 0], [0, 1], [1, 0]],
            "user_id": [13, 11, 11, 12, 99],
            "item": [200, 201, 100, 200, 201],
        },
        "test_samples": {
            "label": [[1, 0], [0, 1], [1, 0], [0, 1]],
            "user_id": [13, 12, -14, -14],
            "item": [202, 200, 0, 100],
        },
        "train_user_features": {
            "user_id": [11, 12, 13],
            **profiles,
            "history_item": train_histories,
            "history_category": categories(train_histories),
        },
        "test_user_features": {
            "user_id": [13, 12, -14],
            **{word: [3, 2, 7] for word in taobao_mm.PROFILE},
            "history_item": test_histories,
            "history_category": categories(test_histories),
        },
        "item_features": {
            "item": [200, 201, 202],
            "category": [500, 500, 510],
            "brand": [7, 7, 8],
            "shop": [9, 9, 0],
        },
        "scl_embedding_int8_p90": {
            "item": [200, 100, 101, 201, 100],
            "vector": [[k] * 128 for k in (1, 2, 3, 0, 5)],
        },
    }


def write_table(folder: Path, name: str, columns: dict[str, list[Any]]) -> None:
    """Write one raw table, renaming words to raw columns."""
    schema = taobao_mm.raw_schema(name)
    arrays = [pa.array(columns[taobao_mm.WORD[f.name]], f.type) for f in schema]
    pq.write_table(pa.table(arrays, schema=schema), folder / f"{name}.parquet")


@pytest.fixture
def write_tree() -> Callable[[Path, Columns], Path]:
    """Writes a raw Taobao-MM tree."""

    def write(folder: Path, tables: Columns) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        for name, columns in tables.items():
            write_table(folder, name, columns)
        return folder

    return write


class Store:
    """A prepared store opened for a test."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __getitem__(self, name: str) -> np.ndarray:
        array: np.ndarray = np.load(self.path / f"{name}.npy", allow_pickle=False)
        return array

    def raw(self, table: str) -> list[Any]:
        """Raw ids of a table by row; None for row 0."""
        return [None, *pq.read_table(self.path / "vocab" / f"{table}.parquet")["raw"].to_pylist()]

    def histories(self) -> Iterator[list[Any]]:
        """Raw items of every record's history."""
        items, offsets = self.raw("item"), self["users/history_offsets"]
        rows = self["users/history_item"]
        for start, end in itertools.pairwise(offsets):
            yield [items[row] for row in rows[start:end]]


@pytest.fixture
def open_store() -> type[Store]:
    """Opens a store's arrays by name."""
    return Store
