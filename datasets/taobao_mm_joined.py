"""Reading the joined form of Taobao-MM; `datasets.taobao_mm` says which columns it has."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from datasets.batches import Batch
from datasets.errors import DataError, data_error
from datasets.parquet import ParquetSource, Piece, file_sizes
from datasets.partitions.source import Snapshots, VectorKind
from datasets.remote_store import mapped_array
from datasets.samples import Samples
from remote.path import Location, RemoteError

SPLITS = ("train", "test")
# Of the largest size that is read at once; a piece is the work of one task.
BATCHES_A_PIECE = 4
_VECTORS_A_PIECE = 1 << 18

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class JoinedColumns:
    """Which columns of the shards are what, and how they are read.

    Args:
        tables: of `samples`, `users`, `ids` (of the users) and `items`, columns with their kinds.
        user: column of the user.
        history: column of the items of the history.
        profile: names of the profile features.
        features: names of the item features.
        vector_width: entries of a vector.
        read_samples: samples of a batch of table `samples`.
        read_snapshots: users of a batch of table `users`.
        read_features: columns of a batch of table `items`.
    """

    tables: Mapping[str, Mapping[str, str]]
    user: str
    history: str
    profile: tuple[str, ...]
    features: tuple[str, ...]
    vector_width: int
    read_samples: Callable[[Batch], Samples]
    read_snapshots: Callable[[Batch], Snapshots]
    read_features: Callable[[Batch], dict[str, NDArray[np.int64]]]


class JoinedTables:
    """Shards whose rows are samples, read as the tables that were joined.

    Args:
        path: folder with `train/`, `test/` and, for the vectors, `feature_map/`.
        columns: of the shards.

    Raises:
        DataError: a file or column is missing, damaged or of another type.
    """

    def __init__(self, path: Location, columns: JoinedColumns) -> None:
        self.path = path
        self.profile, self.features = columns.profile, columns.features
        self._columns = columns
        self._shards: dict[str, list[Location]] = {
            split: sorted((path / split).glob("*.parquet")) for split in SPLITS
        }
        for split, files in self._shards.items():
            if not files:
                advice = "Check the path of the source"
                raise data_error("no Parquet files", advice, file=path / split)
        self._keys = path / "feature_map" / "scl_emb_int8_p90_keys.npy"
        self._values = path / "feature_map" / "scl_emb_int8_p90_values.npy"
        self._has_vectors = self._keys.is_file()
        if not self._has_vectors:
            log.warning("%s: no such file, the store will have no vectors", self._keys)
        self._tables: dict[str, ParquetSource] = {}

    def _table(self, split: str, table: str) -> ParquetSource:
        """Columns of the shards of a split, opened when they are first asked for."""
        name = f"{split}_{table}"
        if name not in self._tables:
            self._tables[name] = ParquetSource(self._shards[split], self._columns.tables[table])
        return self._tables[name]

    def files(self) -> dict[str, int]:
        """Files read, by name, with their sizes in bytes."""
        files = [file for shards in self._shards.values() for file in shards]
        files += [self._keys, self._values] if self._has_vectors else []
        return file_sizes(files, self.path)

    def pieces(self, table: str) -> list[Piece]:
        """A table cut into pieces, in order; items are those of train, then those of test."""
        if table == "vectors":
            rows = len(self._vector_arrays()[0])
            starts = range(0, rows, _VECTORS_A_PIECE)
            return [Piece(0, (0, 0), at, min(_VECTORS_A_PIECE, rows - at)) for at in starts]
        if table != "items":
            return self._table(*table.split("_")).pieces(BATCHES_A_PIECE)
        pieces = self._table("train", "items").pieces(BATCHES_A_PIECE)
        before = len(self._shards["train"])
        for piece in self._table("test", "items").pieces(BATCHES_A_PIECE):
            pieces.append(replace(piece, file=before + piece.file))
        return pieces

    def samples(self, split: str, piece: Piece) -> Iterator[Samples]:
        """Samples of a piece of a split, in batches."""
        return map(self._columns.read_samples, self._table(split, "samples").read(piece))

    def _user_before(self, split: str, piece: Piece) -> int | None:
        """User of the row before a piece, if there is one."""
        table = self._table(split, "ids")
        place = (piece.file, piece.first_row)
        groups = [one for one in table.pieces(0) if (one.file, one.first_row) < place and one.rows]
        last = None
        for batch in table.read(groups[-1]) if groups else ():
            last = int(batch.integers(self._columns.user)[-1])
        return last

    def snapshots(self, split: str, piece: Piece, share: float) -> Iterator[Snapshots]:
        """Users of a piece of a split, in batches: the first row of each run of one user's rows."""
        user_before = self._user_before(split, piece)
        before: NDArray[np.int64] | None = None
        for batch in self._table(split, "users").read(piece, share):
            user = batch.integers(self._columns.user)
            # Two windows of one life may be equally long.
            told = batch.ends(self._columns.history)
            first = np.append(True, user[1:] != user[:-1])
            changed = ~first & (told != np.concatenate([told[:1], told[:-1]])).any(axis=1)
            if user[0] == user_before:
                first[0] = False
                # Across pieces it is looked at when all pieces have been read.
                changed[0] = before is not None and bool((told[0] != before).any())
            if changed.any():
                raise self._changed(batch, int(np.argmax(changed)))
            continued = before is None and not first[0]
            user_before, before = int(user[-1]), told[-1]
            # The join leaves null where the user table lacks the user: no record then.
            found = self._columns.read_snapshots(batch.select(first & (told[:, 0] >= 0)))
            ends = (tuple(told[0].tolist()), tuple(told[-1].tolist()))
            yield replace(found, continued=continued, ends=ends)

    def _changed(self, batch: Batch, row: int) -> DataError:
        problem = "another history than in the user's row before"
        advice = "Give all rows of a user in a split the same history"
        return batch.fail(problem, advice, self._columns.history, row)

    def changed_history(self, split: str, piece: Piece) -> DataError:
        """The error of a piece that goes on with a user of the piece before by another history."""
        first = next(self._table(split, "ids").read(piece))
        return self._changed(first, 0)

    def users_place(self, split: str) -> str:
        """Folder of the users of a split."""
        return f"{self.path / split}, column '{self._columns.user}'"

    def item_features(self, piece: Piece) -> Iterator[dict[str, NDArray[np.int64]]]:
        """Columns item, category, brand and shop of a piece, in batches."""
        before = len(self._shards["train"])
        split = "train" if piece.file < before else "test"
        within = replace(piece, file=piece.file - (before if split == "test" else 0))
        return map(self._columns.read_features, self._table(split, "items").read(within))

    def vector_kind(self) -> VectorKind | None:
        """Vectors of the SCL encoder, if `feature_map/` has them."""
        width = self._columns.vector_width
        return VectorKind(width, np.int8) if self._has_vectors else None

    def _vector_arrays(self) -> tuple[NDArray[Any], NDArray[Any]]:
        keys = _load_array(self._keys, np.int64)
        values = _load_array(self._values, np.int8)
        expected = (len(keys), self._columns.vector_width)
        if values.shape != expected:
            problem = f"shape {values.shape}, expected {expected}"
            raise data_error(problem, "Fetch both files again", file=self._values)
        return keys, values

    def vector_keys(self, piece: Piece) -> Iterator[NDArray[np.int64]]:
        """Items of a piece of the vectors."""
        keys, _ = self._vector_arrays()
        yield np.array(keys[piece.first_row : piece.first_row + piece.rows])

    def vectors(self, piece: Piece) -> Iterator[NDArray[Any]]:
        """Vectors of a piece, int8 [n, 128]."""
        _, values = self._vector_arrays()
        yield np.array(values[piece.first_row : piece.first_row + piece.rows])


def _load_array(file: Location, dtype: DTypeLike) -> NDArray[Any]:
    try:
        array = mapped_array(file)
    except RemoteError:
        raise
    except (OSError, ValueError) as error:
        problem = f"not readable as .npy ({error})"
        raise data_error(problem, "Fetch the file again", file=file) from None
    if array.dtype != np.dtype(dtype):
        problem = f"dtype {array.dtype}, expected {np.dtype(dtype)}"
        raise data_error(problem, "Fetch the file again", file=file)
    return array
