"""Raw ids become the samples that a slow loop finds, in parts that can be put back in order."""

import json
import logging
import shutil

import numpy as np
import polars as pl
import pytest

from ctr.data.raw_file import SamplesError
from ctr.data.raw_samples import RawColumns, RawSamples
from ctr.data.store import Store


@pytest.fixture(scope="module")
def path(tiny_store, tmp_path_factory):
    """The tiny world with ids of items that are strings, and two features of samples."""
    path = shutil.copytree(tiny_store, tmp_path_factory.mktemp("store") / "world")
    manifest = json.loads((path / "manifest.json").read_text())
    del manifest["checksum"]
    features = [{"name": n, "table": t} for n, t in (("user", "shop"), ("hour", "brand"))]
    manifest["features"]["sample"] = features
    (path / "manifest.json").write_text(json.dumps(manifest))
    vocabulary = pl.read_parquet(path / "vocab/item.parquet")
    vocabulary.with_columns(raw="i" + pl.col("raw").cast(pl.String)).write_parquet(
        path / "vocab/item.parquet"
    )
    return path


@pytest.fixture
def store(path):
    return Store(path)


def raw_ids(store, table):
    return pl.read_parquet(store.path / f"vocab/{table}.parquet")["raw"].to_list()


@pytest.fixture
def frame(store):
    """200 rows, some of strangers and of items nobody knows, some with less than all history."""
    random = np.random.default_rng(3)
    ids = pl.read_parquet(store.path / "users/raw.parquet")["raw"].to_list()
    users = [*ids[:30], *ids[-10:], -1, -2]
    items = [*raw_ids(store, "item")[:50], "nothing"]
    shops = [*raw_ids(store, "shop")[:20], None, -9]
    return pl.DataFrame(
        {
            "who": [users[i] for i in random.integers(0, len(users), 200)],
            "what": [items[i] for i in random.integers(0, len(items), 200)],
            "where": pl.Series([shops[i] for i in random.integers(0, len(shops), 200)]),
            "share": random.random(200),
        }
    )


def record_of(store, raw):
    """The longest record of a raw user, and its events."""
    ids = pl.read_parquet(store.path / "users/raw.parquet")["raw"].to_list()
    mine = [record for record, own in enumerate(ids, 1) if own == raw] or [0]
    lengths = np.diff(store.history_offsets)
    record = max(mine, key=lambda record: (lengths[record], record))
    return int(record), int(lengths[record])


def expected_rows(store, frame, seen):
    items, shops = raw_ids(store, "item"), raw_ids(store, "shop")
    rows = []
    for place, (who, what, where, _) in enumerate(frame.iter_rows()):
        record, length = record_of(store, who)
        item = items.index(what) + 1 if what in items else 0
        shop = shops.index(where) + 1 if where in shops else 0
        end = (seen[place] if record else 0) if seen is not None else length
        rows.append((record, item, end, shop))
    return rows


@pytest.mark.parametrize("part_rows", [7, 64, 200, 1000])
@pytest.mark.parametrize("with_end", [False, True])
def test_samples_are_those_of_a_slow_loop(store, frame, tmp_path, part_rows, with_end):
    seen = None
    if with_end:
        lengths = [record_of(store, who)[1] or 50 for who in frame["who"]]
        seen = [int(share * length) for share, length in zip(frame["share"], lengths, strict=True)]
        frame = frame.with_columns(seen=pl.Series(seen))
    frame.write_parquet(tmp_path / "s.parquet", row_group_size=33)
    columns = RawColumns("who", "what", "seen" if with_end else None, {"user": "where"})
    samples = RawSamples(tmp_path / "s.parquet", columns, store)
    assert len(samples) == 200
    found, unknown, numbers = [], {"user": 0, "item": 0, "sample user": 0}, []
    for part in samples.parts(part_rows):
        split = part.split
        assert sorted(part.place) == list(range(len(split)))
        keys = list(zip(split.user.tolist(), split.history_end.tolist(), strict=True))
        assert keys == sorted(keys)
        assert not split.features["hour"].any()
        assert split.label is None
        columns = (split.user, split.item, split.history_end, split.features["user"])
        rows = np.stack(columns, axis=1)
        back = np.empty_like(rows)
        back[part.place] = rows
        found += [tuple(row) for row in back.tolist()]
        numbers.append(part.number)
        for name, count in part.unknown.items():
            unknown[name] += count
    expected = expected_rows(store, frame.drop("seen", strict=False), seen)
    assert found == expected
    assert numbers == list(range(-(-200 // part_rows)))
    assert unknown["user"] == sum(row[0] == 0 for row in expected) > 0
    assert unknown["item"] == sum(row[1] == 0 for row in expected) > 0
    assert unknown["sample user"] == (frame["where"] == -9).sum() > 0


def test_parts_may_be_skipped(store, frame, tmp_path):
    frame.write_parquet(tmp_path / "s.parquet")
    samples = RawSamples(tmp_path / "s.parquet", RawColumns("who", "what"), store)
    every = list(samples.parts(30))
    some = list(samples.parts(30, skip=[0, 2, 3]))
    assert [part.number for part in some] == [1, 4, 5, 6]
    for part in some:
        assert part.split.item.tolist() == every[part.number].split.item.tolist()


def test_identity_follows_content_and_columns(store, frame, tmp_path):
    def identity(columns=RawColumns("who", "what")):  # noqa: B008 -- frozen
        return RawSamples(tmp_path / "s.parquet", columns, store).identity()

    frame.write_parquet(tmp_path / "s.parquet")
    first = identity()
    assert json.loads(json.dumps(first)) == first
    assert identity() == first
    assert identity(RawColumns("who", "what", features={"user": "where"})) != first
    frame.reverse().write_parquet(tmp_path / "s.parquet")
    assert identity() != first


def test_a_feature_without_a_column_is_told(store, frame, tmp_path, caplog):
    frame.write_parquet(tmp_path / "s.parquet")
    columns = RawColumns("who", "what", features={"user": "where"})
    with caplog.at_level(logging.WARNING):
        RawSamples(tmp_path / "s.parquet", columns, store)
    assert "sample feature 'hour' has no column" in caplog.text
    assert "'user'" not in caplog.text


@pytest.mark.parametrize("end", [-1, 10**6])
def test_an_end_outside_the_history(store, frame, tmp_path, end):
    seen = [0] * 200
    place = next(i for i, who in enumerate(frame["who"]) if i > 100 and record_of(store, who)[0])
    seen[place] = end
    frame.with_columns(seen=pl.Series(seen)).write_parquet(tmp_path / "s.parquet")
    samples = RawSamples(tmp_path / "s.parquet", RawColumns("who", "what", "seen"), store)
    with pytest.raises(SamplesError, match=rf"column 'seen', row {place}: {end}; its user has"):
        list(samples.parts(60))
