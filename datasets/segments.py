"""Histories in segments: reading those of a store, and adding one to what a store has.

T events.
"""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from datasets.errors import data_error
from datasets.histories import HistoryWriter
from datasets.manifest import (
    MANIFEST,
    SEGMENTED_VERSION,
    history_segments,
    is_plain,
    read_manifest,
    segment_folder,
)
from datasets.store import StoreWriter

_AGAIN = "Prepare the store again"

log = logging.getLogger(__name__)


class PreparedStore:
    """A prepared store, opened for reading.

    Args:
        path: its folder.

    Attributes:
        manifest: see docs/store_format.md.
        digest: of the manifest: BLAKE2b of 16 bytes as 32 hex digits.
        offsets: int64 [records + 1]; where each record's events begin, over all segments.

    Raises:
        DataError: no store, or a file that is missing or of another size.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.manifest = read_manifest(path)
        raw = (path / MANIFEST).read_bytes()
        self.digest = hashlib.blake2b(raw, digest_size=16).hexdigest()
        for name, entry in self.manifest["files"].items():
            file = path / name
            if not all(is_plain(part) for part in name.split("/")):
                problem = f"'{name}' is not a name of a store's file"
                raise data_error(problem, _AGAIN, file=path / MANIFEST)
            size = file.stat().st_size if file.is_file() else None
            if size != entry["bytes"]:
                found = "no such file" if size is None else f"{size} bytes"
                problem = f"{found}, the manifest says {entry['bytes']} bytes"
                raise data_error(problem, _AGAIN, file=file)
        self.offsets = self.array("users/history_offsets")
        segments = history_segments(self.manifest)
        sizes = [size for _, size in segments]
        self._begins = np.cumsum([0, *sizes[:-1]])
        names = ["history_item", *(f"event_{f['name']}" for f in self.features("event"))]
        self._columns = {
            name: [self.array(f"{folder}/{name}") for folder, _ in segments] for name in names
        }

    def array(self, name: str) -> NDArray[Any]:
        """A file of the store, mapped; `name` is without `.npy`."""
        file = self.path / f"{name}.npy"
        try:
            array: NDArray[Any] = np.load(file, mmap_mode="r", allow_pickle=False)
        except Exception as error:  # a damaged header raises almost anything
            raise data_error(f"not readable as .npy ({error})", _AGAIN, file=file) from None
        return array

    def features(self, kind: str) -> list[dict[str, Any]]:
        """Features of users, items, events or samples, as the manifest lists them."""
        found: list[dict[str, Any]] = self.manifest["features"].get(kind, [])
        return found

    @property
    def records(self) -> int:
        """User records, the unknown one included."""
        return len(self.offsets) - 1

    def events(self, column: str, first: int, last: int | None = None) -> NDArray[np.int32]:
        """Events of records [first, last), of one record by default, all in one segment: int32 [T].

        Args:
            column: `history_item` or `event_<name>`.
            first, last: records.
        """
        begin, end = self.offsets[first], self.offsets[first + 1 if last is None else last]
        segment = int(np.searchsorted(self._begins, begin, side="right")) - 1
        shift = self._begins[segment]
        found: NDArray[np.int32] = self._columns[column][segment][begin - shift : end - shift]
        return found


class SegmentWriter(StoreWriter):
    """Writes a store that goes on from another one: its histories are linked, and a segment added.

    Args:
        path: final folder of the store.
        parent: the store that it goes on from.
        source: what is added, as of `StoreWriter`.
        overwrite: replace a store that is already there.

    Attributes:
        number: of the segment that is added.
        first_record: number of its first record.

    Raises:
        DataError: something is already at `path`.
    """

    def __init__(
        self, path: Path, parent: PreparedStore, source: Mapping[str, Any], overwrite: bool
    ) -> None:
        super().__init__(
            path,
            name=parent.manifest["name"],
            created_by="datasets.increment",
            source=source,
            overwrite=overwrite,
        )
        self._parent = parent
        self._linked: dict[str, Any] = {}
        self.number = len(history_segments(parent.manifest))
        self.first_record = parent.records
        self._manifest["schema_version"] = SEGMENTED_VERSION
        self._manifest["parents"] = [*parent.manifest.get("parents", []), parent.digest]
        self._manifest["features"]["event"] = parent.features("event")
        if parent.features("sample"):
            tables = {f["name"]: f["table"] for f in parent.features("sample")}
            self.sample_features(tables)

    def keep_parent(self) -> None:
        """Take over the events and the splits of the parent, without copying where that can be."""
        folders = tuple(f"{folder}/" for folder, _ in history_segments(self._parent.manifest))
        for name in self._parent.manifest["files"]:
            folder, _, file = name.rpartition("/")
            if name.startswith("splits/") or (
                f"{folder}/" in folders and file.startswith(("history_item", "event_"))
            ):
                self._link(name)
        self._manifest["splits"] = dict(self._parent.manifest["splits"])

    def _link(self, name: str) -> None:
        source, target = self._parent.path / name, self.folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(source, target)
        except OSError:
            # Another disk, or a file system without links.
            log.info("copying %s, which cannot be linked", source)
            shutil.copyfile(source, target)
        self._linked[name] = self._parent.manifest["files"][name]

    def _describe(self, file: Path) -> dict[str, Any]:
        # What the parent's manifest says of a linked file need not be read again.
        name = file.relative_to(self.folder).as_posix()
        known: dict[str, Any] | None = self._linked.get(name)
        return known or super()._describe(file)

    def segment(self) -> HistoryWriter:
        """Start the new records; `finish_segment` ends them."""
        folder = self.folder / segment_folder(self.number)
        folder.mkdir()
        names = tuple(feature["name"] for feature in self._parent.features("event"))
        return HistoryWriter(folder, names)

    def finish_segment(self, added: HistoryWriter) -> None:
        """Put the new records after those of the parent.

        Args:
            added: of `segment`, to which all have been appended.
        """
        added.close()
        file = self.folder / segment_folder(self.number) / "history_offsets.npy"
        # Record 0 is the parent's.
        offsets = np.load(file)[2:] + self._parent.offsets[-1]
        file.unlink()
        together = np.concatenate([self._parent.offsets, offsets])
        np.save(self.folder / "users" / "history_offsets.npy", together)
        told = self._parent.manifest["histories"]
        before = [size for _, size in history_segments(self._parent.manifest)]
        self._manifest["histories"] = {
            "records": len(together) - 1,
            "events": int(together[-1]),
            "max_length": max(told["max_length"], added.max_length),
            "segments": [*before, added.events],
        }
