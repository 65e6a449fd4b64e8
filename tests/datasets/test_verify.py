"""Integrity of a store: damage that only its content gives away, and manifests of another kind."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from datasets.errors import DataError
from datasets.verify import verify
from tests.datasets.stores import ITEMS, change_manifest, reseal, write_extended, write_store

DAMAGE = {
    "offsets fall": ("users/history_offsets", lambda a: a[[0, 1, 3, 2]]),
    "record 0": ("users/history_offsets", lambda a: a + 1),
    "outside a table": ("users/history_item", lambda a: a + ITEMS),
    "dtype": ("users/event_liked", lambda a: a.astype(np.int64)),
    "entry 0": ("items/feature_category", lambda a: np.maximum(a, 1)),
    "shape": ("users/feature_user_id", lambda a: a[:-1]),
    "is not 1 / norm": ("items/vector_inv_norm", lambda a: a * np.float32(1.01)),
    "history_end": ("splits/train/history_end", lambda a: a + 1),
    "expected 0 or 1": ("splits/train/label", lambda a: a + 1),
    "not sorted": ("splits/train/user", lambda a: a[::-1]),
}


@pytest.mark.parametrize("message", DAMAGE)
def test_verify_finds_damage(tmp_path: Path, message: str) -> None:
    name, change = DAMAGE[message]
    write_store(tmp_path / "s", [[1, 2], [3, 4]])
    file = tmp_path / "s" / f"{name}.npy"
    np.save(file, change(np.load(file)))
    with pytest.raises(DataError, match=r"digest|bytes"):
        verify(tmp_path / "s")
    reseal(tmp_path / "s", f"{name}.npy")
    with pytest.raises(DataError, match=message) as caught:
        verify(tmp_path / "s")
    assert file.name in str(caught.value) or file.parent.name in str(caught.value)


EXTENDED: dict[str, tuple[str, Any]] = {
    "outside a table": ("items/feature_tags", lambda a: a + (a == 5)),
    "entry 0": ("items/feature_tags", lambda a: a[::-1]),
    "shape": ("items/feature_tags", lambda a: a[:, :1]),
    "value 6 outside": ("splits/train/feature_mood", lambda a: a + (a == 5)),
    "expected int32": ("splits/test/feature_mood", lambda a: a.astype(np.int64)),
    "source row 7 comes twice": ("splits/test/source_row", lambda a: np.minimum(a, 7)),
    "source row -9": ("splits/test/source_row", lambda a: -a[::-1]),
    "expected int64": ("splits/test/source_row", lambda a: a.astype(np.int32)),
    "3 positives, the manifest says 2": ("splits/train/label", lambda a: a * 0 + 1),
}


@pytest.mark.parametrize("message", EXTENDED)
def test_verify_finds_damage_of_extensions(tmp_path: Path, message: str) -> None:
    name, change = EXTENDED[message]
    write_extended(tmp_path / "s")
    file = tmp_path / "s" / f"{name}.npy"
    np.save(file, change(np.load(file)))
    reseal(tmp_path / "s", f"{name}.npy")
    with pytest.raises(DataError, match=message) as caught:
        verify(tmp_path / "s")
    assert file.name in str(caught.value) or file.parent.name in str(caught.value)


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        ("splits.train.positives", None, "key splits.train.positives"),
        ("splits.test.positives", 1, "key splits.test: positives belong"),
        ("splits.train.labelled", False, "key splits.train: positives belong"),
        ("splits.train.labelled", 1, "key splits.train.labelled"),
        ("splits.test.labelled", None, "key splits.test.labelled"),
        ("splits.test.source_rows", "yes", "key splits.test.source_rows"),
        ("splits.test.source_rows", False, "source_row.npy: source rows that the manifest"),
        ("splits.train.source_rows", True, "source_row.npy: no such file"),
        ("features.item.0.width", "2", "key features.item.0.width"),
        ("features.item.0.width", 1, "key tags: width 1 of a feature of items"),
        ("features.item.0.width", 3, "feature_tags.npy: shape"),
        ("features.sample.0.width", 2, "key mood: width 2 of a feature of samples"),
        ("features.sample.0.table", "none", "key mood"),
        ("features.sample.0.name", "../x", "key '../x'"),
        ("features.sample", None, "key features.sample"),
        ("features.sample.0.name", "other", "feature_other.npy: no such file"),
    ],
)
def test_a_manifest_with_extensions_of_another_kind(
    tmp_path: Path, place: str, value: Any, message: str
) -> None:
    write_extended(tmp_path / "s")
    change_manifest(tmp_path / "s", place, value)
    with pytest.raises(DataError) as caught:
        verify(tmp_path / "s")
    assert message in str(caught.value)


def test_verify_finds_labels_of_a_split_without(tmp_path: Path) -> None:
    write_extended(tmp_path / "s")
    change_manifest(tmp_path / "s", "splits.train", {"samples": 3, "users": 2, "labelled": False})
    with pytest.raises(DataError, match=r"label\.npy: labels of a split that .* unlabelled"):
        verify(tmp_path / "s")


def test_verify_finds_missing_and_foreign_files(tmp_path: Path) -> None:
    write_store(tmp_path / "s", [[1]])
    (tmp_path / "s" / "more.npy").write_bytes(b"")
    with pytest.raises(DataError, match=r"more\.npy.*not in the manifest"):
        verify(tmp_path / "s")
    (tmp_path / "s" / "more.npy").unlink()
    (tmp_path / "s" / "vocab" / "item.parquet").unlink()
    with pytest.raises(DataError, match=r"item\.parquet.*no such file"):
        verify(tmp_path / "s")


def test_a_manifest_changed_since_it_was_written(tmp_path: Path) -> None:
    write_store(tmp_path / "s", [[1]])
    file = tmp_path / "s" / "manifest.json"
    file.write_text(file.read_text().replace('"table": "liked"', '"table": "category"'))
    with pytest.raises(DataError, match=r"manifest\.json: its checksum differs"):
        verify(tmp_path / "s")


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        ("tables", [], "key tables"),
        ("tables.item.rows", float("inf"), "key tables.item.rows"),
        ("tables.item.rows", True, "key tables.item.rows"),
        ("tables.item.rows", -1, "key tables.item.rows"),
        ("tables", {"../../x": {"rows": 1}}, "key '../../x'"),
        ("splits.a/b", {"samples": 1, "positives": 1, "users": 1}, "key 'a/b'"),
        ("features.item", [5], "key features.item.0"),
        ("features.item.0.table", "none", "key category"),
        ("vectors", [], "key vectors"),
        ("vectors.dtype", "object", "vectors of dtype"),
        ("files", {"a": 1}, "key files.a"),
        ("files./etc/passwd", {"bytes": 1, "blake2b": ""}, "/etc/passwd: no such file"),
    ],
)
def test_a_manifest_entry_of_another_kind(
    tmp_path: Path, place: str, value: Any, message: str
) -> None:
    write_store(tmp_path / "s", [[1]])
    change_manifest(tmp_path / "s", place, value)
    with pytest.raises(DataError) as caught:
        verify(tmp_path / "s")
    assert message in str(caught.value)
    assert str(tmp_path / "s") in str(caught.value)


@pytest.mark.parametrize("text", ["[" * 100_000, "\ufeff{}", "[]", "1" * 10_000])
def test_a_manifest_that_is_no_object(tmp_path: Path, text: str) -> None:
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(DataError, match=r"manifest\.json: not "):
        verify(tmp_path)


@pytest.mark.parametrize("content", [b"", b"\x93NUMPY\x01\x00\x02\x00{'", None])
def test_verify_names_a_forged_file_that_is_no_array(tmp_path: Path, content: bytes | None) -> None:
    write_store(tmp_path / "s", [[1, 2]])
    file = tmp_path / "s" / "users" / "history_item.npy"
    if content is not None:
        file.write_bytes(content)
        reseal(tmp_path / "s", "users/history_item.npy")
    else:
        file.unlink()
        file.mkdir()
        files = json.loads((tmp_path / "s" / "manifest.json").read_text())["files"]
        del files["users/history_item.npy"]
        change_manifest(tmp_path / "s", "files", files)
    with pytest.raises(DataError, match=r"history_item\.npy: not readable as \.npy"):
        verify(tmp_path / "s")
