"""The store: what is written is read back, damage is found, and a killed writer leaves nothing."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from datasets.errors import DataError
from datasets.norms import inverse_norms
from datasets.npy import NpyAppender
from datasets.store import StoreWriter, main
from datasets.verify import verify
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


@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    histories=st.lists(st.lists(st.integers(0, ITEMS), max_size=5), min_size=1, max_size=6),
    number=st.integers(0, 10**12),
)
def test_round_trip(
    tmp_path: Path, open_store: Any, histories: list[list[int]], number: int
) -> None:
    path = tmp_path / f"store-{number}"
    manifest = write_store(path, histories, overwrite=True)
    assert verify(path) == manifest
    store = open_store(path)
    offsets, rows = store["users/history_offsets"], store["users/history_item"]
    assert offsets[:2].tolist() == [0, 0]
    found = [rows[a:b].tolist() for a, b in itertools.pairwise(offsets[1:])]
    assert found == histories
    assert store["users/event_liked"].tolist() == rows.tolist()
    assert store["splits/train/user"].tolist() == list(range(1, len(histories) + 1))
    assert store["splits/train/history_end"].tolist() == [len(h) for h in histories]
    assert manifest["histories"]["max_length"] == max(len(h) for h in histories)
    assert manifest["vectors"]["items_with_vector"] == 2
    np.testing.assert_allclose(
        store["items/vector_inv_norm"][:4], [0, 1 / 3, 0, 1 / 180.3135], 1e-6
    )


def test_samples_are_sorted_stably(tmp_path: Path, open_store: Any) -> None:
    with StoreWriter(tmp_path / "s", name="t", created_by="test", source={}) as store:
        store.histories()
        user, end = np.array([2, 1, 2, 2], np.int32), np.array([5, 9, 3, 5])
        store.add_split("train", user, np.arange(4, dtype=np.int32), end, np.zeros(4, np.uint8))
        store.finish()
    assert open_store(tmp_path / "s")["splits/train/item"].tolist() == [1, 2, 0, 3]


def test_appender_writes_what_numpy_reads(tmp_path: Path) -> None:
    appender = NpyAppender(tmp_path / "a.npy", np.int16, width=2)
    for rows in (3, 0, 2):
        appender.append(np.full((rows, 2), rows, np.int16))
    with pytest.raises(ValueError, match="expected"):
        appender.append(np.zeros(2, np.int16))
    appender.close()
    array = np.load(tmp_path / "a.npy", mmap_mode="r", allow_pickle=False)
    assert array.dtype == np.int16
    assert array.tolist() == [[3, 3]] * 3 + [[2, 2]] * 2


def test_norms_of_int8_do_not_overflow() -> None:
    vectors = np.full((1, 128), -128, np.int8)
    assert inverse_norms(vectors)[0] == np.float32(1 / (128 * np.sqrt(128)))


def reseal(path: Path, name: str) -> None:
    """Make the manifest agree with a changed file, so that only the content can give it away."""
    from datasets.manifest import file_digest, seal

    manifest = json.loads((path / "manifest.json").read_text())
    file = path / name
    manifest["files"][name] = {"bytes": file.stat().st_size, "blake2b": file_digest(file)}
    manifest["checksum"] = seal(manifest)
    (path / "manifest.json").write_text(json.dumps(manifest))


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


def test_verify_finds_missing_and_foreign_files(tmp_path: Path) -> None:
    write_store(tmp_path / "s", [[1]])
    (tmp_path / "s" / "more.npy").write_bytes(b"")
    with pytest.raises(DataError, match=r"more\.npy.*not in the manifest"):
        verify(tmp_path / "s")
    (tmp_path / "s" / "more.npy").unlink()
    (tmp_path / "s" / "vocab" / "item.parquet").unlink()
    with pytest.raises(DataError, match=r"item\.parquet.*no such file"):
        verify(tmp_path / "s")


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


@pytest.mark.parametrize("version", [0, 2])
def test_another_schema_version_names_both(
    tmp_path: Path, version: int, capsys: pytest.CaptureFixture[str]
) -> None:
    write_store(tmp_path / "s", [[1]])
    file = tmp_path / "s" / "manifest.json"
    file.write_text(file.read_text().replace('"schema_version": 1', f'"schema_version": {version}'))
    assert main(["verify", str(tmp_path / "s")]) == 2
    message = capsys.readouterr().err
    assert message.startswith("error: ")
    assert f"schema version {version}, this code reads 1" in message
    assert "Prepare the data set again" in message


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_store(tmp_path / "s", [[1, 2]])
    assert main(["verify", str(tmp_path / "s")]) == 0
    assert main(["info", str(tmp_path / "s")]) == 0
    assert '"events": 2' in capsys.readouterr().out
    assert main(["verify", str(tmp_path / "absent")]) == 2


def test_existing_store_stays_unless_asked(tmp_path: Path) -> None:
    write_store(tmp_path / "s", [[1]])
    with pytest.raises(DataError, match="--overwrite"):
        write_store(tmp_path / "s", [[1, 2]])
    assert verify(tmp_path / "s")["histories"]["events"] == 1
    write_store(tmp_path / "s", [[1, 2]], overwrite=True)
    assert verify(tmp_path / "s")["histories"]["events"] == 2
    assert [path.name for path in tmp_path.iterdir()] == ["s"]


def test_overwrite_does_not_remove_what_is_no_store(tmp_path: Path) -> None:
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "thesis.txt").write_text("mine")
    with pytest.raises(DataError, match="not a store"):
        write_store(tmp_path / "s", [[1]], overwrite=True)
    assert (tmp_path / "s" / "thesis.txt").read_text() == "mine"


def test_failure_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="'train' has no samples"):
        write_store(tmp_path / "s", [])
    assert list(tmp_path.iterdir()) == []


KILLED = """
    import os, signal, sys
    from pathlib import Path
    import numpy as np
    from datasets.store import StoreWriter
    with StoreWriter(Path(sys.argv[1]), name="t", created_by="test", source={}) as store:
        store.histories().append(np.zeros(5, np.int32), np.array([5]))
        os.kill(os.getpid(), signal.SIGKILL)
"""


def test_killed_preparation_leaves_no_store(tmp_path: Path) -> None:
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(KILLED), str(tmp_path / "s")], cwd=root, check=False
    )
    assert done.returncode == -signal.SIGKILL
    assert not (tmp_path / "s").exists()
    assert len(list(tmp_path.glob("s.tmp-*"))) == 1
    alive = tmp_path / f"s.tmp-{os.getppid()}"
    alive.mkdir()
    write_store(tmp_path / "s", [[1]])
    verify(tmp_path / "s")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["s", alive.name]
