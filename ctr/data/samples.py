"""What is to be scored, in parts that fit into memory.

Shape legend: n samples of a part.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from ctr.data.store import Array, Split, Store

_TABLE_ROWS = 1 << 20


@dataclass(frozen=True)
class Part:
    """Consecutive samples, sorted as a loader reads them.

    Attributes:
        number: place among the parts, from 0.
        split: the samples.
        place: int64 [n]; where each of them stood in the part before they were sorted.
        unknown: how many samples had an id outside the vocabulary, by what it is the id of.
    """

    number: int
    split: Split
    place: Array
    unknown: dict[str, int] = field(default_factory=dict)


class Samples(ABC):
    """Samples in an order of their own, which their scores are to have, too.

    Attributes:
        schema: of `tables`.
    """

    schema: pa.Schema

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def identity(self) -> dict[str, Any]:
        """JSON values that differ wherever the samples do; may read all of them."""

    @abstractmethod
    def parts(self, rows: int, skip: Collection[int] = ()) -> Iterator[Part]:
        """Stretches of the samples, in order.

        Args:
            rows: of a part; the last one may be shorter.
            skip: numbers of the parts that are not needed.
        """

    @abstractmethod
    def tables(self) -> Iterator[pa.Table]:
        """All columns that go with the scores, in order."""


class StoredSamples(Samples):
    """A split of a prepared store, with labels or without.

    Args:
        store: prepared store.
        name: of the split.

    Raises:
        StoreError: as `Store.split`.
    """

    def __init__(self, store: Store, name: str) -> None:
        self.name, self.split = name, store.split(name, need_labels=False)
        self.schema = self._table(0, 0).schema

    def __len__(self) -> int:
        return len(self.split)

    def identity(self) -> dict[str, Any]:
        """The name; what is under it, the store's digest tells."""
        return {"split": self.name}

    def parts(self, rows: int, skip: Collection[int] = ()) -> Iterator[Part]:
        """Stretches of the split, which is sorted."""
        for number, begin in enumerate(range(0, len(self), rows)):
            if number not in skip:
                part = self.split.part(begin, begin + rows)
                yield Part(number, part, np.arange(len(part)))

    def tables(self) -> Iterator[pa.Table]:
        """Place in the split, user record, item row, and label and source row where it has them."""
        for begin in range(0, len(self), _TABLE_ROWS):
            yield self._table(begin, min(begin + _TABLE_ROWS, len(self)))

    def _table(self, begin: int, end: int) -> pa.Table:
        part = self.split.part(begin, end)
        columns = {"sample": np.arange(begin, end), "user": part.user, "item": part.item}
        if part.label is not None:
            columns["label"] = part.label
        if part.source_row is not None:
            columns["source_row"] = part.source_row
        return pa.table(columns)
