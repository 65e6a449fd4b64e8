"""Taobao-MM: records, vocabularies, vectors and counts, from both forms of the tree."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow.parquet as pq
import pytest

from datasets import taobao_mm
from datasets.snapshots import Options
from datasets.verify import verify

RAW = taobao_mm.RAW


@pytest.fixture
def tree(tmp_path: Path, taobao_columns: Any, write_tree: Callable[..., Path]) -> Path:
    """The small tree on disk."""
    return write_tree(tmp_path / "raw", taobao_columns)


def test_records(tree: Path, tmp_path: Path, open_store: Any) -> None:
    manifest = taobao_mm.prepare_tree(tree, tmp_path / "store", Options())
    assert verify(tmp_path / "store") == manifest
    store = open_store(tmp_path / "store")
    assert list(store.histories()) == [
        [],
        [100, 101, 100],
        [101, 102],
        [100, None, 103, 104],
        [102, 102],
        [103],
    ]
    users = store.raw("user_id")
    assert [users[row] for row in store["users/feature_user_id"]] == [None, 11, 12, 13, 12, None]
    profiles = store.raw("profile_1")
    # 7 comes with a test user only, so it has no row.
    assert [profiles[row] for row in store["users/feature_profile_1"]] == [None, 1, 2, 3, 2, None]


def samples(store: Any, split: str) -> list[tuple[Any, ...]]:
    """Samples as (record, history_end, raw item, label)."""
    items = store.raw("item")
    columns = [store[f"splits/{split}/{name}"] for name in ("user", "history_end", "item", "label")]
    return [(u, e, items[i], y) for u, e, i, y in zip(*(c.tolist() for c in columns), strict=True)]


def test_samples_see_their_own_snapshot(tree: Path, tmp_path: Path, open_store: Any) -> None:
    manifest = taobao_mm.prepare_tree(tree, tmp_path / "store", Options())
    store = open_store(tmp_path / "store")
    assert samples(store, "train") == [
        (0, 0, 201, 0),
        (1, 3, 201, 0),
        (1, 3, 100, 0),
        (2, 2, 200, 1),
        (3, 3, 200, 1),
    ]
    assert samples(store, "test") == [
        (3, 4, 202, 0),
        (4, 2, 200, 1),
        (5, 1, None, 0),
        (5, 1, 100, 1),
    ]
    counts = manifest["counts"]
    assert counts["train_samples_unknown_user"] == 1
    assert counts["test_samples_unknown_item"] == 1
    assert counts["events_outside_vocabulary"] == 1
    assert counts["targets_without_features"] == 1


def test_items(tree: Path, tmp_path: Path, open_store: Any) -> None:
    manifest = taobao_mm.prepare_tree(tree, tmp_path / "store", Options())
    store = open_store(tmp_path / "store")
    frame = pl.read_parquet(tmp_path / "store" / "vocab" / "item.parquet")
    # Events of all snapshots plus training targets.
    expected = {100: 5, 102: 3, 103: 3, 101: 2, 200: 2, 201: 2, 104: 1, 202: 0}
    assert dict(zip(frame["raw"], frame["count"], strict=True)) == expected
    assert frame["raw"].to_list() == list(expected)
    categories, items = store.raw("category"), store.raw("item")
    found = {items[i]: categories[c] for i, c in enumerate(store["items/feature_category"])}
    assert found == {
        None: None, 100: 500, 101: 500, 102: 510, 103: 510, 104: 520, 200: 500, 201: 500, 202: 510
    }  # fmt: skip
    vectors, inverse = store["items/vectors"], store["items/vector_inv_norm"]
    assert vectors.dtype == np.int8
    assert {items[i]: int(v[0]) for i, v in enumerate(vectors) if v.any()} == {
        200: 1,
        100: 2,
        101: 3,
    }
    assert inverse[items.index(201)] == 0
    assert manifest["vectors"] == {"width": 128, "dtype": "int8", "items_with_vector": 3}
    assert manifest["counts"]["duplicate_vector_keys"] == 1
    assert manifest["counts"]["zero_vectors"] == 1


def test_category_conflicts(
    tmp_path: Path, taobao_columns: Any, write_tree: Callable[..., Path], open_store: Any
) -> None:
    users = taobao_columns["train_user_features"]
    users["history_item"] = [[300, 300, 300], [301, 301], [200, 302]]
    users["history_category"] = [[8, 9, 9], [7, 6], [44, 0]]
    tree = write_tree(tmp_path / "raw", taobao_columns)
    manifest = taobao_mm.prepare_tree(tree, tmp_path / "store", Options())
    store = open_store(tmp_path / "store")
    categories, items = store.raw("category"), store.raw("item")
    rows = store["items/feature_category"]
    found = {item: categories[rows[items.index(item)]] for item in (300, 301, 200, 302)}
    assert found == {300: 9, 301: 6, 200: 500, 302: None}
    assert manifest["counts"]["category_conflicts"] == 3


def test_min_frequency_keeps_targets(tree: Path, tmp_path: Path, open_store: Any) -> None:
    taobao_mm.prepare_tree(tree, tmp_path / "store", Options(min_frequency=3))
    store = open_store(tmp_path / "store")
    assert set(store.raw("item")) == {None, 100, 102, 103, 200, 201, 202}
    assert list(store.histories())[1] == [100, None, 100]


def test_user_min_frequency(tree: Path, tmp_path: Path, open_store: Any) -> None:
    taobao_mm.prepare_tree(tree, tmp_path / "store", Options(user_min_frequency=2))
    assert open_store(tmp_path / "store").raw("user_id") == [None, 11]


@pytest.mark.parametrize("change", ["profile", "history"])
def test_another_snapshot_is_another_record(
    tmp_path: Path,
    taobao_columns: Any,
    write_tree: Callable[..., Path],
    open_store: Any,
    change: str,
) -> None:
    users = taobao_columns["test_user_features"]
    if change == "profile":
        users["profile_5"][0] = 1
    else:
        users["history_item"][0] = [0, 100, 103, 104]
    tree = write_tree(tmp_path / "raw", taobao_columns)
    taobao_mm.prepare_tree(tree, tmp_path / "store", Options())
    store = open_store(tmp_path / "store")
    assert len(store["users/history_offsets"]) == 8
    assert samples(store, "train")[-1] == (3, 3, 200, 1)
    assert samples(store, "test")[0] == (4, 4, 202, 0)


def write_joined(tree: Path, folder: Path) -> Path:
    """The same tables in the joined form, in two shards that cut a user's run of rows."""
    key, item = RAW["user_id"], RAW["item"]
    features = pl.read_parquet(tree / "item_features.parquet")
    for split in taobao_mm.SPLITS:
        (folder / split).mkdir(parents=True)
        rows = pl.read_parquet(tree / f"{split}_samples.parquet")
        users = pl.read_parquet(tree / f"{split}_user_features.parquet")
        rows = rows.join(users, on=key, how="left", maintain_order="left")
        rows = rows.join(features, on=item, how="left", maintain_order="left")
        rows[:2].write_parquet(folder / split / f"{split}-shard-000000.parquet")
        rows[2:].write_parquet(folder / split / f"{split}-shard-000001.parquet")
    vectors = pl.read_parquet(tree / "scl_embedding_int8_p90.parquet")
    (folder / "feature_map").mkdir()
    np.save(folder / "feature_map" / "scl_emb_int8_p90_keys.npy", vectors[item].to_numpy())
    values = np.array(vectors[RAW["vector"]].to_list(), np.int8)
    np.save(folder / "feature_map" / "scl_emb_int8_p90_values.npy", values)
    return folder


def test_joined_form_makes_the_same_store(
    tmp_path: Path, taobao_columns: Any, write_tree: Callable[..., Path], open_store: Any
) -> None:
    # The joined form lists users in the order of the samples.
    taobao_columns["train_samples"]["user_id"] = [11, 12, 12, 13, 99]
    tree = write_tree(tmp_path / "raw", taobao_columns)
    raw = taobao_mm.prepare_tree(tree, tmp_path / "a", Options())
    joined = taobao_mm.prepare_tree(write_joined(tree, tmp_path / "j"), tmp_path / "b", Options())
    verify(tmp_path / "b")
    for entry in ("tables", "features", "histories", "vectors", "splits", "counts"):
        assert joined[entry] == raw[entry], entry
    digests = {name: joined["files"][name] for name in raw["files"] if name.endswith(".npy")}
    assert digests == {name: raw["files"][name] for name in digests}


def test_joined_form_without_vectors(tree: Path, tmp_path: Path) -> None:
    folder = write_joined(tree, tmp_path / "joined")
    (folder / "feature_map" / "scl_emb_int8_p90_keys.npy").unlink()
    manifest = taobao_mm.prepare_tree(folder, tmp_path / "store", Options())
    assert manifest["vectors"] is None
    assert verify(tmp_path / "store") == manifest


@pytest.mark.parametrize("split_as", ["parts", "folder"])
def test_tables_in_several_files(
    tree: Path, tmp_path: Path, taobao_columns: Any, split_as: str
) -> None:
    whole = taobao_mm.prepare_tree(tree, tmp_path / "a", Options())
    rows = pl.read_parquet(tree / "train_samples.parquet")
    (tree / "train_samples.parquet").unlink()
    folder = tree
    if split_as == "folder":
        folder = tree / "train_samples.parquet"
        folder.mkdir()
    rows[:3].write_parquet(folder / "train_samples-0.parquet")
    rows[3:].write_parquet(folder / "train_samples-1.parquet")
    parts = taobao_mm.prepare_tree(tree, tmp_path / "b", Options())
    assert parts["files"] == whole["files"]


@pytest.mark.parametrize("joined", [False, True])
@pytest.mark.parametrize("pieces", [False, True])
def test_batches_leave_no_trace(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, joined: bool, pieces: bool
) -> None:
    source = write_joined(tree, tmp_path / "joined") if joined else tree
    whole = taobao_mm.prepare_tree(source, tmp_path / "a", Options())
    monkeypatch.setattr("datasets.parquet._MAX_BATCH_ROWS", 1)
    if pieces:
        monkeypatch.setattr("datasets.taobao_mm_joined.BATCHES_A_PIECE", 0)
        monkeypatch.setattr("datasets.taobao_mm_joined._VECTORS_A_PIECE", 2)
        for file in source.rglob("*.parquet"):
            pq.write_table(pq.read_table(file), file, row_group_size=1)
    rows = taobao_mm.prepare_tree(source, tmp_path / "b", Options())
    if pieces:
        # Other sizes of the source, and so another manifest, but the same store.
        assert rows["source"] != whole["source"]
    assert rows["files"] == whole["files"]
    assert rows["counts"] == whole["counts"]


def test_real_excerpts(shared_data: Path, tmp_path: Path) -> None:
    source, out = shared_data / "taobao_mm_demo", tmp_path / "store"
    assert taobao_mm.main(["--source", str(source), "--out", str(out)]) == 0
    manifest = verify(out)
    assert manifest["histories"]["records"] == 21
    assert manifest["splits"]["train"]["samples"] == 10
    # The excerpts do not join: every sample's user is unknown.
    assert manifest["counts"]["test_samples_unknown_user"] == 10
