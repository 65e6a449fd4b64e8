"""What a data set has to offer to be prepared in partitions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import DTypeLike, NDArray

from datasets.errors import DataError
from datasets.parquet import Piece
from datasets.samples import Samples
from remote.path import Location


@dataclass(frozen=True)
class Snapshots:
    """Some users with their histories, under raw ids.

    Args:
        user_id: int64 [U].
        profile: profile features, each int64 [U], 0 = missing.
        items: events of all users, one user after another, oldest first, int64 [T].
        categories: their categories, int64 [T].
        lengths: events of each user, int64 [U].
        continued: of a source that repeats a user's row for every sample: whether the first row
            goes on with the user of the row before, in another piece.
        ends: of such a source: what tells one history from another, of the first and of the last
            row.
    """

    user_id: NDArray[np.int64]
    profile: Mapping[str, NDArray[np.int64]]
    items: NDArray[np.int64]
    categories: NDArray[np.int64]
    lengths: NDArray[np.int64]
    continued: bool = False
    ends: tuple[tuple[int, ...], tuple[int, ...]] = ((), ())

    @property
    def starts(self) -> NDArray[np.int64]:
        """Where each user's history begins in `items`, int64 [U]."""
        starts: NDArray[np.int64] = np.cumsum(self.lengths) - self.lengths
        return starts


@dataclass(frozen=True)
class VectorKind:
    """Item vectors of a source.

    Args:
        width: entries of a vector.
        dtype: int8, float16 or float32.
    """

    width: int
    dtype: DTypeLike


class SnapshotSource(Protocol):
    """A data set that gives every user one history per split; splits are "train" and "test".

    Tables are `train_samples`, `test_samples`, `train_users`, `test_users`, `items` and `vectors`.
    It is sent to other processes, so it holds names of files and not open ones.
    """

    path: Location
    profile: tuple[str, ...]
    # Features of items, `category` among them.
    features: tuple[str, ...]

    def files(self) -> dict[str, int]:
        """Files read, by name, with their sizes in bytes."""

    def pieces(self, table: str) -> list[Piece]:
        """A table cut into pieces, in order."""

    def samples(self, split: str, piece: Piece) -> Iterator[Samples]:
        """Samples of a piece of a split, in batches."""

    def snapshots(self, split: str, piece: Piece, share: float) -> Iterator[Snapshots]:
        """Users of a piece of a split, in batches of a share of the largest."""

    def changed_history(self, split: str, piece: Piece) -> DataError:
        """The error of a piece that goes on with a user of the piece before by another history."""

    def users_place(self, split: str) -> str:
        """File or folder of the users of a split, for messages."""

    def item_features(self, piece: Piece) -> Iterator[dict[str, NDArray[np.int64]]]:
        """Columns `item` and `features` of a piece, each int64 [n], in batches; 0 = missing."""

    def vector_kind(self) -> VectorKind | None:
        """What vectors there are, if any."""

    def vector_keys(self, piece: Piece) -> Iterator[NDArray[np.int64]]:
        """Items of a piece of the vectors, int64 [n], in batches."""

    def vectors(self, piece: Piece) -> Iterator[NDArray[Any]]:
        """Vectors of the same rows [n, width], in batches of any size."""
