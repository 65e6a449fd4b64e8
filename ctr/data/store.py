"""Opens a prepared store: memory-mapped arrays by the names of docs/store_format.md."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np

from ctr.data.store_cache import local_store
from ctr.schema import StoreError, StoreSchema, read_schema

Array = np.ndarray
_CHUNK_ROWS = 1 << 20


@dataclass(frozen=True)
class Split:
    """Samples, sorted by user record and then by `history_end`.

    Attributes:
        user: int32 [S]; user record.
        item: int32 [S]; row of the target.
        history_end: int64 [S]; events of the record that the sample may see.
        label: uint8 [S]; 0 or 1; None where the samples have none.
        features: int32 [S] each; rows of the tables of the samples' own features.
        source_row: int64 [S]; row of the sample in the file it came from; None where not known.
    """

    user: Array
    item: Array
    history_end: Array
    label: Array | None = None
    features: dict[str, Array] = field(default_factory=dict)
    source_row: Array | None = None

    def __len__(self) -> int:
        return len(self.user)

    def part(self, begin: int, end: int) -> Split:
        """Samples `[begin, end)`."""
        rows = slice(begin, end)
        return Split(
            user=self.user[rows],
            item=self.item[rows],
            history_end=self.history_end[rows],
            label=None if self.label is None else self.label[rows],
            features={name: column[rows] for name, column in self.features.items()},
            source_row=None if self.source_row is None else self.source_row[rows],
        )


class Store:
    """A prepared store, opened for reading; what is large is not loaded before it is used.

    Every number that reading takes for a place in another array is checked here or in `split`.
    Numbers that have changed within their range are found by `python -m datasets.store verify`.

    Args:
        path: folder of the store, or its URL: then a copy of it is read (ctr/data/store_cache.py).

    Attributes:
        history_offsets: int64 [U + 1]; record u owns events `[offsets[u], offsets[u + 1])`, counted
            over all segments of the histories. A record lies in one segment.
        segment_begins: int64 [number of segments]; the event that each begins with.
        history_item: int32 [events of the segment] for each segment; row of each event's item.
        events: as `history_item`, by name; side columns of the events.
        user_features: int32 [U] each; row of each profile feature.

    Raises:
        StoreError: a URL that cannot be read, or a file that is missing, cut short, of another
            dtype or length, or with rows outside its table.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = local_store(path)
        self.schema: StoreSchema = read_schema(self.path)
        self.history_offsets = self._array("users/history_offsets", "int64", None)
        if len(self.history_offsets) < 2:
            raise StoreError(f"{self.path}: users/history_offsets.npy has no user record")
        self._check_offsets()
        records, events = len(self.history_offsets) - 1, int(self.history_offsets[-1])
        sizes = self.schema.segments or (events,)
        self.segment_begins = np.cumsum([0, *sizes[:-1]])
        self._check_segments(sizes)
        self.history_item = self._segments("history_item", sizes)
        self.events = {f.name: self._segments(f"event_{f.name}", sizes) for f in self.schema.event}
        self.user_features = {
            f.name: self._rows(f"users/feature_{f.name}", f.table, records)
            for f in self.schema.user
        }

    def segments_of(self, event_U: Array) -> Array:
        """Segment that each event lies in: int64 [U].

        Args:
            event_U: int64; places among the events of the store.
        """
        return np.searchsorted(self.segment_begins, event_U, side="right") - 1

    def events_file(self, column: str, segment: int) -> Path:
        """File of a column of the events, `history_item` or `event_<name>`."""
        folder = f"segment_{segment}/" if segment else ""
        return self.path / f"users/{folder}{column}.npy"

    @cached_property
    def item_features(self) -> dict[str, Array]:
        """Row of each item feature, by item row: int32 [N], or [N, width] for a list."""
        rows = self.schema.table_rows["item"]
        return {
            f.name: self._rows(
                f"items/feature_{f.name}", f.table, rows, *((f.width,) if f.width > 1 else ())
            )
            for f in self.schema.item
        }

    @cached_property
    def vectors(self) -> Array | None:
        """Frozen item vectors [N, M], or None."""
        spec = self.schema.vectors
        if spec is None:
            return None
        rows = self.schema.table_rows["item"]
        return self._array("items/vectors", spec.dtype, rows, spec.width)

    @cached_property
    def vector_inv_norm(self) -> Array | None:
        """1 / norm of each item's vector, 0 where it has none: float32 [N], or None."""
        if self.schema.vectors is None:
            return None
        return self._array("items/vector_inv_norm", "float32", self.schema.table_rows["item"])

    def split(self, name: str, need_labels: bool = True) -> Split:
        """The samples of a split.

        Args:
            name: of the split.
            need_labels: refuse a split without labels.

        Raises:
            StoreError: unknown split (lists the known ones), a split without samples or without
                the labels that are needed, or samples that are out of order or of a user, item,
                event or row of a table that is not there.
        """
        if name not in self.schema.splits:
            known = ", ".join(self.schema.splits) or "none"
            raise StoreError(f"{self.path}: no split '{name}'; it has: {known}")
        spec, folder = self.schema.splits[name], f"splits/{name}"
        if spec.samples == 0:
            raise StoreError(f"{self.path}: split '{name}' has no samples")
        if need_labels and not spec.labelled:
            raise StoreError(
                f"{self.path}: split '{name}' has no labels to train or evaluate with; "
                f"`python ctr/predict.py run=RUN samples={name}` scores it"
            )
        split = Split(
            user=self._array(f"{folder}/user", "int32", spec.samples),
            item=self._array(f"{folder}/item", "int32", spec.samples),
            history_end=self._array(f"{folder}/history_end", "int64", spec.samples),
            label=self._array(f"{folder}/label", "uint8", spec.samples) if spec.labelled else None,
            features={
                f.name: self._rows(f"{folder}/feature_{f.name}", f.table, spec.samples)
                for f in self.schema.sample
            },
            source_row=(
                self._array(f"{folder}/source_row", "int64", spec.samples)
                if spec.source_rows
                else None
            ),
        )
        self._check_samples(self.path / folder, split)
        return split

    def _check_offsets(self) -> None:
        file, offsets = self.path / "users/history_offsets.npy", self.history_offsets
        # Compared, not subtracted: the difference of two damaged numbers may overflow.
        falls = np.flatnonzero(offsets[1:] < offsets[:-1])
        if offsets[0] != 0 or len(falls):
            row = int(falls[0]) + 1 if len(falls) else 0
            raise _damaged(file, row, f"{offsets[row]}, expected offsets that rise from 0")

    def _check_segments(self, sizes: tuple[int, ...]) -> None:
        offsets, ends = self.history_offsets, np.cumsum(sizes)
        cut = offsets[np.searchsorted(offsets, ends).clip(max=len(offsets) - 1)] != ends
        if ends[-1] != offsets[-1] or cut.any():
            raise StoreError(
                f"{self.path}: segments of {', '.join(map(str, sizes))} events do not cut the "
                "histories between records; prepare the store again"
            )

    def _segments(self, column: str, sizes: tuple[int, ...]) -> tuple[Array, ...]:
        files = (self.events_file(column, segment) for segment in range(len(sizes)))
        names = (file.relative_to(self.path).with_suffix("").as_posix() for file in files)
        return tuple(self._array(name, "int32", n) for name, n in zip(names, sizes, strict=True))

    def _check_samples(self, folder: Path, split: Split) -> None:
        lengths = np.diff(self.history_offsets)
        _check_rows(folder / "user.npy", split.user, len(lengths))
        _check_rows(folder / "item.npy", split.item, self.schema.table_rows["item"])
        if split.label is not None:
            _check_rows(folder / "label.npy", split.label, 2)
        if split.source_row is not None:
            _check_rows(folder / "source_row.npy", split.source_row, 2**63)
        last_user, last_end = -1, 0
        for part in _chunks(len(split)):
            user, end = split.user[part], split.history_end[part]
            bad = np.flatnonzero((end < 0) | (end > lengths[user]))
            if len(bad):
                row = part.start + int(bad[0])
                problem = f"{split.history_end[row]} events of {lengths[split.user[row]]}"
                raise _damaged(folder / "history_end.npy", row, problem)
            step = np.diff(user, prepend=np.int32(last_user))
            bad = np.flatnonzero((step < 0) | ((step == 0) & (np.diff(end, prepend=last_end) < 0)))
            if len(bad):
                problem = "samples are not sorted by user record and history_end"
                raise _damaged(folder / "user.npy", part.start + int(bad[0]), problem)
            last_user, last_end = user[-1], end[-1]

    def _rows(self, name: str, table: str, *shape: int) -> Array:
        array = self._array(name, "int32", *shape)
        _check_rows(self.path / f"{name}.npy", array, self.schema.table_rows[table])
        return array

    def _array(self, name: str, dtype: str, *shape: int | None) -> Array:
        path = self.path / f"{name}.npy"
        try:
            # Copy-on-write: torch wants writable memory, and the file must never change.
            array = np.load(path, mmap_mode="c", allow_pickle=False)
        except FileNotFoundError:
            raise StoreError(f"{path}: missing; prepare the store again") from None
        except Exception as error:  # a damaged header raises almost anything
            array = _load_empty(path)
            if array is None:
                raise StoreError(
                    f"{path}: cannot be read ({error}); prepare the store again"
                ) from None
        if not isinstance(array, np.ndarray):
            raise StoreError(f"{path}: not an array; prepare the store again")
        same_shape = array.ndim == len(shape) and all(
            wanted in (None, found) for wanted, found in zip(shape, array.shape, strict=True)
        )
        if array.dtype != np.dtype(dtype) or not same_shape:
            wanted = ", ".join("any" if n is None else str(n) for n in shape)
            raise StoreError(
                f"{path}: {array.dtype} {list(array.shape)}, expected {dtype} [{wanted}]; "
                "prepare the store again"
            )
        return array


def _damaged(file: Path, row: int, problem: str) -> StoreError:
    return StoreError(f"{file}, row {row}: {problem}; prepare the store again")


def _chunks(rows: int) -> Iterator[slice]:
    for begin in range(0, rows, _CHUNK_ROWS):
        yield slice(begin, min(begin + _CHUNK_ROWS, rows))


def _check_rows(file: Path, array: Array, rows: int) -> None:
    """Raise StoreError unless every entry [n] or [n, width] is a row of a table of so many rows."""
    for part in _chunks(len(array)):
        values = array[part]
        if values.min() < 0 or values.max() >= rows:
            place = tuple(np.argwhere((values < 0) | (values >= rows))[0])
            row = part.start + int(place[0])
            raise _damaged(file, row, f"{values[place]}, expected 0 to {rows - 1}")


def _load_empty(path: Path) -> Array | None:
    """An array without entries, which cannot be memory-mapped, or None if it is not one."""
    try:
        # Its file is a header and nothing else; do not read gigabytes of a damaged one.
        if path.stat().st_size > 1024:
            return None
        array = np.load(path, allow_pickle=False)
    except Exception:
        return None
    return array if array.size == 0 else None
