"""The prepared store: its layout, its manifest and the writer (docs/store_format.md)."""

from __future__ import annotations

import argparse
import json
import logging
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from datasets.command import run
from datasets.histories import HistoryWriter
from datasets.manifest import (
    FORMAT,
    MANIFEST,
    SCHEMA_VERSION,
    check_destination,
    file_digest,
    read_manifest,
    remove_stale,
    seal,
    sync,
    temporary_folder,
)
from datasets.norms import inverse_norms
from datasets.splits import write_split
from datasets.verify import verify
from datasets.vocab import Vocabulary

_CHUNK_ROWS = 1 << 16

log = logging.getLogger(__name__)


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
        self.folder = temporary_folder(self.path)
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
        """Write the vocabulary of an embedding table.

        Raises:
            ValueError: the table has been written before.
        """
        if table in self._manifest["tables"]:
            raise ValueError(f"table {table} written twice")
        vocabulary.frame().write_parquet(self.folder / "vocab" / f"{table}.parquet")
        self._manifest["tables"][table] = {"rows": vocabulary.size}

    def add_feature(
        self, kind: str, name: str, rows: NDArray[np.int32], table: str | None = None
    ) -> None:
        """Write a feature of all user records or of all items.

        Args:
            kind: "user" or "item".
            name: the feature's name.
            rows: row of its table for each record or item, int32 [U] or [N]; of items also a list
                of n > 1 rows each, 0 = none, int32 [N, n]. Entry 0 is 0 throughout.
            table: its table, by default the one of the same name.
        """
        if len(rows) == 0 or rows[0].any():
            raise ValueError(f"{kind} feature {name}: entry 0 stands for unknown and must be 0")
        entry: dict[str, Any] = {"name": name, "table": table or name}
        if rows.ndim > 1:
            if kind != "item" or rows.ndim > 2 or rows.shape[1] < 2:
                raise ValueError(f"{kind} feature {name}: only items have lists, of 2 or more rows")
            entry["width"] = rows.shape[1]
        np.save(self.folder / f"{kind}s" / f"feature_{name}.npy", rows.astype(np.int32, copy=False))
        self._manifest["features"][kind].append(entry)

    def sample_features(self, tables: Mapping[str, str]) -> None:
        """Announce features of samples, which every split then has to bring.

        Args:
            tables: name -> table.
        """
        self._manifest["features"]["sample"] = [
            {"name": name, "table": table} for name, table in tables.items()
        ]

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
        return np.lib.format.open_memmap(
            self.folder / "items" / "vectors.npy", mode="w+", dtype=kind, shape=(rows, width)
        )

    def add_split(
        self,
        split: str,
        user: NDArray[np.int32],
        item: NDArray[np.int32],
        history_end: NDArray[np.int64],
        label: NDArray[np.uint8] | None,
        *,
        features: Mapping[str, NDArray[np.int32]] | None = None,
        source_row: NDArray[np.int64] | None = None,
    ) -> None:
        """Sort and write the samples of a split.

        Args:
            split: its name.
            user: user record, int32 [S], 0 = unknown.
            item: row of the target item, int32 [S], 0 = unknown.
            history_end: events of the record that the sample may see, int64 [S].
            label: 0 or 1, uint8 [S]; None for a split without labels.
            features: those announced by `sample_features`, each a row of its table, int32 [S].
            source_row: row of each sample in its source file, int64 [S].

        Raises:
            DataError: the split has no sample.
            ValueError: columns of different lengths, or features other than those announced.
        """
        given = dict(features or {})
        announced = {f["name"] for f in self._manifest["features"].get("sample", [])}
        if given.keys() != announced:
            raise ValueError(f"features {sorted(given)} of samples, expected {sorted(announced)}")
        columns: dict[str, NDArray[Any] | None] = {
            "user": user,
            "item": item,
            "history_end": history_end,
            "label": label,
            "source_row": source_row,
            **{f"feature_{name}": rows for name, rows in given.items()},
        }
        folder = self.folder / "splits" / split
        self._manifest["splits"][split] = write_split(folder, columns)

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
        self._manifest["checksum"] = seal(self._manifest)
        text = json.dumps(self._manifest, indent=2, ensure_ascii=False)
        (self.folder / MANIFEST).write_text(text + "\n", encoding="utf-8")
        for path in self.folder.rglob("*"):
            sync(path)
        sync(self.folder)
        self._move_into_place()
        return self._manifest

    def _write_inverse_norms(self) -> int:
        vectors = np.load(self.folder / "items" / "vectors.npy", mmap_mode="r")
        inverse = np.zeros(len(vectors), np.float32)
        for start in range(0, len(vectors), _CHUNK_ROWS):
            inverse[start : start + _CHUNK_ROWS] = inverse_norms(
                vectors[start : start + _CHUNK_ROWS]
            )
        np.save(self.folder / "items" / "vector_inv_norm.npy", inverse)
        return int(np.count_nonzero(inverse))

    def _move_into_place(self) -> None:
        old = temporary_folder(self.path, ".old")
        if self.path.exists():
            self.path.rename(old)
        self.folder.rename(self.path)
        sync(self.path.parent)
        shutil.rmtree(old, ignore_errors=True)


def main(argv: list[str] | None = None) -> int:
    """Command line: `verify PATH` checks a store, `info PATH` prints its manifest in short."""
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
