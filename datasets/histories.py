"""Writing histories, one batch of user records after another."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from datasets.npy import NpyAppender


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
