"""Users without a row of table user_id get by raw id the scores that their split gives them.

The batches of the files are those of the split, so that scores are equal to the last bit.
"""

import logging
import shutil

import numpy as np
import polars as pl
import pytest

import ctr.train
from ctr.config import RunConfig
from ctr.data.store import Store
from ctr.run_folder import RunFolder
from datasets import events, taobao_mm
from datasets.events_config import read_config
from tests.datasets.stores import without_raw_users

USER, ITEM, LIFE = (taobao_mm.RAW[word] for word in ("user_id", "item", "history_item"))
LOG = """
name: log
events: {file: log.parquet, user: who, item: what, order: when, label: like}
users: {min_frequency: 5}
items: {vocabulary: all}
split: {test_fraction: 0.5, valid_fraction: 0.0}
"""


@pytest.fixture(scope="module")
def train(process, tmp_path_factory):
    """Trains two steps on a store, enough to tell histories apart."""

    def start(store):
        config = RunConfig()
        config.run = str(tmp_path_factory.mktemp("runs") / "run")
        config.data.store, config.data.batch_size = str(store), 50
        config.data.history_length, config.model.recent_length = 60, 10
        config.model.gsu, config.model.simtier, config.model.hidden = "none", "none", [16]
        config.trainer.max_steps, config.trainer.lr = 2, 0.05
        config.trainer.progress = False
        ctr.train.run(config, process)
        return RunFolder(config.run_path)

    return start


@pytest.fixture(scope="module")
def tree(train, make_world, tmp_path_factory):
    """A Taobao-MM tree, its store, and a run on it."""
    raw = tmp_path_factory.mktemp("raw") / "tree"
    sizes = {"users": 60, "history_length": 40, "items": 300, "categories": 6, "seed": 4}
    store = make_world(raw=raw, **sizes)
    return raw, store, train(store)


def raw_items(store):
    """Raw ids by row."""
    return np.array([None, *pl.read_parquet(store.path / "vocab/item.parquet")["raw"]])


def nobody(store, split):
    """Which samples have a history of a user without a row."""
    return (store.user_features["user_id"][split.user] == 0) & (split.history_end > 0)


def test_of_a_tree(tree, score):
    """Samples of both are recognized by their target and history."""
    raw, path, run = tree
    store = Store(path)
    split, ids, begins = store.split("test"), raw_items(store), store.history_offsets[:-1]
    expected = score("test", folder=run)["score"].to_pylist()
    rows = zip(split.item, begins[split.user], split.history_end, expected, strict=True)
    theirs = [
        (ids[item], ids[store.history_item[0][begin : begin + end]].tolist(), value)
        for item, begin, end, value in rows
    ]
    known = set(ids)
    lives = pl.read_parquet(raw / "test_user_features.parquet").select(USER, LIFE)
    of_user = {
        user: [item if item in known else None for item in life] for user, life in lives.iter_rows()
    }
    found = score(raw / "test_samples.parquet", folder=run, user_column=USER, item_column=ITEM)
    rows = zip(*(found[name].to_pylist() for name in (USER, ITEM, "score")), strict=True)
    ours = [
        (item if item in known else None, of_user.get(user, []), value)
        for user, item, value in rows
    ]
    assert sorted(ours, key=repr) == sorted(theirs, key=repr)
    assert len(np.unique(np.array(expected)[nobody(store, split)])) > 20


def test_of_a_store_of_an_earlier_release(tree, train, score, tmp_path, caplog):
    """There they are strangers."""
    raw, path, run = tree
    before = train(without_raw_users(shutil.copytree(path, tmp_path / "store")))
    store = Store(path)
    split = store.split("test")
    strangers = int((store.user_features["user_id"][split.user] == 0).sum())
    few = int((split.user == 0).sum())
    columns = {"user_column": USER, "item_column": ITEM}
    for folder, count in ((run, few), (before, strangers)):
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            score(raw / "test_samples.parquet", folder=folder, **columns)
        assert f"{count} of {len(split)} samples: user not in the store" in caplog.text
    assert few < strangers - 50


def test_of_an_event_log(train, score, tmp_path):
    """Users with fewer than five events for training have no row; their ids are text."""
    random = np.random.default_rng(0)
    frame = pl.DataFrame(
        {
            "who": [f"u{user}" for user in (30 * random.random(400) ** 2).astype(int)],
            "what": random.integers(0, 60, 400),
            "when": random.permutation(400),
            "like": random.integers(0, 2, 400),
        }
    )
    frame.write_parquet(tmp_path / "log.parquet")
    (tmp_path / "log.yaml").write_text(LOG)
    events.prepare(read_config(tmp_path / "log.yaml"), tmp_path, tmp_path / "store")
    run = train(tmp_path / "store")
    store = Store(tmp_path / "store")
    split = store.split("test")
    seen = pl.int_range(pl.len()).over("who")
    later = seen >= pl.len().over("who") - (pl.len().over("who") // 2).clip(1)
    rows = frame.sort("who", "when").with_columns(seen=seen, later=later).filter("later")
    rows.drop("like", "later").write_parquet(tmp_path / "samples.parquet")
    columns = {"user_column": "who", "item_column": "what", "history_end_column": "seen"}
    found = score(tmp_path / "samples.parquet", folder=run, **columns)
    expected = score("test", folder=run)["score"].to_pylist()
    assert found["what"].to_pylist() == raw_items(store)[split.item].tolist()
    assert found["score"].to_pylist() == expected
    assert len(np.unique(np.array(expected)[nobody(store, split)])) > 20
