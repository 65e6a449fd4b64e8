"""MicroLens_1M_x1: records, items and samples of a small one, however its files are written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from datasets import microlens
from datasets.verify import verify
from tests.datasets.microlens_tables import tables, write_tables


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """The small tables on disk."""
    return write_tables(tmp_path / "raw", tables())


@pytest.fixture
def prepared(raw: Path, tmp_path: Path, open_store: Any) -> tuple[Any, dict[str, Any]]:
    """Their store, and its manifest."""
    manifest = microlens.prepare(raw, tmp_path / "store")
    return open_store(tmp_path / "store"), manifest


def samples(store: Any, split: str, *more: str) -> list[tuple[Any, ...]]:
    """Samples as (record, history_end, raw item, likes, views, row of the source, ...)."""
    items = store.raw("item")
    names = ("user", "history_end", "item", "feature_likes_level", "feature_views_level")
    columns = [store[f"splits/{split}/{name}"].tolist() for name in (*names, "source_row", *more)]
    return [(u, e, items[i], *rest) for u, e, i, *rest in zip(*columns, strict=True)]


def test_records_and_samples(prepared: tuple[Any, dict[str, Any]]) -> None:
    store, manifest = prepared
    assert verify(store.path) == manifest
    assert list(store.histories()) == [[], [2, 2, 1], [], [1, 2, 3, 8], [2]]
    assert samples(store, "train", "label") == [
        (1, 0, 1, 0, 3, 1, 0),
        (1, 2, 2, 1, 10, 3, 1),
        (3, 2, 3, 4, 0, 0, 1),
        (3, 3, 9, 10, 3, 2, 0),
        (4, 1, 1, 1, 2, 4, 0),
    ]
    assert samples(store, "valid", "label") == [(1, 3, 3, 2, 5, 0, 1), (2, 0, 3, 3, 6, 1, 0)]
    assert samples(store, "test") == [
        (1, 1, None, 8, 8, 1),
        (3, 1, 3, 9, 7, 2),
        (3, 4, 2, 7, 9, 0),
    ]
    assert not (store.path / "splits/test/label.npy").exists()
    assert manifest["splits"] == {
        "train": {"samples": 5, "positives": 2, "users": 3, "source_rows": True},
        "valid": {"samples": 2, "positives": 1, "users": 2, "source_rows": True},
        "test": {"samples": 3, "users": 2, "labelled": False, "source_rows": True},
    }
    assert manifest["features"]["user"] == []
    assert sorted(path.name for path in store.path.parent.iterdir()) == ["raw", "store"]
    assert [name for name in manifest["files"] if "/" not in name] == []


def test_items(prepared: tuple[Any, dict[str, Any]]) -> None:
    store, manifest = prepared
    frame = pl.read_parquet(store.path / "vocab" / "item.parquet")
    # Events of all records plus training targets.
    expected = {2: 5, 1: 4, 3: 2, 8: 1, 9: 1, 4: 0}
    assert dict(zip(frame["raw"], frame["count"], strict=True)) == expected
    assert frame["raw"].to_list() == list(expected)
    items, tags = store.raw("item"), store.raw("tag")
    rows = store["items/feature_tags"].tolist()
    assert {item: [tags[tag] for tag in own] for item, own in zip(items, rows, strict=True)} == {
        None: [None] * 5,
        1: [None, None, None, 21, 20],
        2: [None, None, None, None, 20],
        3: [None] * 5,
        4: [25, 24, 23, 22, 21],
        8: [None] * 5,
        9: [None] * 5,
    }
    assert manifest["features"]["item"] == [{"name": "tags", "table": "tag", "width": 5}]
    vectors = store["items/vectors"]
    assert vectors.dtype == np.float32
    found = {items[row]: vector.tolist() for row, vector in enumerate(vectors) if vector.any()}
    assert found == {1: [0.5] * 128, 2: [-1.5] * 128, 4: [0.25] * 128}
    counts = manifest["counts"]
    assert counts["items_without_features"] == 2
    assert counts["zero_vectors"] == 1
    assert counts["users_with_several_records"] == 1
    assert counts["test_samples_unknown_item"] == 1


def test_a_level_is_its_own_row(prepared: tuple[Any, dict[str, Any]]) -> None:
    store, manifest = prepared
    for level, counted in (
        ("likes_level", {1: 2, 4: 1, 10: 1}),
        ("views_level", {2: 1, 3: 2, 10: 1}),
    ):
        assert manifest["tables"][level]["rows"] == 11
        frame = pl.read_parquet(store.path / "vocab" / f"{level}.parquet")
        assert frame["raw"].to_list() == frame["row"].to_list() == list(range(1, 11))
        assert frame["count"].to_list() == [counted.get(value, 0) for value in range(1, 11)]


def test_user_id_only_if_asked_for(raw: Path, tmp_path: Path, open_store: Any) -> None:
    arguments = ["--source", str(raw), "--out", str(tmp_path / "store"), "--user-id"]
    assert microlens.main(arguments) == 0
    manifest = verify(tmp_path / "store")
    assert manifest["features"]["user"] == [{"name": "user_id", "table": "user_id"}]
    store = open_store(tmp_path / "store")
    users = store.raw("user_id")
    # User 6 has no rows in train.
    assert [users[row] for row in store["users/feature_user_id"]] == [None, 5, None, 7, 7]
    assert manifest["counts"]["users_outside_vocabulary"] == 1


def rewritten(change: Any) -> Any:
    """Change the columns of every file, written anew."""

    def rewrite(raw: Path) -> None:
        for file in raw.glob("*.parquet"):
            table = pq.read_table(file)
            columns = {
                name: change(name, table[name].combine_chunks()) for name in table.schema.names
            }
            pq.write_table(pa.table(columns), file)

    return rewrite


def _unpadded(name: str, column: Any) -> Any:
    if name != "item_seq":
        return column
    return pa.array([[item for item in row if item] for row in column.to_pylist()], column.type)


def _padded_right(name: str, column: Any) -> Any:
    if name != "item_seq":
        return column
    rows = column.to_pylist()
    return pa.array([sorted(row, key=lambda item: item == 0) for row in rows], column.type)


def _fixed_size(name: str, column: Any) -> Any:
    if not pa.types.is_list(column.type):
        return column
    rows = column.to_pylist()
    return pa.array(rows, pa.list_(column.type.value_type, len(rows[0])))


def _narrow(name: str, column: Any) -> Any:
    kinds = {
        "item_seq": pa.large_list(pa.int32()),
        "item_emb_d128": pa.list_(pa.float16()),
        "item_tags": pa.list_(pa.uint16()),
        "label": pa.float32(),
    }
    return pa.array(column.to_pylist(), kinds.get(name, pa.int16()))


LAYOUTS = {
    "no padding": _unpadded,
    "padding on the right": _padded_right,
    "arrays of fixed size": _fixed_size,
    "narrow numbers": _narrow,
    "columns in another order": None,
    "batches of one row": None,
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_same_store(
    layout: str,
    raw: Path,
    tmp_path: Path,
    prepared: tuple[Any, dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if (change := LAYOUTS[layout]) is not None:
        rewritten(change)(raw)
    elif layout == "batches of one row":
        monkeypatch.setattr("datasets.parquet._MAX_BATCH_ROWS", 1)
        monkeypatch.setattr("datasets.sequences._PIECE_EVENTS", 2)
    else:
        for file in raw.glob("*.parquet"):
            table = pq.read_table(file)
            extra = pa.array(range(len(table)))
            names = sorted(table.schema.names, reverse=True)
            pq.write_table(table.select(names).append_column("extra", extra), file)
    manifest = microlens.prepare(raw, tmp_path / "again")
    assert manifest["files"] == prepared[1]["files"]
    assert manifest["counts"] == prepared[1]["counts"]


def test_a_second_row_of_an_item_is_counted(tmp_path: Path, open_store: Any) -> None:
    columns = tables()
    for name, value in (
        ("item_id", 2),
        ("item_tags", [0, 0, 0, 0, 23]),
        ("item_emb_d128", [9.0] * 128),
    ):
        columns["item_info"][name].append(value)
    manifest = microlens.prepare(write_tables(tmp_path / "raw", columns), tmp_path / "store")
    assert manifest["counts"]["duplicate_item_features"] == 1
    assert manifest["counts"]["duplicate_vector_keys"] == 1
    store = open_store(tmp_path / "store")
    row = store.raw("item").index(2)
    assert [store.raw("tag")[tag] for tag in store["items/feature_tags"][row]] == [None] * 4 + [20]
    assert store["items/vectors"][row, 0] == -1.5


def test_no_history_at_all(tmp_path: Path, open_store: Any) -> None:
    columns = tables()
    for split in ("train", "valid", "test"):
        columns[split]["item_seq"] = [[0] * 4 for _ in columns[split]["item_seq"]]
    manifest = microlens.prepare(write_tables(tmp_path / "raw", columns), tmp_path / "store")
    assert verify(tmp_path / "store") == manifest
    assert list(open_store(tmp_path / "store").histories()) == [[]] * 4


def test_existing_store_stays_unless_asked(raw: Path, prepared: Any, tmp_path: Path) -> None:
    arguments = ["--source", str(raw), "--out", str(tmp_path / "store")]
    before = (tmp_path / "store/manifest.json").stat().st_ino
    assert microlens.main(arguments) == 2
    assert (tmp_path / "store/manifest.json").stat().st_ino == before
    assert microlens.main([*arguments, "--overwrite"]) == 0
    manifest = json.loads((tmp_path / "store/manifest.json").read_text())
    assert manifest["files"] == prepared[1]["files"]
