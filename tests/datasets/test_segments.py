"""Histories in segments: what is read, and what damaged ones are told."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from datasets.errors import DataError
from datasets.increment import increment
from datasets.segments import PreparedStore
from datasets.verify import verify
from tests.datasets.stores import change_manifest, reseal, write_store


def put_together(folder: Path, before: list[list[int]], after: list[list[int]]) -> None:
    """Store `c` of the segments `a` and `b`."""
    write_store(folder / "a", before)
    write_store(folder / "b", after)
    stores = (PreparedStore(folder / name) for name in "ab")
    increment(*stores, folder / "c", histories="snapshots")


DAMAGE: dict[str, tuple[str, Any, str]] = {
    "fewer segments": ("histories.segments", [8], "1 segments after 1 parents"),
    "other sizes": ("histories.segments", [4, 5], "segments of 9 events"),
    "no segments": ("histories", {"records": 5, "events": 8, "max_length": 3}, "segments belong"),
    "an old version": ("schema_version", 1, "segments belong to schema version 2"),
    "no parents": ("parents", [], "2 segments after 0 parents"),
    "a number": ("parents", [3], "key parents.0"),
    "cut elsewhere": ("histories.segments", [3, 5], "history_item.npy: shape"),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_verify_finds_segments_of_another_kind(tmp_path: Path, case: str) -> None:
    put_together(tmp_path, [[1, 2], [3, 4]], [[1, 2, 3], [5]])
    place, value, message = DAMAGE[case]
    change_manifest(tmp_path / "c", place, value)
    with pytest.raises(DataError, match=message):
        verify(tmp_path / "c")


def test_verify_finds_a_record_on_both_sides_of_a_cut(tmp_path: Path) -> None:
    put_together(tmp_path, [[1, 2], [3, 4]], [[1, 2, 3], [5]])
    file = tmp_path / "c/users/history_offsets.npy"
    offsets = np.load(file)
    assert offsets.tolist() == [0, 0, 2, 4, 7, 8]
    offsets[3] = 3
    np.save(file, offsets)
    np.save(tmp_path / "c/splits/train/history_end.npy", np.zeros(2, np.int64))
    reseal(tmp_path / "c", "users/history_offsets.npy")
    reseal(tmp_path / "c", "splits/train/history_end.npy")
    change_manifest(tmp_path / "c", "histories.max_length", 4)
    with pytest.raises(DataError, match="a record lies on both sides of event 4"):
        verify(tmp_path / "c")


def test_forged_names_lead_nowhere(tmp_path: Path) -> None:
    write_store(tmp_path / "a", [[1]])
    manifest = json.loads((tmp_path / "a/manifest.json").read_text())
    manifest["files"]["splits/../../secret"] = {"bytes": 1, "blake2b": ""}
    (tmp_path / "secret").write_text("x")
    del manifest["checksum"]
    (tmp_path / "a/manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(DataError, match="is not a name of a store's file"):
        PreparedStore(tmp_path / "a")


def test_a_segment_is_read_where_it_begins(tmp_path: Path) -> None:
    """Records without events at the cut, and a store whose first segment is empty."""
    put_together(tmp_path, [[], []], [[1], [], [2, 3]])
    found = PreparedStore(tmp_path / "c")
    lives = [found.events("history_item", r).tolist() for r in range(found.records)]
    assert sorted(lives) == sorted([[], [], [], [1], [2, 3]])
    assert list(itertools.accumulate(map(len, lives))) == found.offsets[1:].tolist()
    verify(tmp_path / "c")
