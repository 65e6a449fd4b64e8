"""What a store holds, written part by part: tables, features, histories, vectors and splits."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import DTypeLike, NDArray

from datasets.histories import HistoryWriter
from datasets.manifest import FORMAT, SCHEMA_VERSION
from datasets.norms import inverse_norms
from datasets.npy import NpyAppender, create, read_rows
from datasets.raw_users import write_raw_users
from datasets.splits import reserve_split, write_split
from datasets.vocab import Vocabulary, write_vocabulary

_CHUNK_ROWS = 1 << 16

log = logging.getLogger(__name__)


class StoreContents:
    """Writes the parts of a store into a folder and describes them in a manifest.

    Args:
        folder: to write into, made here.
        name: name of the data set.
        created_by: module that prepares it.
        source: what it was made from: `path`, `files` (name -> bytes), `options`.
    """

    def __init__(self, folder: Path, name: str, created_by: str, source: Mapping[str, Any]) -> None:
        self.folder = folder
        folder.mkdir()
        for part in ("users", "items", "splits", "vocab"):
            (folder / part).mkdir()
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

    def add_raw_users(
        self, parts: Iterable[pl.Series], dtype: pl.DataType | type[pl.DataType]
    ) -> None:
        """Write the raw user of every record but 0 (`datasets.raw_users.write_raw_users`)."""
        write_raw_users(self.folder, parts, dtype)
        self._manifest["raw_users"] = True

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

    def _close_contents(self) -> None:
        """Finish the histories and write what follows from the vectors."""
        if self._histories is not None:
            self._histories.close()
            self._manifest["histories"] = {
                "records": self._histories.records,
                "events": self._histories.events,
                "max_length": self._histories.max_length,
            }
        if not self._manifest["histories"]:
            raise ValueError("a store needs histories")
        if self._manifest["vectors"] is not None:
            self._manifest["vectors"]["items_with_vector"] = self._write_inverse_norms()

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
