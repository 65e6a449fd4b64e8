"""Writing the samples of a split: sorted, column by column."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from datasets.errors import data_error
from datasets.npy import create


def reserve_split(folder: Path, columns: Mapping[str, DTypeLike], samples: int) -> None:
    """Make the files of a split, zeros, for samples that are sorted and written in parts.

    Args:
        folder: of the split, made here.
        columns: dtypes by the names of the files.
        samples: how many.
    """
    folder.mkdir()
    for name, dtype in columns.items():
        create(folder / f"{name}.npy", dtype, samples)


def write_split(folder: Path, columns: Mapping[str, NDArray[Any] | None]) -> dict[str, Any]:
    """Sort samples by user record and `history_end`, write them, and describe them.

    Args:
        folder: of the split, made here; its name is that of the split.
        columns: by the name of their file, each [S]: `user`, `item`, `history_end`, `label`,
            `source_row` and `feature_<name>`; None for one that the split does not have.

    Returns:
        The split's entry in the manifest.

    Raises:
        DataError: the split has no sample.
        ValueError: columns of different lengths.
    """
    there = {name: values for name, values in columns.items() if values is not None}
    user = there["user"]
    if len(user) == 0:
        advice = "Check the source, or change the split rule so that every split gets samples"
        raise data_error(f"split '{folder.name}' has no samples", advice)
    if any(len(values) != len(user) for values in there.values()):
        raise ValueError("columns of samples must have one length")
    folder.mkdir()
    order = np.lexsort((there["history_end"], user))
    for name, values in there.items():
        np.save(folder / f"{name}.npy", values[order])
    entry: dict[str, Any] = {"samples": len(user)}
    if "label" in there:
        entry["positives"] = int(there["label"].sum(dtype=np.int64))
    entry["users"] = len(np.unique(user))
    if "label" not in there:
        entry["labelled"] = False
    if "source_row" in there:
        entry["source_rows"] = True
    return entry
