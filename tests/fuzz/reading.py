"""Everything that a training run would read of a store."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np

from ctr.data.loader import Loader
from ctr.data.store import Store


def _digest(value: Any) -> str:
    array = np.ascontiguousarray(value)
    return hashlib.blake2b(f"{array.dtype}{array.shape}".encode() + array.tobytes()).hexdigest()[:9]


def read_store(path: Path) -> dict[str, Any]:
    """Digests of an epoch of both splits and of the items, and the manifest's numbers."""
    store = Store(path)
    found: dict[str, Any] = {}
    for split in ("train", "test"):
        loader = Loader(store, store.split(split), batch_size=50, history_length=30, seed=1)
        for step, batch in enumerate(loader):
            for name, value in batch.as_dict().items():
                inner = value if isinstance(value, dict) else {"": value}
                for key, tensor in inner.items():
                    found[f"{split} {step} {name} {key}"] = _digest(tensor)
    for name, column in store.item_features.items():
        found[f"item {name}"] = _digest(column)
    if store.vectors is not None:
        found |= {"vectors": _digest(store.vectors), "norms": _digest(store.vector_inv_norm)}
    schema = store.schema
    found["tables"] = schema.table_rows
    found["features"] = [sorted(map(str, f)) for f in (schema.user, schema.item, schema.event)]
    found["shape"] = (schema.max_history, str(schema.vectors), str(schema.splits))
    return found
