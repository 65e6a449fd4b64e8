"""Yesterday's store and today's rows: what stays, what is added, and what is refused."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from datasets import increment as command
from datasets import segments, taobao_mm
from datasets.errors import DataError
from datasets.increment import increment
from datasets.manifest import read_manifest
from datasets.remote_store import destination
from datasets.segments import PreparedStore
from datasets.verify import verify
from remote.path import location
from tests.datasets.stores import change_manifest, reseal, write_extended, write_store

SIDE = ("history_item", "event_liked")


@pytest.fixture
def today(taobao_columns: Any) -> Any:
    """The day after `taobao_columns`: user 11 is as before, 13 has grown in train and is as before
    in test, and has no sample in train, so that only yesterday's table knows the id. 12 has another
    profile, 14 and 77 are new. Items 300 and 301 are new."""
    profiles = {word: [1, 3, 9, 1] for word in taobao_mm.PROFILE}
    histories = [[100, 101, 100], [100, 0, 103, 104, 300], [101, 102], []]
    tests = [[100, 0, 103, 104], [301, 100]]
    return {
        **taobao_columns,
        "train_samples": {
            "label": [[0, 1], [1, 0], [0, 1], [1, 0]],
            "user_id": [11, 12, 12, 14],
            "item": [300, 200, 202, 300],
        },
        "test_samples": {"label": [[0, 1], [1, 0]], "user_id": [13, 77], "item": [200, 301]},
        "train_user_features": {
            "user_id": [11, 13, 12, 14],
            **profiles,
            "history_item": histories,
            "history_category": [[i // 2 * 10 for i in history] for history in histories],
        },
        "test_user_features": {
            "user_id": [13, 77],
            **{word: [3, 2] for word in taobao_mm.PROFILE},
            "history_item": tests,
            "history_category": [[i // 2 * 10 for i in history] for history in tests],
        },
        "item_features": {
            "item": [200, 300, 202],
            "category": [500, 520, 510],
            "brand": [8, 11, 8],
            "shop": [9, 12, 13],
        },
        "scl_embedding_int8_p90": {
            "item": [200, 300, 202],
            "vector": [[9] * 128, [7] * 128, [6] * 128],
        },
    }


@pytest.fixture
def days(
    tmp_path: Path, write_tree: Callable[..., Path], taobao_columns: Any, today: Any
) -> tuple[Path, Path, Path]:
    """Yesterday's store, today's tree, and the folder of today's store."""
    tree = write_tree(tmp_path / "raw0", taobao_columns)
    taobao_mm.prepare_tree(tree, tmp_path / "day0", taobao_mm.Options())
    return tmp_path / "day0", write_tree(tmp_path / "raw1", today), tmp_path / "day1"


def run(store: Path, raw: Path, out: Path, *more: str) -> int:
    return command.main(["--store", str(store), "--source", str(raw), "--out", str(out), *more])


def digest(store: Path) -> str:
    raw = (store / "manifest.json").read_bytes()
    return hashlib.blake2b(raw, digest_size=16).hexdigest()


def histories(store: Any) -> list[list[Any]]:
    """Raw items of every record, whatever segment they are in."""
    found = PreparedStore(store.path)
    items = store.raw("item")
    return [
        [items[row] for row in found.events("history_item", record)]
        for record in range(found.records)
    ]


def samples(store: Any, split: str) -> list[tuple[Any, ...]]:
    """Raw user, raw target, what is seen of the history, and label of each sample."""
    users, items, lives = store.raw("user_id"), store.raw("item"), histories(store)
    of_record = store["users/feature_user_id"]
    return sorted(
        (
            (users[of_record[user]], items[item], tuple(lives[user][:end]), label)
            for user, item, end, label in zip(
                *(store[f"splits/{split}/{n}"] for n in ("user", "item", "history_end", "label")),
                strict=True,
            )
        ),
        key=repr,
    )


def test_a_day_of_a_tree(days: tuple[Path, Path, Path], tmp_path: Path, open_store: Any) -> None:
    day0, raw, day1 = days
    assert run(day0, raw, day1, "--parent", digest(day0)) == 0
    assert {path.name for path in tmp_path.iterdir()} == {"raw0", "raw1", "day0", "day1"}
    what_was_there_stays(day0, day1, open_store)
    files_of_histories_and_samples_are_the_same(day0, day1)
    rows_of_new_items_follow(day1, open_store)
    taobao_mm.prepare_tree(raw, tmp_path / "alone", taobao_mm.Options())
    what_is_new_is_as_in_a_full_preparation(day0, day1, tmp_path / "alone", open_store)


def what_was_there_stays(day0: Path, day1: Path, open_store: Any) -> None:
    before, after = open_store(day0), open_store(day1)
    manifest = verify(day1)
    assert manifest["schema_version"] == 2
    assert manifest["parents"] == [digest(day0)]
    assert manifest["histories"]["segments"][0] == read_manifest(day0)["histories"]["events"]
    for table in manifest["tables"]:
        ids = before.raw(table)
        assert after.raw(table)[: len(ids)] == ids, table
    for name in ("items/feature_shop", "items/feature_category"):
        known = before[name] != 0
        assert (after[name][: len(known)][known] == before[name][known]).all()
    for name in ("user_id", *taobao_mm.PROFILE):
        ours = before[f"users/feature_{name}"]
        assert after[f"users/feature_{name}"][: len(ours)].tolist() == ours.tolist()
    lives = list(before.histories())
    assert histories(after)[: len(lives)] == lives
    for split in ("train", "test"):
        assert samples(after, split) == samples(before, split)


def files_of_histories_and_samples_are_the_same(day0: Path, day1: Path) -> None:
    names = ["users/history_item.npy"]
    names += [n for n in read_manifest(day0)["files"] if n.startswith("splits/")]
    assert len(names) > 8
    for name in names:
        assert (day0 / name).stat().st_ino == (day1 / name).stat().st_ino, name
    assert not (day1 / "users/segment_1/history_offsets.npy").exists()


def what_is_new_is_as_in_a_full_preparation(
    day0: Path, day1: Path, full: Path, open_store: Any
) -> None:
    after, alone = open_store(day1), open_store(full)
    assert samples(after, "train_1") == samples(alone, "train")
    assert [user for user, *_ in samples(after, "test_1")] == [13, None]
    ours, theirs = samples(after, "test_1"), samples(alone, "test")
    assert {sample[1:] for sample in ours} == {sample[1:] for sample in theirs}
    added = histories(after)[read_manifest(day0)["histories"]["records"] :]
    # 11 and the test user 13 are as before. An unknown item is the same in any store.
    grown = [100, None, 103, 104, 300]
    assert added == [grown, [101, 102], [], [301, 100]]
    # Today's table of the profile has no 2, which is of a test user only.
    profile = after.raw("profile_1")[after["users/feature_profile_1"][-1]]
    assert profile == 2


def rows_of_new_items_follow(day1: Path, open_store: Any) -> None:
    after = open_store(day1)
    row = {item: place for place, item in enumerate(after.raw("item"))}

    def feature(name: str, item: int) -> Any:
        return after.raw(name)[after[f"items/feature_{name}"][row[item]]]

    assert [feature("category", item) for item in (200, 300, 202, 301)] == [500, 520, 510, 1500]
    # What 200 had stays, and 202 had no shop.
    assert [feature("brand", item) for item in (200, 300)] == [7, 11]
    assert [feature("shop", item) for item in (200, 300, 202)] == [9, 12, 13]
    assert read_manifest(day1)["counts"]["brand_changes_left_out"] == 1
    vectors = after["items/vectors"]
    assert [int(vectors[row[item], 5]) for item in (200, 300, 202, 301)] == [1, 7, 6, 0]


def goes_on(tmp_path: Path, before: str, lives: list[list[int]], after: str) -> dict[str, Any]:
    """Make a store of a day on top of another; users are counted from 1, as in `write_store`."""
    write_store(tmp_path / "rows", lives, overwrite=True)
    rows = PreparedStore(tmp_path / "rows")
    increment(PreparedStore(tmp_path / before), rows, tmp_path / after)
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


def test_a_beginning_of_a_known_history_is_no_new_record(tmp_path: Path, open_store: Any) -> None:
    write_store(tmp_path / "day0", [[1, 2], [3, 4]])
    manifest = goes_on(tmp_path, "day0", [[1], []], "day1")
    assert manifest["histories"]["segments"] == [4, 0]
    after = open_store(tmp_path / "day1")
    assert after["splits/train_1/user"].tolist() == [1, 2]
    assert after["splits/train_1/history_end"].tolist() == [1, 0]


def test_thresholds_of_yesterday_hold(
    days: tuple[Path, Path, Path], tmp_path: Path, open_store: Any
) -> None:
    _, raw, day1 = days
    strict = taobao_mm.Options(min_frequency=2, user_min_frequency=2)
    taobao_mm.prepare_tree(tmp_path / "raw0", tmp_path / "strict", strict)
    assert run(tmp_path / "strict", raw, day1) == 0
    assert verify(day1)["source"]["options"] == vars(strict)
    # Each is new and seen once: 301 is a target, but 104 only a behaviour.
    items = open_store(day1).raw("item")
    assert 301 in items
    assert 104 not in open_store(tmp_path / "strict").raw("item")
    assert 14 not in open_store(day1).raw("user_id")


def test_a_wrong_parent_is_refused(
    days: tuple[Path, Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    day0, raw, day1 = days
    wrong = "0" * 32
    assert run(day0, raw, day1, "--parent", wrong) == 2
    assert f"its manifest has the digest {digest(day0)}, not {wrong}" in capsys.readouterr().err
    (day0 / "users/history_item.npy").write_bytes(b"short")
    assert run(day0, raw, day1) == 2
    assert "history_item.npy: 5 bytes, the manifest says" in capsys.readouterr().err
    (day0 / "users/history_item.npy").unlink()
    assert run(day0, raw, day1) == 2
    assert "history_item.npy: no such file, the manifest says" in capsys.readouterr().err
    assert not list(tmp_path.glob("day1*"))


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
    # What is left by a kill that nothing can catch is removed by the next one.
    (tmp_path / f"day1.tmp-{2**22 + 1}").mkdir()
    increment(day0, rows, tmp_path / "day1")
    assert {path.name for path in tmp_path.iterdir()} == {"day0", "rows", "day1"}


def test_a_stopped_preparation_of_the_rows_leaves_nothing(
    days: tuple[Path, Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    day0, raw, day1 = days

    def killed(*_: Any, **__: Any) -> None:
        assert list(tmp_path.glob("day1.tmp-*.day"))
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "increment", killed)
    with pytest.raises(KeyboardInterrupt):
        run(day0, raw, day1)
    assert {path.name for path in tmp_path.iterdir()} == {"raw0", "raw1", "day0"}


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
    write_store(tmp_path / "a", [[1, 2], [3, 4]])
    write_store(tmp_path / "b", [[1, 2, 3], [5]])
    increment(PreparedStore(tmp_path / "a"), PreparedStore(tmp_path / "b"), tmp_path / "c")
    place, value, message = DAMAGE[case]
    change_manifest(tmp_path / "c", place, value)
    with pytest.raises(DataError, match=message):
        verify(tmp_path / "c")


def test_verify_finds_a_record_on_both_sides_of_a_cut(tmp_path: Path) -> None:
    write_store(tmp_path / "a", [[1, 2], [3, 4]])
    write_store(tmp_path / "b", [[1, 2, 3], [5]])
    increment(PreparedStore(tmp_path / "a"), PreparedStore(tmp_path / "b"), tmp_path / "c")
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
    write_store(tmp_path / "a", [[], []])
    write_store(tmp_path / "b", [[1], [], [2, 3]])
    increment(PreparedStore(tmp_path / "a"), PreparedStore(tmp_path / "b"), tmp_path / "c")
    found = PreparedStore(tmp_path / "c")
    lives = [found.events("history_item", r).tolist() for r in range(found.records)]
    assert sorted(lives) == sorted([[], [], [], [1], [2, 3]])
    assert list(itertools.accumulate(map(len, lives))) == found.offsets[1:].tolist()
    verify(tmp_path / "c")
