"""Integrity check of a prepared store: files, shapes, and what must hold between them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from tqdm import tqdm

from datasets.errors import DataError, data_error
from datasets.manifest import (
    MANIFEST,
    file_digest,
    history_segments,
    is_labelled,
    read_manifest,
)
from datasets.norms import inverse_norms
from datasets.raw_users import check_raw_users
from datasets.remote_store import local_copy
from remote.path import Location

_CHUNK_ROWS = 1 << 20
_AGAIN = "Prepare the data set again"


def verify(store: Location) -> dict[str, Any]:
    """Check a store against its manifest and against itself.

    Args:
        store: its folder; what is at a URL is fetched first, into the folder of temporary files.

    Returns:
        The manifest.

    Raises:
        DataError: the first thing found wrong.
    """
    with local_copy(store) as path:
        manifest = read_manifest(path)
        _check_files(path, manifest["files"])
        _check_vocabularies(path, manifest["tables"])
        _check_users(path, manifest)
        _check_items(path, manifest)
        for split in manifest["splits"]:
            _check_split(path, manifest, split)
    return manifest


def _wrong(file: Path, problem: str, row: int | None = None) -> DataError:
    return data_error(problem, _AGAIN, file=file, row=row)


def _check_files(path: Path, files: dict[str, Any]) -> None:
    there = {file.relative_to(path).as_posix() for file in path.rglob("*") if file.is_file()}
    for name in sorted(there - files.keys() - {MANIFEST}):
        raise _wrong(path / name, "not in the manifest")
    for name, entry in tqdm(sorted(files.items()), desc="digests", disable=None):
        if name not in there:
            # Not joined: a forged name may be a path of its own, and is not looked for.
            raise _wrong(Path(f"{path}/{name}"), "no such file")
        size = (path / name).stat().st_size
        if size != entry["bytes"]:
            raise _wrong(path / name, f"{size} bytes, the manifest says {entry['bytes']}")
        if file_digest(path / name) != entry["blake2b"]:
            raise _wrong(path / name, "its digest is not the manifest's: the content has changed")


def _load(file: Path, dtype: str, shape: tuple[int, ...]) -> NDArray[Any]:
    try:
        array: NDArray[Any] = np.load(file, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        raise _wrong(file, "no such file") from None
    except Exception as error:  # a damaged header raises almost anything
        raise _wrong(file, f"not readable as .npy ({error})") from None
    if array.dtype != np.dtype(dtype):
        raise _wrong(file, f"dtype {array.dtype}, expected {dtype}")
    if array.shape != shape:
        raise _wrong(file, f"shape {array.shape}, expected {shape}")
    return array


def _chunks(rows: int) -> Iterator[slice]:
    for start in range(0, rows, _CHUNK_ROWS):
        yield slice(start, min(start + _CHUNK_ROWS, rows))


def _check_range(file: Path, array: NDArray[Any], rows: int) -> None:
    """Every entry of `array` must be a row of a table of that many rows."""
    for part in _chunks(len(array)):
        bad = np.argwhere((array[part] < 0) | (array[part] >= rows))
        if len(bad):
            value, place = array[part][tuple(bad[0])], part.start + int(bad[0][0])
            raise _wrong(file, f"value {value} outside a table of {rows} rows", place)


def _check_vocabularies(path: Path, tables: dict[str, Any]) -> None:
    for table, entry in tables.items():
        file = path / "vocab" / f"{table}.parquet"
        try:
            frame = pl.read_parquet(file, glob=False)
        except (OSError, pl.exceptions.PolarsError) as error:
            raise _wrong(file, f"cannot be read ({error})") from None
        schema = frame.schema
        if list(schema) != ["raw", "row", "count"] or schema["raw"] not in (pl.Int64, pl.String):
            raise _wrong(file, f"columns {dict(schema)}, expected raw, row and count")
        if schema["row"] != pl.Int32 or schema["count"] != pl.Int64:
            raise _wrong(file, f"columns {dict(schema)}, expected row Int32 and count Int64")
        if len(frame) + 1 != entry["rows"]:
            raise _wrong(file, f"{len(frame)} ids, the manifest's table has {entry['rows']} rows")
        if not np.array_equal(frame["row"].to_numpy(), np.arange(1, entry["rows"])):
            raise _wrong(file, "rows are not 1, 2, 3, ...")
        if frame["raw"].null_count() or frame["raw"].n_unique() < len(frame):
            raise _wrong(file, "ids are null or repeat")


def _check_features(path: Path, manifest: dict[str, Any], kind: str, rows: int) -> None:
    for feature in manifest["features"][kind]:
        file = path / f"{kind}s" / f"feature_{feature['name']}.npy"
        shape = (rows, feature["width"]) if "width" in feature else (rows,)
        array = _load(file, "int32", shape)
        if np.any(array[0]):
            raise _wrong(file, "entry 0 stands for unknown and must be 0", 0)
        _check_range(file, array, manifest["tables"][feature["table"]]["rows"])


def _check_users(path: Path, manifest: dict[str, Any]) -> None:
    counted = manifest["histories"]
    events = counted["events"]
    file = path / "users" / "history_offsets.npy"
    offsets = _load(file, "int64", (counted["records"] + 1,))
    lengths = np.diff(offsets)
    if offsets[0] != 0 or offsets[1] != 0:
        raise _wrong(file, "record 0, the unknown user, must have no events", 0)
    # Compared, not subtracted: the difference of two damaged numbers may overflow.
    falls = np.flatnonzero(offsets[1:] < offsets[:-1])
    if len(falls):
        raise _wrong(file, "offsets fall", int(falls[0]) + 1)
    if offsets[-1] != events:
        raise _wrong(file, f"ends at {offsets[-1]}, the manifest says {events} events")
    if lengths.max() != counted["max_length"]:
        problem = f"longest history {lengths.max()}, the manifest says {counted['max_length']}"
        raise _wrong(file, problem)
    tables = manifest["tables"]
    columns = {"history_item": "item"}
    columns |= {f"event_{e['name']}": e["table"] for e in manifest["features"]["event"]}
    end = 0
    for folder, size in history_segments(manifest):
        for name, table in columns.items():
            segment = path / folder / f"{name}.npy"
            _check_range(segment, _load(segment, "int32", (size,)), tables[table]["rows"])
        end += size
        if offsets[np.searchsorted(offsets, end)] != end:
            raise _wrong(file, f"a record lies on both sides of event {end}, where {folder} ends")
    _check_features(path, manifest, "user", counted["records"])
    check_raw_users(path, manifest)


def _check_items(path: Path, manifest: dict[str, Any]) -> None:
    rows = manifest["tables"]["item"]["rows"]
    _check_features(path, manifest, "item", rows)
    if manifest["vectors"] is None:
        return
    width, dtype = manifest["vectors"]["width"], manifest["vectors"]["dtype"]
    if dtype not in ("int8", "float16", "float32"):
        raise _wrong(path / MANIFEST, f"vectors of dtype '{dtype}'")
    vectors = _load(path / "items" / "vectors.npy", dtype, (rows, width))
    file = path / "items" / "vector_inv_norm.npy"
    stored = _load(file, "float32", (rows,))
    if stored[0] != 0:
        raise _wrong(file, "row 0 has a vector", 0)
    for start in range(0, rows, 1 << 16):
        part = slice(start, start + (1 << 16))
        bad = np.flatnonzero(~np.isclose(stored[part], inverse_norms(vectors[part]), rtol=1e-6))
        if len(bad):
            raise _wrong(file, "is not 1 / norm of the item's vector", start + int(bad[0]))
    having = int(np.count_nonzero(stored))
    if having != manifest["vectors"]["items_with_vector"]:
        told = manifest["vectors"]["items_with_vector"]
        raise _wrong(file, f"{having} items with a vector, the manifest says {told}")


def _check_split(path: Path, manifest: dict[str, Any], split: str) -> None:
    folder = path / "splits" / split
    counted = manifest["splits"][split]
    shape = (counted["samples"],)
    if counted["samples"] == 0:
        raise _wrong(folder, "the split has no samples")
    user = _load(folder / "user.npy", "int32", shape)
    item = _load(folder / "item.npy", "int32", shape)
    history_end = _load(folder / "history_end.npy", "int64", shape)
    _check_range(folder / "user.npy", user, manifest["histories"]["records"])
    _check_range(folder / "item.npy", item, manifest["tables"]["item"]["rows"])
    lengths = np.diff(np.load(path / "users" / "history_offsets.npy", mmap_mode="r"))
    bad = np.flatnonzero((history_end < 0) | (history_end > lengths[user]))
    if len(bad):
        row = int(bad[0])
        problem = f"history_end {history_end[row]} of a history of {lengths[user[row]]} events"
        raise _wrong(folder / "history_end.npy", problem, row)
    step, further = np.diff(user), np.diff(history_end)
    bad = np.flatnonzero((step < 0) | ((step == 0) & (further < 0)))
    if len(bad):
        problem = "samples are not sorted by user record and history_end"
        raise _wrong(folder / "user.npy", problem, int(bad[0]) + 1)
    users = len(np.unique(user))
    if users != counted["users"]:
        raise _wrong(folder, f"{users} users, the manifest says {counted['users']}")
    _check_labels(folder / "label.npy", counted)
    for feature in manifest["features"].get("sample", []):
        file = folder / f"feature_{feature['name']}.npy"
        rows = manifest["tables"][feature["table"]]["rows"]
        _check_range(file, _load(file, "int32", shape), rows)
    _check_source_rows(folder / "source_row.npy", counted)


def _check_labels(file: Path, counted: dict[str, Any]) -> None:
    if not is_labelled(counted):
        if file.exists():
            raise _wrong(file, "labels of a split that the manifest calls unlabelled")
        return
    label = _load(file, "uint8", (counted["samples"],))
    bad = np.flatnonzero(np.asarray(label) > 1)
    if len(bad):
        raise _wrong(file, f"label {label[bad[0]]}, expected 0 or 1", int(bad[0]))
    positives = int(label.sum(dtype=np.int64))
    if positives != counted["positives"]:
        told = counted["positives"]
        raise _wrong(file.parent, f"{positives} positives, the manifest says {told}")


def _check_source_rows(file: Path, counted: dict[str, Any]) -> None:
    if not counted.get("source_rows", False):
        if file.exists():
            raise _wrong(file, "source rows that the manifest does not tell of")
        return
    rows = _load(file, "int64", (counted["samples"],))
    bad = np.flatnonzero(rows < 0)
    if len(bad):
        raise _wrong(file, f"source row {rows[bad[0]]}", int(bad[0]))
    order = np.argsort(rows, kind="stable")
    twice = np.flatnonzero(np.diff(rows[order]) == 0)
    if len(twice):
        place = int(order[twice[0] + 1])
        raise _wrong(file, f"source row {rows[place]} comes twice", place)
