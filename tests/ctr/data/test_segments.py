"""Stores of several days: every sample is read as a full preparation would have it, and trains."""

import json
import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from ctr.data.loader import Loader
from ctr.data.store import Store
from ctr.distributed import process_group
from ctr.schema import StoreError
from ctr.train import run


def raw_ids(store: Store, table: str) -> np.ndarray:
    column = pl.read_parquet(store.path / "vocab" / f"{table}.parquet")["raw"]
    return np.concatenate([[0], column.to_numpy()])


def read(store: Store, split: str, names: Store) -> list[tuple]:
    """Every sample under raw ids: user, item, label, history, profile; in an order of its own.

    Items that `names` has no row for are left out as unknown, and so are its unknown users.
    """
    items, users = raw_ids(store, "item"), raw_ids(store, "user_id")
    known = set(raw_ids(names, "item").tolist())
    found = []
    loader = Loader(store, store.split(split), batch_size=64, history_length=30, seed=1, workers=2)
    for batch in loader:
        begins = batch.history_offsets_U[batch.user_B]
        spans = zip(
            (begins + batch.history_begin_B).tolist(),
            (begins + batch.history_end_B).tolist(),
            strict=True,
        )
        user = users[batch.user_features_U["user_id"][batch.user_B].numpy()]
        rows = batch.history_item_T.numpy()
        for place, (begin, end) in enumerate(spans):
            history = items[rows[begin:end]].tolist()
            found.append(
                (
                    int(user[place]),
                    int(items[batch.target_item_B[place]]),
                    float(batch.label_B[place]),
                    tuple(item if item in known else 0 for item in history),
                )
            )
    return sorted(found)


def test_every_sample_is_as_in_a_full_preparation(days: Path):
    today, full = Store(days / "day1"), Store(days / "full")
    assert today.schema.segments is not None
    assert min(today.schema.segments) > 0
    assert len(today.history_item) == 2
    for split in ("train", "test"):
        ours, theirs = read(today, f"{split}_1", full), read(full, split, full)
        # A user without a sample in today's `train` may be known from yesterday.
        strangers = {sample[1:] for sample in theirs if sample[0] == 0}
        assert {sample[1:] for sample in ours} == {sample[1:] for sample in theirs}
        assert [s for s in ours if s[1:] not in strangers] == [
            s for s in theirs if s[1:] not in strangers
        ]
        yesterday = Store(days / "day0")
        assert read(today, split, today) == read(yesterday, split, today)


def test_users_that_are_as_before_have_no_second_history(days: Path):
    today, full = Store(days / "day1"), Store(days / "full")
    whole = json.loads((days / "full/manifest.json").read_text())["histories"]["events"]
    assert today.schema.segments[1] < 0.8 * whole
    assert full.schema.segments is None


def test_it_trains_like_any_store(days: Path, config, tmp_path):
    config.data.store = str(days / "day1")
    config.data.train_split, config.data.test_split = "train_1", "test_1"
    config.run = str(tmp_path / "run")
    config.trainer.log_every, config.trainer.progress = 1, False
    with process_group("cpu") as process:
        summary = run(config, process)
    assert summary["steps"] > 0
    rows = map(json.loads, (tmp_path / "run" / "metrics.jsonl").read_text().splitlines())
    losses = [row["loss"] for row in rows if row["kind"] == "train"]
    assert len(losses) > 0
    assert np.isfinite(losses).all()


def edited(days: Path, tmp_path: Path, change) -> Path:
    """A copy of the store with a changed manifest."""
    path = shutil.copytree(days / "day1", tmp_path / "store")
    manifest = json.loads((path / "manifest.json").read_text())
    del manifest["checksum"]
    change(manifest)
    (path / "manifest.json").write_text(json.dumps(manifest))
    return path


def shift(manifest):
    """Move the cut between the segments by one event."""
    first, second = manifest["histories"]["segments"]
    manifest["histories"]["segments"] = [first + 1, second - 1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (shift, "do not cut the histories between records"),
        (lambda m: m["histories"]["segments"].append(7), "3 segments of histories after 1 parents"),
        (lambda m: m["histories"]["segments"].pop(), "1 segments of histories after 1 parents"),
        (lambda m: m["histories"].update(segments=[1, "2"]), "'2' is no number"),
        (lambda m: m["histories"].pop("segments"), "no key 'segments'"),
        (lambda m: m.update(schema_version=1), "segments belong to schema version 2"),
        (lambda m: m.update(parents=["../x"]), "'../x' is no digest"),
        (lambda m: m.pop("parents"), "no key 'parents'"),
    ],
)
def test_segments_that_are_not_those_of_the_files(days, tmp_path, change, message):
    with pytest.raises(StoreError, match=message):
        Store(edited(days, tmp_path, change))


@pytest.mark.parametrize("damage", ["missing", "short"])
def test_a_file_of_a_segment_that_is_damaged(days, tmp_path, damage):
    path = edited(days, tmp_path, lambda manifest: None)
    file = path / "users/segment_1/history_item.npy"
    if damage == "missing":
        file.unlink()
    else:
        np.save(file, np.load(file)[:-1])
    with pytest.raises(StoreError, match=r"segment_1/history_item\.npy: .*prepare the store again"):
        Store(path)


def test_an_event_outside_its_table_names_its_segment(days, tmp_path):
    path = edited(days, tmp_path, lambda manifest: None)
    file = path / "users/segment_1/history_item.npy"
    np.save(file, np.full_like(np.load(file), -5))
    store = Store(path)
    loader = Loader(store, store.split("train_1"), batch_size=500, history_length=30)
    with pytest.raises(StoreError, match=r"segment_1/history_item\.npy: an event of row -5"):
        next(iter(loader))
