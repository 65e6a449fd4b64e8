"""A day of a Taobao-MM tree after yesterday's store: what stays, what is added, what is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from datasets import increment as command
from datasets import taobao_mm
from datasets.manifest import read_manifest
from datasets.segments import PreparedStore
from datasets.verify import verify
from tests.datasets.stores import digest


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


def test_a_stopped_preparation_of_the_rows_leaves_nothing(
    days: tuple[Path, Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    day0, raw, day1 = days

    def killed(*_: Any, **__: Any) -> None:
        assert list(tmp_path.glob("day1.tmp-*/day"))
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "increment", killed)
    with pytest.raises(KeyboardInterrupt):
        run(day0, raw, day1)
    assert {path.name for path in tmp_path.iterdir()} == {"raw0", "raw1", "day0"}


def test_items_without_vectors_take_no_room(
    tmp_path: Path, write_tree: Callable[..., Path], taobao_columns: Any, open_store: Any
) -> None:
    """Rows 1 and 9,000 have vectors, and so has an item that is new."""
    items = [*range(1, 9000), 10_000]
    columns = {
        **taobao_columns,
        "item_features": {
            "item": items,
            **{name: [1] * len(items) for name in ("category", "brand", "shop")},
        },
    }
    history = {"history_item": [[*items], [1], [1]], "history_category": [[1] * 9000, [1], [1]]}
    columns["train_user_features"] = {**columns["train_user_features"], **history}
    for day, (item, value) in enumerate(((10_000, 3), (77, 5))):
        columns["scl_embedding_int8_p90"] = {
            "item": [1, item],
            "vector": [[2] * 128, [value] * 128],
        }
        tree = write_tree(tmp_path / f"raw{day}", columns)
        if day == 0:
            taobao_mm.prepare_tree(tree, tmp_path / "day0", taobao_mm.Options())
    files = [tmp_path / f"day{day}/items/vectors.npy" for day in range(2)]
    if files[0].stat().st_blocks * 512 > files[0].stat().st_size / 2:
        pytest.skip("the file system has no holes")
    assert run(tmp_path / "day0", tree, tmp_path / "day1") == 0
    assert files[1].stat().st_blocks * 512 < files[1].stat().st_size / 2
    verify(tmp_path / "day1")
    after = open_store(tmp_path / "day1")
    found = dict(zip(after.raw("item"), after["items/vectors"][:, 7].tolist(), strict=True))
    assert {item: value for item, value in found.items() if value} == {1: 2, 10_000: 3, 77: 5}


def test_what_histories_hold_is_said_of_prepared_rows(
    days: tuple[Path, Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        run(*days, "--histories", "new")
    assert "--histories is said of --prepared" in capsys.readouterr().err
