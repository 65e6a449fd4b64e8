"""The loader reads every row once, whoever shares the work, and never shows the future."""

import json
import shutil
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ctr.data.loader import EpochOrder, Loader, Shard
from ctr.data.store import Split, Store
from ctr.schema import StoreError


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.integers(1, 9), min_size=1, max_size=30),
    st.one_of(st.none(), st.integers(0, 99)),
    st.data(),
)
def test_order_is_a_permutation_that_keeps_users_together(counts, seed, data):
    user = np.repeat(np.arange(len(counts)), counts).astype(np.int32)
    order = EpochOrder(user, None if seed is None else (seed, 0))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(user)), max_size=5)))
    parts = [order.rows(b, e) for b, e in zip([0, *cuts], [*cuts, len(user)], strict=True)]
    rows = np.concatenate(parts)
    assert sorted(rows) == list(range(len(user)))
    runs = np.flatnonzero(np.diff(user[rows], prepend=-1))
    assert len(runs) == len(counts), "samples of a user were torn apart"
    if seed is None:
        assert (rows == np.arange(len(user))).all()


@pytest.mark.parametrize("world_size", [1, 2, 3, 7])
@pytest.mark.parametrize("batch_size", [1, 64, 5000])
def test_every_row_once_at_any_world_size(store, world_size, batch_size):
    seen, steps = Counter(), set()
    for rank in range(world_size):
        loader = Loader(
            store,
            store.split("test"),
            batch_size=batch_size,
            history_length=30,
            shard=Shard(rank, world_size),
            seed=5,
            workers=2,
        )
        batches = list(loader)
        steps.add(len(batches))
        assert max(len(b) for b in batches) <= batch_size
        for batch in batches:
            seen.update(batch.sample_B.tolist())
    assert len(steps) == 1, "processes took different numbers of steps"
    assert seen == Counter(range(len(store.split("test"))))


def test_batch_holds_what_the_store_says(store):
    split = store.split("train")
    loader = Loader(store, split, batch_size=97, history_length=25, seed=2, workers=3)
    for batch in loader:
        offsets = batch.history_offsets_U
        assert (batch.user_B.diff() >= 0).all()
        for i, sample in enumerate(batch.sample_B.tolist()):
            begin = int(offsets[batch.user_B[i]] + batch.history_begin_B[i])
            end = int(offsets[batch.user_B[i]] + batch.history_end_B[i])
            assert end <= int(offsets[batch.user_B[i] + 1])
            user, life_end = split.user[sample], int(split.history_end[sample])
            life = store.history_item[0][store.history_offsets[user] :][:life_end]
            expected = life[-25:] if life_end else life
            assert batch.history_item_T[begin:end].tolist() == expected.tolist()
            assert int(batch.target_item_B[i]) == split.item[sample]
            assert float(batch.label_B[i]) == split.label[sample]
            for name, column in batch.user_features_U.items():
                assert int(column[batch.user_B[i]]) == store.user_features[name][user]


def test_resumes_at_any_sample_with_another_world_size(store):
    def read(loader, steps=None):
        rows = []
        for step, batch in enumerate(loader, start=1):
            rows += batch.sample_B.tolist()
            if step == steps:
                break
        return rows

    split = store.split("train")
    whole = Loader(store, split, batch_size=100, history_length=9, seed=4)
    whole.load_state_dict({"epoch": 1, "samples_done": 0})
    expected = read(whole)
    assert whole.state_dict() == {"epoch": 2, "samples_done": 0}
    first = Loader(store, split, batch_size=100, history_length=9, seed=4)
    first.load_state_dict({"epoch": 1, "samples_done": 0})
    begun = read(first, steps=3)
    rest = []
    for rank in range(3):
        shard = Shard(rank, 3)
        other = Loader(store, split, batch_size=50, history_length=9, seed=4, shard=shard)
        other.load_state_dict(first.state_dict())
        rest += read(other)
    assert begun == expected[:300]
    assert sorted(begun + rest) == sorted(expected)


@pytest.mark.parametrize("row", [-1, -(2**31), 2**31 - 1, None])
@pytest.mark.parametrize("name", ["history_item", "event_liked"])
def test_an_event_outside_its_table_is_named(tiny_store, tmp_path, row, name):
    path = shutil.copytree(tiny_store, tmp_path / "store")
    manifest = json.loads((path / "manifest.json").read_text())
    del manifest["checksum"]
    manifest["features"]["event"] = [{"name": "liked", "table": "brand"}]
    (path / "manifest.json").write_text(json.dumps(manifest))
    np.save(path / "users/event_liked.npy", np.load(path / "users/history_item.npy") % 2)
    rows = manifest["tables"]["item" if name == "history_item" else "brand"]["rows"]
    file = path / f"users/{name}.npy"
    events = np.load(file)
    events[:] = rows - 1
    np.save(file, events)
    read = {"batch_size": 500, "history_length": 99}
    store = Store(path)
    assert len(list(Loader(store, store.split("train"), **read)))
    events[:] = rows if row is None else row
    np.save(file, events)
    store = Store(path)
    loader = Loader(store, store.split("train"), **read)
    with pytest.raises(StoreError, match=rf"users/{name}\.npy: an event of row .*table has {rows}"):
        list(loader)


def test_epochs_differ_and_seeds_repeat(store):
    def epoch(seed, number):
        loader = Loader(store, store.split("train"), batch_size=500, history_length=9, seed=seed)
        loader.load_state_dict({"epoch": number, "samples_done": 0})
        return torch.cat([b.sample_B for b in loader]).tolist()

    assert epoch(1, 0) == epoch(1, 0)
    assert epoch(1, 0) != epoch(1, 1)
    assert epoch(1, 0) != epoch(2, 0)


def test_samples_of_no_split_are_read_with_what_they_carry(store):
    """A split of our own making: without labels, each sample with a feature."""
    train = store.split("train")
    shown = np.arange(len(train), dtype=np.int32) % 7
    own = Split(train.user, train.item, train.history_end, None, {"likes": shown}).part(10, 300)
    batches = list(Loader(store, own, batch_size=64, history_length=9, seed=1))
    sample = torch.cat([batch.sample_B for batch in batches])
    assert sorted(sample.tolist()) == list(range(290))
    found = torch.cat([batch.sample_features_B["likes"] for batch in batches])
    assert found.dtype == torch.int64
    assert found.tolist() == ((sample + 10) % 7).tolist()
    target = torch.cat([batch.target_item_B for batch in batches])
    assert target.tolist() == train.item[10:300][sample].tolist()
    # A loss that were made of it could not be taken for a number.
    assert all(batch.label_B.isnan().all() for batch in batches)
    assert batches[0].to(torch.device("cpu")).sample_features_B.keys() == {"likes"}
