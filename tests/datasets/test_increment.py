"""A store after another one: what stays, what is added, and what is refused."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from datasets import increment as command
from datasets import segments
from datasets.errors import DataError
from datasets.increment import increment
from datasets.remote_store import destination
from datasets.segments import PreparedStore
from datasets.verify import verify
from remote.path import location
from tests.datasets.stores import digest, write_extended, write_store

SIDE = ("history_item", "event_liked")


def goes_on(tmp_path: Path, before: str, lives: list[list[int]], after: str) -> dict[str, Any]:
    """Make a store of a day on top of another; users are counted from 1, as in `write_store`."""
    write_store(tmp_path / "rows", lives, overwrite=True)
    rows = PreparedStore(tmp_path / "rows")
    increment(PreparedStore(tmp_path / before), rows, tmp_path / after, histories="snapshots")
    return verify(tmp_path / after)


def test_one_day_on_top_of_another(tmp_path: Path, open_store: Any) -> None:
    write_store(tmp_path / "day0", [[1, 2], [3, 4]])
    goes_on(tmp_path, "day0", [[1, 2], [3, 4, 5], [2]], "day1")
    # User 2 is as yesterday, 1 as the day before, 3 began elsewhere, 4 is new.
    manifest = goes_on(tmp_path, "day1", [[1, 2], [3, 4, 5], [3], [4]], "day2")
    assert manifest["histories"]["segments"] == [4, 4, 2]
    assert manifest["parents"] == [digest(tmp_path / f"day{day}") for day in (0, 1)]
    assert list(manifest["splits"]) == ["train", "train_1", "train_2"]
    found = PreparedStore(tmp_path / "day2")
    for name in SIDE:
        lives = [found.events(name, record).tolist() for record in range(found.records)]
        assert lives == [[], [1, 2], [3, 4], [3, 4, 5], [2], [3], [4]]
    after = open_store(tmp_path / "day2")
    assert after["users/feature_user_id"].tolist() == [0, 1, 2, 2, 3, 3, 4]
    # A shorter history than that of yesterday is the beginning of it.
    assert after["splits/train_2/user"].tolist() == [1, 3, 5, 6]
    assert after["splits/train_1/user"].tolist() == [1, 3, 4]
    linked = "users/segment_1/history_item.npy"
    assert (tmp_path / "day2" / linked).stat().st_ino == (tmp_path / "day1" / linked).stat().st_ino


def test_new_histories_go_on_from_the_longest_record(tmp_path: Path, open_store: Any) -> None:
    """User 1 has no new event, user 2 one, and user 3 is new."""
    write_store(tmp_path / "day0", [[1, 2], [3]])
    write_store(tmp_path / "rows", [[], [4], [5]])
    day0, rows = PreparedStore(tmp_path / "day0"), PreparedStore(tmp_path / "rows")
    increment(day0, rows, tmp_path / "day1", histories="new")
    verify(tmp_path / "day1")
    found = PreparedStore(tmp_path / "day1")
    for name in SIDE:
        lives = [found.events(name, record).tolist() for record in range(found.records)]
        assert lives == [[], [1, 2], [3], [3, 4], [5]]
    after = open_store(tmp_path / "day1")
    assert after["splits/train_1/user"].tolist() == [1, 3, 4]
    assert after["splits/train_1/history_end"].tolist() == [2, 2, 1]


def test_a_beginning_of_a_known_history_is_no_new_record(tmp_path: Path, open_store: Any) -> None:
    write_store(tmp_path / "day0", [[1, 2], [3, 4]])
    manifest = goes_on(tmp_path, "day0", [[1], []], "day1")
    assert manifest["histories"]["segments"] == [4, 0]
    after = open_store(tmp_path / "day1")
    assert after["splits/train_1/user"].tolist() == [1, 2]
    assert after["splits/train_1/history_end"].tolist() == [1, 0]


@pytest.mark.parametrize("name", ["vocab/item.parquet", "users/history_offsets.npy"])
def test_a_damaged_file_of_yesterday_is_named(tmp_path: Path, name: str) -> None:
    write_store(tmp_path / "day0", [[1, 2]])
    size = (tmp_path / "day0" / name).stat().st_size
    (tmp_path / "day0" / name).write_bytes(b"x" * size)
    with pytest.raises(DataError, match=rf"{name}: .*Prepare the store again"):
        goes_on(tmp_path, "day0", [[1]], "day1")
    assert {path.name for path in tmp_path.iterdir()} == {"day0", "rows"}


def test_rows_of_another_kind_are_refused(tmp_path: Path) -> None:
    write_store(tmp_path / "a", [[1]])
    write_extended(tmp_path / "b")
    with pytest.raises(DataError, match=r"b: features .*, those of .*a are"):
        increment(PreparedStore(tmp_path / "a"), PreparedStore(tmp_path / "b"), tmp_path / "out")
    increment(PreparedStore(tmp_path / "b"), PreparedStore(tmp_path / "b"), tmp_path / "c")
    with pytest.raises(DataError, match="has increments of its own"):
        increment(PreparedStore(tmp_path / "b"), PreparedStore(tmp_path / "c"), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_lists_and_samples_without_labels(tmp_path: Path, open_store: Any) -> None:
    write_extended(tmp_path / "x")
    day = PreparedStore(tmp_path / "x")
    increment(day, day, tmp_path / "y")
    manifest = verify(tmp_path / "y")
    assert manifest["splits"]["test_1"]["labelled"] is False
    # Records are of no known user there, so that all are new.
    assert manifest["histories"]["segments"] == [3, 3]
    both = open_store(tmp_path / "y")
    assert (both["splits/test_1/source_row"] == both["splits/test/source_row"]).all()
    assert (both["splits/test_1/feature_mood"] == both["splits/test/feature_mood"]).all()


@pytest.mark.parametrize("step", ["add_split", "finish_segment", "_move_into_place"])
def test_killed_in_between_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    write_store(tmp_path / "day0", [[1, 2]])
    write_store(tmp_path / "rows", [[1, 2, 3]])
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    day0, rows = PreparedStore(tmp_path / "day0"), PreparedStore(tmp_path / "rows")

    def killed(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(segments.SegmentWriter, step, killed)
        with pytest.raises(KeyboardInterrupt):
            increment(day0, rows, tmp_path / "day1")
    assert before == {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*") if p.is_file()}
    increment(day0, rows, tmp_path / "day1")
    assert {path.name for path in tmp_path.iterdir()} == {"day0", "rows", "day1"}


def test_where_files_cannot_be_linked_they_are_copied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise OSError("no links here")

    monkeypatch.setattr(os, "link", refuse)
    write_store(tmp_path / "day0", [[1, 2]])
    goes_on(tmp_path, "day0", [[1, 2, 3]], "day1")
    name = "users/history_item.npy"
    assert (tmp_path / "day0" / name).stat().st_ino != (tmp_path / "day1" / name).stat().st_ino


def test_from_urls_to_a_url(bucket: str, tmp_path: Path) -> None:
    for name, lives in (("20/store", [[1, 2]]), ("rows/store", [[1, 2, 3]])):
        with destination(location(f"{bucket}/{name}"), False) as out:
            write_store(out, lives)
    names = {"--store": "20/store", "--prepared": "rows/store", "--out": "21/store"}
    arguments = [word for key, name in names.items() for word in (key, f"{bucket}/{name}")]
    assert command.main(arguments) == 0
    assert verify(location(f"{bucket}/21/store"))["histories"]["segments"] == [2, 3]
