"""The prepared store: its layout, its manifest and the writer (docs/store_format.md)."""

from __future__ import annotations

import argparse
import json
import logging
import shutil
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import polars as pl
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
from datasets.npy import NpyAppender, create, read_rows
from datasets.splits import reserve_split, write_split
from datasets.verify import verify
from datasets.vocab import Vocabulary, write_vocabulary
from remote.path import location

_CHUNK_ROWS = 1 << 16
_SCRATCH = "scratch"

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
        whole = [(vocabulary.raw, vocabulary.count)]
        self.add_table_parts(table, vocabulary.size - 1, whole, vocabulary.raw.dtype)

    def add_table_parts(
        self,
        table: str,
        size: int,
        parts: Iterable[tuple[pl.Series, pl.Series]],
        dtype: pl.DataType | type[pl.DataType] = pl.Int64,
    ) -> None:
        """Write a vocabulary that need not fit in memory.

        Args:
            table: its name.
            size: how many ids it has.
            parts: ids and counts (`datasets.vocab.write_vocabulary`).
            dtype: of the ids.

        Raises:
            ValueError: the table has been written before.
        """
        if table in self._manifest["tables"]:
            raise ValueError(f"table {table} written twice")
        write_vocabulary(self.folder / "vocab" / f"{table}.parquet", dtype, parts)
        self._manifest["tables"][table] = {"rows": size + 1}

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

    def reserve_feature(self, kind: str, name: str, rows: int) -> Path:
        """Make a feature of no list, zeros, to be filled by `datasets.npy.write_rows`.

        Args:
            kind: "user" or "item".
            name: of the feature and its table.
            rows: user records or rows of table `item`.

        Returns:
            Its file.
        """
        file = self.folder / f"{kind}s" / f"feature_{name}.npy"
        create(file, np.int32, rows)
        self._manifest["features"][kind].append({"name": name, "table": name})
        return file

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

    def reserve_histories(self, records: int, events: int, max_length: int) -> Path:
        """Make histories without side columns, zeros, to be filled by `datasets.npy.write_rows`.

        Args:
            records: user records, the unknown one included.
            events: of all of them.
            max_length: events of the longest.

        Returns:
            The folder of `history_offsets.npy` and `history_item.npy`.
        """
        folder = self.folder / "users"
        create(folder / "history_offsets.npy", np.int64, records + 1)
        create(folder / "history_item.npy", np.int32, events)
        counted = {"records": records, "events": events, "max_length": max_length}
        self._manifest["histories"] = counted
        return folder

    def reserve_vectors(self, rows: int, width: int, dtype: DTypeLike) -> Path:
        """Make the file of item vectors, zeros, to be filled by `datasets.npy.write_rows`.

        Args:
            rows: rows of table `item`.
            width: entries of a vector.
            dtype: int8, float16 or float32.
        """
        file = self.folder / "items" / "vectors.npy"
        create(file, dtype, rows, width)
        kind = np.dtype(dtype).name
        self._manifest["vectors"] = {"width": width, "dtype": kind, "items_with_vector": 0}
        return file

    def vectors(self, rows: int, width: int, dtype: DTypeLike) -> NDArray[Any]:
        """Make the array of item vectors, all zeros, to be filled in place.

        Args:
            rows: rows of table `item`.
            width: entries of a vector.
            dtype: int8, float16 or float32.
        """
        file = self.reserve_vectors(rows, width, dtype)
        array: NDArray[Any] = np.load(file, mmap_mode="r+", allow_pickle=False)
        return array

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

    def reserve_split(self, split: str, columns: Mapping[str, DTypeLike], samples: int) -> Path:
        """Make the files of a labelled split, zeros; `describe_split` says what was written.

        Args:
            split: its name.
            columns: dtypes by the names of the files.
            samples: how many.

        Returns:
            Its folder.
        """
        folder = self.folder / "splits" / split
        reserve_split(folder, columns, samples)
        return folder

    def describe_split(self, split: str, samples: int, positives: int, users: int) -> None:
        """Enter a split whose files were filled in parts.

        Args:
            split: its name.
            samples: how many.
            positives: of them.
            users: distinct records.
        """
        entry = {"samples": samples, "positives": positives, "users": users}
        self._manifest["splits"][split] = entry

    def scratch(self) -> Path:
        """A folder for what is spilled meanwhile; `finish` removes it."""
        folder = self.folder / _SCRATCH
        folder.mkdir(exist_ok=True)
        return folder

    def finish(self) -> dict[str, Any]:
        """Flush everything, write the manifest and move the store to its place.

        Returns:
            The manifest.
        """
        if self._histories is not None:
            self._histories.close()
            self._manifest["histories"] = {
                "records": self._histories.records,
                "events": self._histories.events,
                "max_length": self._histories.max_length,
            }
        if not self._manifest["histories"]:
            raise ValueError("a store needs histories")
        shutil.rmtree(self.folder / _SCRATCH, ignore_errors=True)
        if self._manifest["vectors"] is not None:
            self._manifest["vectors"]["items_with_vector"] = self._write_inverse_norms()
        files = sorted(path for path in self.folder.rglob("*") if path.is_file())
        self._manifest["files"] = {
            path.relative_to(self.folder).as_posix(): self._describe(path) for path in files
        }
        self._manifest["checksum"] = seal(self._manifest)
        text = json.dumps(self._manifest, indent=2, ensure_ascii=False)
        (self.folder / MANIFEST).write_text(text + "\n", encoding="utf-8")
        for path in self.folder.rglob("*"):
            sync(path)
        sync(self.folder)
        self._move_into_place()
        return self._manifest

    def _describe(self, file: Path) -> dict[str, Any]:
        """Entry of a file of the store in the manifest."""
        return {"bytes": file.stat().st_size, "blake2b": file_digest(file)}

    def _write_inverse_norms(self) -> int:
        inverse = NpyAppender(self.folder / "items" / "vector_inv_norm.npy", np.float32)
        having = 0
        while len(
            vectors := read_rows(
                self.folder / "items" / "vectors.npy", inverse.rows, inverse.rows + _CHUNK_ROWS
            )
        ):
            norms = inverse_norms(vectors)
            inverse.append(norms)
            having += int(np.count_nonzero(norms))
        inverse.close()
        return having

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
        commands.add_parser(name, help=about).add_argument("path", help="folder or URL")
    arguments = parser.parse_args(argv)

    def command() -> None:
        path = location(arguments.path)
        if arguments.command == "verify":
            verify(path)
            print(f"{path}: ok")
        else:
            manifest = read_manifest(path)
            manifest.pop("files")
            print(json.dumps(manifest, indent=2, ensure_ascii=False))

    return run(command)


if __name__ == "__main__":
    sys.exit(main())
