"""The prepared store: its layout, its manifest and the writer (docs/store_format.md)."""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import os
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from datasets.command import run
from datasets.errors import data_error
from datasets.npy import NpyAppender
from datasets.vocab import Vocabulary

FORMAT = "lifelong-ctr-store"
SCHEMA_VERSION = 1
MANIFEST = "manifest.json"
_CHUNK_ROWS = 1 << 16

log = logging.getLogger(__name__)


def file_digest(path: Path) -> str:
    """BLAKE2b digest of a file, 16 bytes as 32 hex digits."""
    digest = hashlib.blake2b(digest_size=16)
    with path.open("rb") as file:
        while chunk := file.read(1 << 22):
            digest.update(chunk)
    return digest.hexdigest()


def read_manifest(path: Path) -> dict[str, Any]:
    """Read a store's manifest and check that this code knows its schema.

    Args:
        path: the store's folder.

    Raises:
        DataError: no manifest, not a store, or written under another schema version.
    """
    file = path / MANIFEST
    again = "Prepare the data set again with this version"
    try:
        manifest = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise data_error("no such file", "Give the folder of a prepared store", file=file) from None
    except ValueError as error:
        raise data_error(f"not readable as JSON ({error})", again, file=file) from None
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise data_error(f"not a {FORMAT}", "Give the folder of a prepared store", file=file)
    version = manifest.get("schema_version")
    if version != SCHEMA_VERSION:
        problem = f"the store has schema version {version}, this code reads {SCHEMA_VERSION}"
        raise data_error(problem, again, file=file)
    return manifest


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def remove_stale(path: Path) -> None:
    """Remove the temporary folders that dead preparations left beside a store.

    Args:
        path: final place of the store.
    """
    for folder in path.parent.glob(f"{path.name}.tmp-*"):
        pid = folder.name.rsplit(".tmp-", 1)[1].split(".")[0]
        if pid.isdigit() and (int(pid) == os.getpid() or not _is_alive(int(pid))):
            log.warning("removing %s, left by a preparation that was stopped", folder)
            shutil.rmtree(folder)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class HistoryWriter:
    """Appends user records; record 0, the unknown user, is there from the start.

    Args:
        folder: the store's `users` folder.
        events: names of the events' side columns.
    """

    def __init__(self, folder: Path, events: tuple[str, ...]) -> None:
        self.max_length = 0
        self._offsets = NpyAppender(folder / "history_offsets.npy", np.int64)
        self._offsets.append(np.zeros(2, np.int64))
        self._items = NpyAppender(folder / "history_item.npy", np.int32)
        self._events = {
            name: NpyAppender(folder / f"event_{name}.npy", np.int32) for name in events
        }

    @property
    def records(self) -> int:
        """User records so far, the unknown one included."""
        return self._offsets.rows - 1

    @property
    def events(self) -> int:
        """Events so far."""
        return self._items.rows

    def append(
        self,
        items_T: NDArray[np.int32],
        lengths_U: NDArray[np.int64],
        events: Mapping[str, NDArray[np.int32]] | None = None,
    ) -> None:
        """Add records.

        Args:
            items_T: rows of table `item`, one record after another, oldest first, int32 [T].
            lengths_U: events of each record, int64 [U], summing to T.
            events: side columns, each int32 [T].

        Raises:
            ValueError: lengths or side columns do not fit the items.
        """
        side = dict(events or {})
        if lengths_U.sum() != len(items_T) or any(len(v) != len(items_T) for v in side.values()):
            raise ValueError("lengths and side columns must cover the items exactly")
        if side.keys() != self._events.keys():
            raise ValueError(f"side columns {sorted(side)}, expected {sorted(self._events)}")
        self._offsets.append(self._items.rows + np.cumsum(lengths_U, dtype=np.int64))
        self._items.append(items_T)
        for name, values in side.items():
            self._events[name].append(values)
        self.max_length = max(self.max_length, int(lengths_U.max(initial=0)))

    def close(self) -> None:
        """Finish the files."""
        for appender in (self._offsets, self._items, *self._events.values()):
            appender.close()


class StoreWriter:
    """Writes a store into a temporary folder and puts it in place as the last step.

    Use as a context manager and call `finish` at the end; leaving without `finish` removes the
    temporary folder.

    Args:
        path: final folder of the store.
        name: name of the data set.
        created_by: module that prepares it.
        source: what it was made from: `path`, `files` (name -> bytes), `options`.
        overwrite: replace a store that is already there.

    Raises:
        DataError: something is already at `path`.
    """

    def __init__(
        self,
        path: Path,
        *,
        name: str,
        created_by: str,
        source: Mapping[str, Any],
        overwrite: bool = False,
    ) -> None:
        self.path = path.absolute()
        check_destination(self.path, overwrite)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        remove_stale(self.path)
        self.folder = self.path.with_name(f"{self.path.name}.tmp-{os.getpid()}")
        self.folder.mkdir()
        for part in ("users", "items", "splits", "vocab"):
            (self.folder / part).mkdir()
        self._histories: HistoryWriter | None = None
        self._manifest: dict[str, Any] = {
            "format": FORMAT,
            "schema_version": SCHEMA_VERSION,
            "name": name,
            "created_by": created_by,
            "source": dict(source),
            "tables": {},
            "features": {"user": [], "item": [], "event": []},
            "histories": {},
            "vectors": None,
            "splits": {},
            "counts": {},
        }

    def __enter__(self) -> StoreWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)

    def count(self, name: str, value: int) -> None:
        """Record in the manifest how often something had to be bent, and warn if it was."""
        self._manifest["counts"][name] = int(value)
        if value:
            log.warning("%s: %d", name, value)

    def add_table(self, table: str, vocabulary: Vocabulary) -> None:
        """Write the vocabulary of an embedding table."""
        vocabulary.frame().write_parquet(self.folder / "vocab" / f"{table}.parquet")
        self._manifest["tables"][table] = {"rows": vocabulary.size}

    def add_feature(
        self, kind: str, name: str, rows: NDArray[np.int32], table: str | None = None
    ) -> None:
        """Write a feature of all user records or of all items.

        Args:
            kind: "user" or "item".
            name: the feature's name.
            rows: row of its table for each record or item, int32 [U] or [N]; entry 0 is 0.
            table: its table, by default the one of the same name.
        """
        if len(rows) == 0 or rows[0] != 0:
            raise ValueError(f"{kind} feature {name}: entry 0 stands for unknown and must be 0")
        np.save(self.folder / f"{kind}s" / f"feature_{name}.npy", rows.astype(np.int32, copy=False))
        self._manifest["features"][kind].append({"name": name, "table": table or name})

    def histories(self, event_tables: Mapping[str, str] | None = None) -> HistoryWriter:
        """Start the histories.

        Args:
            event_tables: side columns of the events: name -> table.
        """
        tables = dict(event_tables or {})
        self._histories = HistoryWriter(self.folder / "users", tuple(tables))
        self._manifest["features"]["event"] = [
            {"name": name, "table": table} for name, table in tables.items()
        ]
        return self._histories

    def vectors(self, rows: int, width: int, dtype: DTypeLike) -> NDArray[Any]:
        """Make the array of item vectors, all zeros, to be filled in place.

        Args:
            rows: rows of table `item`.
            width: entries of a vector.
            dtype: int8, float16 or float32.
        """
        kind = np.dtype(dtype)
        self._manifest["vectors"] = {"width": width, "dtype": kind.name, "items_with_vector": 0}
        return np.lib.format.open_memmap(  # type: ignore[no-untyped-call, no-any-return]
            self.folder / "items" / "vectors.npy", mode="w+", dtype=kind, shape=(rows, width)
        )

    def add_split(
        self,
        split: str,
        user: NDArray[np.int32],
        item: NDArray[np.int32],
        history_end: NDArray[np.int64],
        label: NDArray[np.uint8],
    ) -> None:
        """Sort and write the samples of a split.

        Args:
            split: its name.
            user: user record, int32 [S], 0 = unknown.
            item: row of the target item, int32 [S], 0 = unknown.
            history_end: events of the record that the sample may see, int64 [S].
            label: 0 or 1, uint8 [S].

        Raises:
            DataError: the split has no sample.
        """
        if len(user) == 0:
            advice = "Check the source, or change the split rule so that every split gets samples"
            raise data_error(f"split '{split}' has no samples", advice)
        folder = self.folder / "splits" / split
        folder.mkdir()
        order = np.lexsort((history_end, user))
        columns = {"user": user, "item": item, "history_end": history_end, "label": label}
        for name, values in columns.items():
            np.save(folder / f"{name}.npy", values[order])
        self._manifest["splits"][split] = {
            "samples": len(user),
            "positives": int(label.sum(dtype=np.int64)),
            "users": len(np.unique(user)),
        }

    def finish(self) -> dict[str, Any]:
        """Flush everything, write the manifest and move the store to its place.

        Returns:
            The manifest.
        """
        if self._histories is None:
            raise ValueError("a store needs histories")
        self._histories.close()
        self._manifest["histories"] = {
            "records": self._histories.records,
            "events": self._histories.events,
            "max_length": self._histories.max_length,
        }
        if self._manifest["vectors"] is not None:
            self._manifest["vectors"]["items_with_vector"] = self._write_inverse_norms()
        files = sorted(path for path in self.folder.rglob("*") if path.is_file())
        self._manifest["files"] = {
            path.relative_to(self.folder).as_posix(): {
                "bytes": path.stat().st_size,
                "blake2b": file_digest(path),
            }
            for path in files
        }
        text = json.dumps(self._manifest, indent=2, ensure_ascii=False)
        (self.folder / MANIFEST).write_text(text + "\n", encoding="utf-8")
        for path in self.folder.rglob("*"):
            _sync(path)
        _sync(self.folder)
        self._move_into_place()
        return self._manifest

    def _write_inverse_norms(self) -> int:
        vectors = np.load(self.folder / "items" / "vectors.npy", mmap_mode="r")
        inverse = np.zeros(len(vectors), np.float32)
        for start in range(0, len(vectors), _CHUNK_ROWS):
            inverse[start : start + _CHUNK_ROWS] = inverse_norms(vectors[start : start + _CHUNK_ROWS])
        np.save(self.folder / "items" / "vector_inv_norm.npy", inverse)
        return int(np.count_nonzero(inverse))

    def _move_into_place(self) -> None:
        old = self.folder.with_name(self.folder.name + ".old")
        if self.path.exists():
            self.path.rename(old)
        self.folder.rename(self.path)
        _sync(self.path.parent)
        shutil.rmtree(old, ignore_errors=True)


def check_destination(path: Path, overwrite: bool) -> None:
    """Refuse to write over what is there; only a store may be replaced, and only when asked.

    Args:
        path: final folder of the store.
        overwrite: the user asked to replace it.

    Raises:
        DataError: something is at `path` that must stay.
    """
    if not path.exists():
        return
    if not overwrite:
        raise data_error("already exists", "Choose another --out or add --overwrite", file=path)
    if not (path / MANIFEST).is_file():
        raise data_error("is not a store, so --overwrite will not remove it",
                         "Choose another --out", file=path)


def inverse_norms(vectors: NDArray[Any]) -> NDArray[np.float32]:
    """1 / Euclidean norm of each vector, computed in float64; 0 for an all-zero vector.

    Args:
        vectors: [n, M], int8, float16 or float32.

    Returns:
        float32 [n].
    """
    wide = np.asarray(vectors, dtype=np.float64)
    norms = np.sqrt(np.einsum("nm,nm->n", wide, wide))
    inverse = np.divide(1.0, norms, out=np.zeros_like(norms), where=norms > 0)
    return inverse.astype(np.float32)


def main(argv: list[str] | None = None) -> int:
    """Command line: `verify PATH` checks a store, `info PATH` prints its manifest in short."""
    from datasets.verify import verify

    parser = argparse.ArgumentParser(prog="datasets.store", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, about in (("verify", "check every file"), ("info", "print what is inside")):
        commands.add_parser(name, help=about).add_argument("path", type=Path)
    arguments = parser.parse_args(argv)

    def command() -> None:
        if arguments.command == "verify":
            verify(arguments.path)
            print(f"{arguments.path}: ok")
        else:
            manifest = read_manifest(arguments.path)
            manifest.pop("files")
            print(json.dumps(manifest, indent=2, ensure_ascii=False))

    return run(command)


if __name__ == "__main__":
    sys.exit(main())
