"""Opens a prepared store: memory-mapped arrays by the names of docs/store_format.md."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from ctr.schema import StoreError, StoreSchema, read_schema

Array = np.ndarray


@dataclass(frozen=True)
class Split:
    """Samples, sorted by user record: user int32, item int32, history_end int64, label uint8."""

    user: Array
    item: Array
    history_end: Array
    label: Array

    def __len__(self) -> int:
        return len(self.user)


class Store:
    """A prepared store, opened for reading; nothing is loaded before it is used.

    Args:
        path: folder of the store.

    Raises:
        StoreError: a file that is missing, cut short, or of another dtype or length.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.schema: StoreSchema = read_schema(self.path)
        self.history_offsets = self._array("users/history_offsets", "int64", None)
        if len(self.history_offsets) < 2:
            raise StoreError(f"{self.path}: users/history_offsets.npy has no user record")
        records, events = len(self.history_offsets) - 1, int(self.history_offsets[-1])
        self.history_item = self._array("users/history_item", "int32", events)
        self.events = {
            f.name: self._array(f"users/event_{f.name}", "int32", events) for f in self.schema.event
        }
        self.user_features = {
            f.name: self._array(f"users/feature_{f.name}", "int32", records)
            for f in self.schema.user
        }

    @cached_property
    def item_features(self) -> dict[str, Array]:
        """Row of each item feature, by item row: int32 [N]."""
        rows = self.schema.table_rows["item"]
        return {
            f.name: self._array(f"items/feature_{f.name}", "int32", rows) for f in self.schema.item
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

    def split(self, name: str) -> Split:
        """The samples of a split.

        Raises:
            StoreError: unknown split (lists the known ones) or a split without samples.
        """
        if name not in self.schema.splits:
            known = ", ".join(self.schema.splits) or "none"
            raise StoreError(f"{self.path}: no split '{name}'; it has: {known}")
        samples = self.schema.splits[name].samples
        if samples == 0:
            raise StoreError(f"{self.path}: split '{name}' has no samples")
        dtypes = {"user": "int32", "item": "int32", "history_end": "int64", "label": "uint8"}
        arrays = {
            column: self._array(f"splits/{name}/{column}", dtype, samples)
            for column, dtype in dtypes.items()
        }
        return Split(**arrays)

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
