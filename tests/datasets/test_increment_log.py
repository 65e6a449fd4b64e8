"""Event logs and MicroLens day by day: which ids get rows, and what every sample sees."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import yaml

from datasets import events, increment, microlens
from datasets.manifest import read_manifest
from datasets.segments import PreparedStore
from datasets.verify import verify
from tests.datasets.microlens_tables import tables, write_tables
from tests.datasets.stores import raw_users, without_raw_users

CONFIG: dict[str, Any] = {
    "name": "log",
    "events": {
        "file": "log.parquet",
        "user": "who",
        "item": "what",
        "order": "when",
        "label": "like",
        "side": {"liked": {"column": "like", "values": [0, 1]}},
    },
    "users": {
        "file": "users.parquet",
        "key": "who",
        "vocabulary": "all",
        "features": {"age": {"column": "age"}},
    },
    "items": {
        "file": "items.parquet",
        "key": "what",
        "vocabulary": "all",
        "features": {"kind": {"column": "kind"}},
    },
    "split": {"test_fraction": 0.2, "valid_fraction": 0.0},
}
Event = tuple[str, int, int, int]


def prepare(
    folder: Path, log: list[Event], config: dict[str, Any] = CONFIG, items: tuple[int, ...] = ()
) -> Path:
    """A store of a log; `items` are in the item table beside those of the events."""
    folder.mkdir()
    columns = ("who", "what", "when", "like")
    frame = pl.DataFrame(log, schema=columns, orient="row")
    frame.write_parquet(folder / "log.parquet")
    users = frame["who"].unique().sort()
    ages = users.str.slice(1).cast(pl.Int64) % 5
    pl.DataFrame({"who": users, "age": ages}).write_parquet(folder / "users.parquet")
    what = pl.concat([frame["what"], pl.Series(items, dtype=pl.Int64)]).unique().sort()
    table = pl.DataFrame({"what": what, "kind": what % 3})
    table.write_parquet(folder / "items.parquet")
    (folder / "log.yaml").write_text(yaml.safe_dump(config))
    store = folder / "store"
    arguments = ["--config", folder / "log.yaml", "--source", folder, "--out", store]
    assert events.main([str(argument) for argument in arguments]) == 0
    return store


def add(store: Path, rows: Path, out: Path, *more: str) -> int:
    arguments = ["--store", str(store), "--prepared", str(rows), "--out", str(out)]
    return increment.main([*arguments, *more])


def day_of(number: int, random: np.random.Generator) -> list[Event]:
    """Events of a day: some users come back, some are new; the same with the items."""
    users = random.integers(number * 3, number * 3 + 12, 150)
    items = random.integers(number * 20, number * 20 + 50, 150)
    moments = number * 1000 + random.permutation(150)
    return [
        (f"u{user}", int(item), int(moment), int(moment % 2))
        for user, item, moment in zip(users, items, moments, strict=True)
    ]


Sample = tuple[Any, tuple[Any, ...]]


def samples(store: Any, splits: tuple[str, ...]) -> Iterator[Sample]:
    """Of each sample the user and the length of the history; its target, label, history with its
    side column, and age."""
    opened = PreparedStore(store.path)
    users, items, ages = (store.raw(table) for table in ("user_id", "item", "age"))
    of_record, age = store["users/feature_user_id"], store["users/feature_age"]
    for split in splits:
        names = ("user", "item", "history_end", "label")
        columns = (store[f"splits/{split}/{name}"].tolist() for name in names)
        for user, item, end, label in zip(*columns, strict=True):
            seen = [items[row] for row in opened.events("history_item", user)[:end]]
            liked = opened.events("event_liked", user)[:end].tolist()
            place = (users[of_record[user]], end)
            yield place, (items[item], label, tuple(seen), tuple(liked), ages[age[user]])


def test_three_days_as_one_log(tmp_path: Path, open_store: Any) -> None:
    random = np.random.default_rng(0)
    days = [day_of(number, random) for number in range(3)]
    stores = [prepare(tmp_path / f"day{number}", log) for number, log in enumerate(days)]
    for number, rows in enumerate(stores[1:], 1):
        out = tmp_path / f"store{number}"
        assert add(stores[number - 1], rows, out, "--histories", "new") == 0
        assert verify(out)["counts"]["users_outside_vocabulary"] == 0
        stores[number] = out
    whole = open_store(prepare(tmp_path / "whole", [event for log in days for event in log]))
    expected = dict(samples(whole, ("train", "test")))
    after = open_store(tmp_path / "store2")
    found = [list(samples(after, (f"train{end}", f"test{end}"))) for end in ("", "_1", "_2")]
    assert [len(part) for part in found] == [150, 150, 150]
    assert dict(sample for part in found for sample in part) == expected
    assert any(end > 20 for _, end in expected)


def test_rows_of_one_day_alone_are_no_whole_lives(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = [("u1", 10, 1, 1), ("u1", 11, 2, 0), ("u1", 12, 3, 1), ("u2", 10, 1, 0)]
    second = [("u1", 10, 4, 1), ("u1", 11, 5, 0), ("u2", 10, 6, 1)]
    day0, rows = prepare(tmp_path / "0", first), prepare(tmp_path / "1", second)
    assert add(day0, rows, tmp_path / "out") == 2
    told = capsys.readouterr().err
    assert f"{rows}, key user_id u1: 2 events, and 3 in {day0} (1 such users)." in told
    assert "add --histories new" in told
    assert not list(tmp_path.glob("out*"))
    whole = prepare(tmp_path / "2", first + second)
    assert add(day0, whole, tmp_path / "out", "--histories", "whole") == 0
    found = PreparedStore(tmp_path / "out")
    assert np.diff(found.offsets).tolist() == [0, 3, 1, 5, 2]


def test_ids_that_no_training_event_has_keep_their_rows(tmp_path: Path, open_store: Any) -> None:
    """User u5 is only in test, item 99 only in the table of items."""
    first = [("u1", 10, 1, 1), ("u1", 11, 2, 0), ("u2", 10, 1, 0), ("u2", 12, 2, 1)]
    second = [("u1", 10, 4, 1), ("u1", 11, 5, 0), ("u5", 10, 1, 1)]
    day0 = prepare(tmp_path / "0", first)
    rows = prepare(tmp_path / "1", second, items=(99,))
    assert add(day0, rows, tmp_path / "out", "--histories", "new") == 0
    after = open_store(tmp_path / "out")
    users, items = after.raw("user_id"), after.raw("item")
    assert sorted(users[1:]) == ["u1", "u2", "u5"]
    assert sorted(items[1:]) == [10, 11, 12, 99]
    assert [users[row] for row in after["users/feature_user_id"]][3:] == ["u1", "u5"]
    kinds = after.raw("kind")
    assert kinds[after["items/feature_kind"][items.index(99)]] == 0


def test_a_threshold_of_the_log_holds(tmp_path: Path, open_store: Any) -> None:
    """For items and users and the values of a feature, as often as training events have them."""
    config = {
        **CONFIG,
        "items": {"vocabulary": "train", "min_frequency": 3},
        "users": {**CONFIG["users"], "vocabulary": "train", "min_frequency": 4},
    }
    config["users"]["features"] = {"age": {"column": "age", "min_frequency": 2}}
    free = {**CONFIG, "items": {}}
    first = [("u1", 10, moment, 1) for moment in range(9)]
    first += [("u6", 10, moment, 1) for moment in range(9)]
    second = [("u1", item, 10 + place, 1) for place, item in enumerate((11, 12, 12, 12, 10))]
    second += [(user, 12, place, 1) for user in ("u2", "u3", "u7") for place in range(3)]
    day0 = prepare(tmp_path / "0", first, config)
    rows = prepare(tmp_path / "1", second, free)
    assert add(day0, rows, tmp_path / "out", "--histories", "new") == 0
    after = open_store(tmp_path / "out")
    assert after.raw("item") == [None, 10, 12]
    assert after.raw("user_id") == [None, "u1", "u6"]
    assert after.raw("age") == [None, 1, 2]
    assert read_manifest(tmp_path / "out")["counts"]["users_outside_vocabulary"] == 3
    # The day after, it is still known.
    again = prepare(tmp_path / "2", [("u1", 13, 90, 1), ("u1", 10, 91, 1)], free)
    assert add(tmp_path / "out", again, tmp_path / "later", "--histories", "new") == 0
    assert open_store(tmp_path / "later").raw("item") == [None, 10, 12]


def test_new_histories_are_of_known_users(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A user of one event has no training event, so no row under `vocabulary: train`."""
    config = {**CONFIG, "users": {**CONFIG["users"], "vocabulary": "train"}}
    log = [("u1", 10, 1, 1), ("u1", 11, 2, 0), ("u2", 10, 1, 0)]
    rows = prepare(tmp_path / "0", log, config)
    assert add(rows, rows, tmp_path / "out", "--histories", "new") == 2
    assert "key user_id: 1 records are of users without a row" in capsys.readouterr().err
    plain = tmp_path / "plain"
    microlens.prepare(write_tables(tmp_path / "raw", tables()), plain)
    assert add(plain, plain, tmp_path / "out", "--histories", "new") == 2
    assert "key user_id: no user feature" in capsys.readouterr().err
    assert not list(tmp_path.glob("out*"))


def test_items_of_microlens_without_events(tmp_path: Path, open_store: Any) -> None:
    """An item that only `item_info` has gets its row the day after, too."""
    first = tables()
    microlens.prepare(write_tables(tmp_path / "raw0", first), tmp_path / "0", with_user_id=True)
    second = tables()
    info = second["item_info"]
    new = max(info["item_id"]) + 1000
    for values in info.values():
        values.append(values[-1])
    info["item_id"][-1] = new
    microlens.prepare(write_tables(tmp_path / "raw1", second), tmp_path / "1", with_user_id=True)
    assert add(tmp_path / "0", tmp_path / "1", tmp_path / "out") == 0
    before, after = open_store(tmp_path / "0"), open_store(tmp_path / "out")
    assert after.raw("item") == [*before.raw("item"), new]
    assert (after["items/vectors"][-1] == open_store(tmp_path / "1")["items/vectors"][-1]).all()
    # Whoever is as yesterday keeps the record; user 6 has no row of table `user_id`.
    assert PreparedStore(tmp_path / "out").records == PreparedStore(tmp_path / "0").records + 1


# u2 has no event for training where half of a user's are for the test.
EVENTS = [("u1", 10, 1, 1), ("u1", 11, 2, 0), ("u2", 10, 1, 0), ("u3", 12, 2, 1), ("u3", 10, 4, 1)]
LATER = [("u1", 10, 5, 1), ("u1", 12, 6, 0), ("u4", 11, 5, 1)]
TRAINED = {
    **CONFIG,
    "users": {**CONFIG["users"], "vocabulary": "train"},
    "split": {"test_fraction": 0.5, "valid_fraction": 0.0},
}


@pytest.mark.parametrize(
    ("old", "expected"),
    [
        ((), ["u1", "u2", "u3", "u1", "u4"]),
        # What such a store knows is who has a row; u4 has none by yesterday's threshold.
        (("yesterday",), ["u1", None, "u3", "u1", "u4"]),
        (("today",), ["u1", "u2", "u3", "u1", None]),
        (("yesterday", "today"), None),
    ],
)
def test_raw_users_of_both_days(
    tmp_path: Path, old: tuple[str, ...], expected: list[str | None] | None
) -> None:
    """Stores of earlier releases do not hold them."""
    prepare(tmp_path / "yesterday", EVENTS, TRAINED)
    prepare(tmp_path / "today", LATER)
    for name in old:
        without_raw_users(tmp_path / name / "store")
    before, rows, out = (tmp_path / name for name in ("yesterday/store", "today/store", "out"))
    assert add(before, rows, out, "--histories", "new") == 0
    assert ("raw_users" in verify(out)) is (expected is not None)
    if expected:
        assert raw_users(out) == expected
