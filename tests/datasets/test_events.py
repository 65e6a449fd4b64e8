"""Event logs: order, split, history, features, and what bad ones are told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from datasets import event_log, events
from datasets.errors import DataError
from datasets.events_config import read_config
from datasets.verify import verify
from tests.datasets.event_log import CONFIG
from tests.datasets.stores import raw_users


def frames() -> dict[str, dict[str, list[Any]]]:
    """Two users with five and one events, rows out of order; ids of users are text."""
    return {
        "log": {
            "who": ["b", "a", "a", "b", "a", "a", "a"],
            "what": [7, 3, 1, 2, 2, 1, 9],
            "when": [5.0, 4.0, 0.0, 5.0, 2.0, 2.0, 3.0],
            "like": [1, 0, 1, 0, 1, 0, 1],
            "device": ["x", None, "x", "y", "y", "x", "x"],
        },
        "users": {"who": ["a", "c"], "age": [30, 40]},
        "items": {
            "what": [1, 2, 3, 5, 2],
            "genres": ["Drama|War", "War", None, "Drama", "Late"],
            "year": ["1995", "1996", "2001", "1994", "1800"],
        },
        "vectors": {"what": [1, 5, 2], "v": [[3.0, 4.0], [0.0, 0.0], [1.0, 0.0]]},
    }


def write(folder: Path, tables: dict[str, Any], config: dict[str, Any]) -> Path:
    """Write the tables and the YAML; return the YAML's path."""
    folder.mkdir(exist_ok=True)
    for name, columns in tables.items():
        pl.DataFrame(columns).write_parquet(folder / f"{name}.parquet")
    (folder / "log.yaml").write_text(yaml.safe_dump(config))
    return folder / "log.yaml"


def changed(tree: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    """A copy of the configuration with one entry changed."""
    first, _, rest = path.partition(".")
    inner = changed(tree.get(first, {}), rest, value) if rest else value
    return {**tree, first: inner}


def test_store_of_a_small_log(tmp_path: Path, open_store: Any) -> None:
    config = read_config(write(tmp_path / "in", frames(), CONFIG))
    manifest = events.prepare(config, tmp_path / "in", tmp_path / "store")
    assert verify(tmp_path / "store") == manifest
    store = open_store(tmp_path / "store")
    assert raw_users(tmp_path / "store") == ["a", "b"]
    # Ties of `when` keep the order of the file.
    assert list(store.histories()) == [[], [1, 2, 1, 9, 3], [7, 2]]
    assert store["users/event_liked"].tolist() == [2, 2, 1, 2, 1, 2, 1]
    devices = store.raw("device")
    found = [devices[row] for row in store["users/event_device"]]
    assert found == ["x", "y", "x", "x", None, "x", "y"]
    items = store.raw("item")

    def samples(split: str) -> list[tuple[Any, ...]]:
        names = ("user", "history_end", "item", "label")
        columns = [store[f"splits/{split}/{name}"].tolist() for name in names]
        return [(u, e, items[i], y) for u, e, i, y in zip(*columns, strict=True)]

    assert samples("train") == [(1, 0, 1, 1), (1, 1, 2, 1), (2, 0, 7, 1)]
    assert samples("valid") == [(1, 2, 1, 0)]
    assert samples("test") == [(1, 3, 9, 1), (1, 4, 3, 0), (2, 1, 2, 0)]


def test_features_of_a_small_log(tmp_path: Path, open_store: Any) -> None:
    config = read_config(write(tmp_path / "in", frames(), CONFIG))
    manifest = events.prepare(config, tmp_path / "in", tmp_path / "store")
    store = open_store(tmp_path / "store")
    items, categories, years = store.raw("item"), store.raw("category"), store.raw("year")
    of_item = dict(zip(items, store["items/feature_category"].tolist(), strict=True))
    assert {item: categories[row] for item, row in of_item.items()} == {
        None: None, 1: "Drama", 2: "War", 3: None, 5: "Drama", 7: None, 9: None
    }  # fmt: skip
    assert years == [None, "199"]
    ages = store.raw("age")
    assert [ages[row] for row in store["users/feature_age"]] == [None, 30, None]
    vectors, inverse = store["items/vectors"], store["items/vector_inv_norm"]
    assert vectors.dtype == np.float16
    assert inverse[items.index(1)] == np.float32(0.2)
    assert inverse[items.index(5)] == 0
    counts = manifest["counts"]
    assert counts["duplicate_item_features"] == 1
    assert counts["items_without_features"] == 2
    assert counts["users_without_features"] == 1
    assert counts["zero_vectors"] == 1


def test_vocabulary_of_training_events(tmp_path: Path, open_store: Any) -> None:
    tree = changed(CONFIG, "items.vocabulary", "train")
    config = read_config(write(tmp_path / "in", frames(), tree))
    manifest = events.prepare(config, tmp_path / "in", tmp_path / "store")
    assert verify(tmp_path / "store") == manifest
    store = open_store(tmp_path / "store")
    assert store.raw("item") == [None, 1, 2, 7]
    assert list(store.histories())[1] == [1, 2, 1, None, None]
    assert manifest["counts"]["events_outside_vocabulary"] == 2


@given(st.lists(st.integers(1, 200), min_size=1, max_size=20))
def test_split_rule(lengths: list[int]) -> None:
    split = event_log.split_by_user(np.array(lengths), 0.2, 0.1)
    start = 0
    for length in lengths:
        own = split[start : start + length].tolist()
        start += length
        tested, validated = max(1, length // 5), length // 10
        trained = max(0, length - tested - validated)
        assert own.count(event_log.TEST) == tested
        assert own == sorted(own)
        assert own.count(event_log.TRAIN) == trained


BAD: dict[str, tuple[str, str, int, Any, list[str]]] = {
    "label": ("log", "like", 2, 3, ["'like'", "row 2", "label 3"]),
    "null label": ("log", "like", 0, None, ["'like'", "row 0", "null"]),
    "negative order": ("log", "when", 4, -1.0, ["'when'", "row 4", "-1.0"]),
    "NaN order": ("log", "when", 1, float("nan"), ["'when'", "row 1", "nan"]),
    "null order": ("log", "when", 3, None, ["'when'", "row 3", "null"]),
    "null user": ("log", "who", 5, None, ["'who'", "row 5", "null"]),
    "duplicate user": ("users", "who", 1, "a", ["'who'", "key a", "twice"]),
    "NaN vector": ("vectors", "v", 1, [1.0, float("nan")], ["'v'", "row 1", "NaN"]),
    "wide vector": ("vectors", "v", 2, [1.0, 2.0, 3.0], ["'v'", "row 2", "width 3, expected 2"]),
    "large vector": ("vectors", "v", 0, [1e6, 0.0], ["'v'", "row 0", "float16 cannot hold"]),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_value(case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table, column, row, value, parts = BAD[case]
    tables = frames()
    tables[table][column][row] = value
    config = write(tmp_path / "in", tables, CONFIG)
    out = tmp_path / "store"
    arguments = ["--config", str(config), "--source", str(tmp_path / "in"), "--out", str(out)]
    assert events.main(arguments) == 2
    message = capsys.readouterr().err
    for part in [f"{table}.parquet", *parts]:
        assert part in message
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("events.user", 3, "events.user.*expected str"),
        ("events.usr", "who", r"events\.usr: unknown entry"),
        ("name", None, "name.*expected str"),
        ("split.test_fraction", 0.9, "no training events"),
        ("items.vocabulary", "some", "Use train or all"),
        ("items.key", None, "file and key must come together"),
        ("vectors.dtype", "int4", "Use int8"),
        ("users.features", {"user_id": {"column": "who"}}, "name is taken"),
        ("events.side", {"age": {"column": "device"}}, "events.side.age: the name is taken"),
        ("events.side", ["liked"], "expected a mapping"),
        ("events.side", {"../x": {"column": "device"}}, "cannot be a part of a file name"),
        ("events.side.liked.values", [0, 1, 0], r"side\.liked\.values: a value comes twice"),
        ("items.features", {"a/b": {"column": "year"}}, "cannot be a part of a file name"),
        ("items.features.year.prefix", 0, r"year\.prefix: 0\. Set a number of 1 or more"),
        ("items.features.year.min_frequency", 10**30, r"min_frequency: 1000.*Set a number"),
        ("users.min_frequency", -1, r"users\.min_frequency: -1\. Set"),
    ],
)
def test_bad_configuration(tmp_path: Path, path: str, value: Any, message: str) -> None:
    file = write(tmp_path, {}, changed(CONFIG, path, value))
    with pytest.raises(DataError, match=message) as caught:
        read_config(file)
    assert str(file) in str(caught.value)


BOMB = "a: &a [x, x]\n" + "".join(
    f"{two}: &{two} [*{one}, *{one}, *{one}, *{one}, *{one}, *{one}, *{one}, *{one}, *{one}]\n"
    for one, two in zip("abcdefghijk", "bcdefghijkl", strict=True)
)


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"name: \xff", "not readable as YAML"),
        (b"[" * 5000, "not readable as YAML"),
        (b"name: 2026-99-99", "not readable as YAML"),
        (b"name: " + b"1" * 10_000, "not readable as YAML"),
        (b"name: &a [*a]", "key events: entry is missing|key name: list, expected str"),
        (f"name:\n{BOMB}".replace("\n", "\n  ").encode(), "key name: dict, expected str"),
        (None, "cannot be read"),
    ],
    ids=["bytes", "deep", "date", "number", "loop", "bomb", "folder"],
)
def test_a_description_that_attacks_its_reader(
    tmp_path: Path, content: bytes | None, message: str
) -> None:
    file = tmp_path / "log.yaml"
    if content is None:
        file.mkdir()
    else:
        file.write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        read_config(file)
    assert str(file) in str(caught.value)
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize("values", [["0", "1"], [0, 2**64]])
def test_side_values_of_another_type_than_the_column(tmp_path: Path, values: list[Any]) -> None:
    tree = changed(CONFIG, "events.side.liked.values", values)
    config = read_config(write(tmp_path / "in", frames(), tree))
    with pytest.raises(DataError, match=r"log\.parquet, key events\.side\.liked\.values"):
        events.prepare(config, tmp_path / "in", tmp_path / "store")


@pytest.mark.parametrize("name", ["log", "users", "items", "vectors"])
def test_a_file_that_is_not_there(tmp_path: Path, name: str) -> None:
    config = read_config(write(tmp_path / "in", frames(), CONFIG))
    (tmp_path / "in" / f"{name}.parquet").unlink()
    with pytest.raises(DataError, match=rf"{name}\.parquet: no such file"):
        events.prepare(config, tmp_path / "in", tmp_path / "store")


def test_missing_entry(tmp_path: Path) -> None:
    tree = {key: value for key, value in CONFIG.items() if key != "events"}
    with pytest.raises(DataError, match="key events: entry is missing"):
        read_config(write(tmp_path, {}, tree))


def test_one_event_a_user_leaves_no_training(tmp_path: Path) -> None:
    tables = frames()
    tables["log"] = {name: values[:2] for name, values in tables["log"].items()}
    config = read_config(write(tmp_path / "in", tables, CONFIG))
    with pytest.raises(DataError, match="split 'train' has no samples"):
        events.prepare(config, tmp_path / "in", tmp_path / "store")
    assert not (tmp_path / "store").exists()


def test_ml1m(shared_data: Path, tmp_path: Path, open_store: Any) -> None:
    file = Path(events.__file__).with_name("ml1m.yaml")
    source, out = shared_data / "ml1m", tmp_path / "store"
    assert events.main(["--config", str(file), "--source", str(source), "--out", str(out)]) == 0
    manifest = verify(out)
    assert manifest["splits"]["test"]["samples"] == 197_656
    assert manifest["histories"] == {"records": 6041, "events": 1_000_209, "max_length": 2314}
    store = open_store(out)
    ratings = pl.read_parquet(source / "ratings.parquet").sort("user_id", "pos")
    one = ratings.filter(pl.col("user_id") == 4169)
    users, items = store.raw("user_id"), store.raw("item")
    record = [users[row] for row in store["users/feature_user_id"]].index(4169)
    offsets = store["users/history_offsets"]
    own = slice(offsets[record], offsets[record + 1])
    history = [items[row] for row in store["users/history_item"][own]]
    assert history == one["movie_id"].to_list()
    assert (store["users/event_liked"][own] - 1).tolist() == one["label"].to_list()
    mine = store["splits/test/user"] == record
    ends = store["splits/test/history_end"][mine].tolist()
    assert ends == list(range(len(history) - len(history) // 5, len(history)))
    assert store["splits/test/label"][mine].tolist() == one["label"].to_list()[-len(ends) :]
