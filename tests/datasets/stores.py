"""Small stores for the tests, and what damages them."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from datasets.manifest import file_digest, seal
from datasets.store import StoreWriter
from datasets.vocab import Vocabulary

ITEMS = 6


def write_store(path: Path, histories: list[list[int]], **options: Any) -> dict[str, Any]:
    """A store with the given histories, one sample at the end of each."""
    with StoreWriter(path, name="t", created_by="test", source={}, **options) as store:
        raw = pl.Series(np.arange(ITEMS, dtype=np.int64))
        for table in ("item", "category", "user_id", "liked"):
            store.add_table(table, Vocabulary(raw, raw))
        store.add_feature("item", "category", np.arange(ITEMS + 1, dtype=np.int32))
        users = len(histories)
        store.add_feature("user", "user_id", (np.arange(users + 1) % ITEMS).astype(np.int32))
        writer = store.histories({"liked": "liked"})
        for history in histories:
            items = np.array(history, np.int32)
            writer.append(items, np.array([len(history)], np.int64), {"liked": items})
        vectors = store.vectors(ITEMS + 1, 3, np.int8)
        vectors[1:4] = [[1, 2, 2], [0, 0, 0], [-128, 0, 127]]
        ends = np.array([len(history) for history in histories], np.int64)
        record = np.arange(1, users + 1, dtype=np.int32)
        ones = np.ones(users, np.uint8)
        store.add_split("train", record[::-1], record[::-1] % ITEMS, ends[::-1], ones)
        return store.finish()


def write_extended(path: Path) -> dict[str, Any]:
    """A store with a list of tags, a level of each sample, rows of the source, and no labels."""
    with StoreWriter(path, name="t", created_by="test", source={}) as store:
        raw = pl.Series(np.arange(1, ITEMS, dtype=np.int64))
        for table in ("item", "tag", "level"):
            store.add_table(table, Vocabulary(raw, raw))
        tags = np.array([[0, 0], [0, 1], [2, 1], [0, 0], [5, 4], [0, 3]], np.int32)
        store.add_feature("item", "tags", tags, "tag")
        store.histories().append(np.array([1, 2, 3], np.int32), np.array([1, 2]))
        store.sample_features({"mood": "level"})
        for split, label in (("train", np.array([0, 1, 1], np.uint8)), ("test", None)):
            store.add_split(
                split,
                np.array([2, 1, 2], np.int32),
                np.array([4, 5, 3], np.int32),
                np.array([2, 1, 0]),
                label,
                features={"mood": np.array([5, 0, 3], np.int32)},
                source_row=np.array([9, 7, 8]) if label is None else None,
            )
        return store.finish()


def digest(store: Path) -> str:
    """Of the manifest of a store, as its children name it."""
    raw = (store / "manifest.json").read_bytes()
    return hashlib.blake2b(raw, digest_size=16).hexdigest()


def reseal(path: Path, name: str) -> None:
    """Make the manifest agree with a changed file, so that only the content can give it away."""
    manifest = json.loads((path / "manifest.json").read_text())
    file = path / name
    manifest["files"][name] = {"bytes": file.stat().st_size, "blake2b": file_digest(file)}
    manifest["checksum"] = seal(manifest)
    (path / "manifest.json").write_text(json.dumps(manifest))


def raw_users(path: Path) -> list[Any]:
    """Raw users of records 1, 2, ... of a store, whose manifest must tell of them."""
    assert json.loads((path / "manifest.json").read_text())["raw_users"] is True
    return pl.read_parquet(path / "users/raw.parquet")["raw"].to_list()


def without_raw_users(path: Path) -> Path:
    """Make a store one of an earlier release, which had no file of raw users."""
    (path / "users/raw.parquet").unlink()
    manifest = json.loads((path / "manifest.json").read_text())
    del manifest["raw_users"], manifest["files"]["users/raw.parquet"]
    manifest["checksum"] = seal(manifest)
    (path / "manifest.json").write_text(json.dumps(manifest))
    return path


def change_manifest(path: Path, place: str, value: Any) -> None:
    """Set one entry of a manifest whose checksum is left out; `place` is a dotted path."""
    file = path / "manifest.json"
    manifest = json.loads(file.read_text())
    del manifest["checksum"]
    holder: Any = manifest
    *above, last = place.split(".")
    for key in above:
        holder = holder[int(key) if key.isdigit() else key]
    holder[last] = value
    file.write_text(json.dumps(manifest))
