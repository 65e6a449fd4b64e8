"""Slice columns against slow and obvious loops."""

import json
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest
import torch

from ctr import slices
from ctr.data.loader import BatchBuilder, Loader, Shard
from ctr.data.store import Split
from ctr.evaluate import EvaluateConfig, run_evaluation
from ctr.inference import predict, write_predictions
from ctr.metrics.ties import PredictionError
from ctr.model.gsu import Retrieved
from ctr.run_folder import RunFolder
from ctr.schema import StoreError
from ctr.slices import SLICE_COLUMNS, search_columns, store_columns, wanted_slices
from ctr.train import run


def split_of(user, item, history_end):
    return Split(
        np.array(user, dtype=np.int32),
        np.array(item, dtype=np.int32),
        np.array(history_end, dtype=np.int64),
    )


@pytest.fixture
def small():
    """Records 1 and 3 are of one user, 2 and 4 of users that share row 0 of their table."""
    store = SimpleNamespace(
        schema=SimpleNamespace(table_rows={"item": 5}),
        history_offsets=np.array([0, 0, 9, 12, 20, 20, 25]),
        user_features={"user_id": np.array([0, 1, 0, 1, 0, 2], dtype=np.int32)},
        vector_inv_norm=np.array([0, 0.5, 0, 0.25, 1], dtype=np.float32),
    )
    train = split_of([0, 0, 1, 1, 2, 3], [0, 1, 1, 2, 1, 3], [0, 0, 2, 9, 3, 8])
    test = split_of([0, 1, 2, 3, 3, 4, 5], [1, 2, 3, 0, 4, 1, 3], [0, 9, 3, 4, 8, 0, 5])
    return store, test, train


def test_columns_of_a_store_made_by_hand(small):
    found = store_columns(*small, history_length=6)
    expected = {
        "history_length": [0, 6, 3, 4, 6, 0, 5],
        # The unknown item is many items, none of them trained on.
        "target_train_samples": [3, 1, 1, 0, 0, 3, 1],
        "target_has_vector": [True, False, True, False, True, True, True],
        # Two samples of record 1 and one of record 3; the unknown user is many users.
        "user_train_samples": [0, 3, 1, 3, 3, 0, 0],
    }
    assert {name: column.tolist() for name, column in found.items()} == expected
    kinds = {name: column.dtype for name, column in found.items()}
    assert kinds.pop("target_has_vector") == np.dtype(bool)
    assert set(kinds.values()) == {np.dtype(np.int32)}


def test_columns_of_a_store_without_user_ids_and_vectors(small):
    store, test, train = small
    store.user_features, store.vector_inv_norm = {}, None
    found = store_columns(store, test, train, 6)
    assert found["user_train_samples"].tolist() == [0, 2, 1, 1, 1, 0, 0]
    assert "target_has_vector" not in found


def test_counting_in_pieces_does_not_show(small, monkeypatch):
    expected = store_columns(*small, history_length=6)
    monkeypatch.setattr(slices, "_COUNTED", 2)
    for name, column in store_columns(*small, history_length=6).items():
        assert column.tolist() == expected[name].tolist()


def test_columns_of_a_prepared_store_against_its_raw_ids(store):
    """The world gives some users two records, and shows items that training never saw."""
    test, train = store.split("test"), store.split("train")
    raw = [None, *pl.read_parquet(store.path / "vocab" / "user_id.parquet")["raw"]]
    user_of = [raw[row] for row in store.user_features["user_id"]]
    records = {}
    for record, user in enumerate(user_of):
        records.setdefault(user, []).append(record)
    assert max(len(own) for user, own in records.items() if user is not None) == 2
    found = store_columns(store, test, train, 60)
    for i in range(len(test)):
        user, item = user_of[test.user[i]], test.item[i]
        own = [test.user[i]] if user is None else records[user]
        samples = sum((train.user == record).sum() for record in own) if test.user[i] else 0
        assert found["user_train_samples"][i] == samples
        assert found["target_train_samples"][i] == ((train.item == item).sum() if item else 0)
        assert found["target_has_vector"][i] == bool(np.any(store.vectors[item]) and item)
        assert found["history_length"][i] == min(test.history_end[i], 60)
    for name in ("user_train_samples", "target_train_samples"):
        assert 0 < (found[name] == 0).mean() < 1
    assert (found["history_length"] == 60).any()


def picks(batch, k, seed):
    """Random picks of what each sample sees, in any order, with similarities of some."""
    random = np.random.default_rng(seed)
    index = np.zeros((len(batch), k), dtype=np.int64)
    mask = np.zeros((len(batch), k), dtype=bool)
    for i in range(len(batch)):
        base = int(batch.history_offsets_U[batch.user_B[i]])
        seen = np.arange(base + int(batch.history_begin_B[i]), base + int(batch.history_end_B[i]))
        taken = random.permutation(seen)[: random.integers(0, k + 1)]
        places = np.sort(random.permutation(k)[: len(taken)])
        index[i, places], mask[i, places] = taken, True
    similarity = random.uniform(-1, 1, index.shape).astype(np.float32)
    known = random.random(index.shape) < 0.4
    return Retrieved(*map(torch.from_numpy, (index, mask, similarity, known)))


@pytest.mark.parametrize("k", [1, 5, 12])
def test_columns_of_a_search(batch, k):
    retrieved = picks(batch, k, seed=k)
    found = search_columns(batch, retrieved)
    assert list(found) == ["retrieved", "best_similarity", "mean_similarity", "median_age"]
    for i in range(len(batch)):
        chosen = np.flatnonzero(retrieved.mask_BK[i])
        assert found["retrieved"][i] == len(chosen)
        end = int(batch.history_offsets_U[batch.user_B[i]] + batch.history_end_B[i])
        ages = [end - int(retrieved.index_BK[i, j]) for j in chosen]
        known = [float(retrieved.similarity_BK[i, j]) for j in chosen if retrieved.known_BK[i, j]]
        expected = {
            "median_age": np.median(ages) if ages else np.nan,
            "best_similarity": max(known) if known else np.nan,
            "mean_similarity": np.mean(known) if known else np.nan,
        }
        for name, value in expected.items():
            assert found[name][i] == pytest.approx(value, rel=1e-6, nan_ok=True), (name, i)
    assert found["retrieved"].dtype == np.int32
    assert {found[name].dtype for name in list(found)[1:]} == {np.dtype(np.float32)}
    # Every case came up.
    assert np.isnan(found["median_age"]).any()
    assert (np.isnan(found["best_similarity"]) & (found["retrieved"] > 0)).any()


def test_the_latest_event_has_age_1(batch):
    index = batch.history_offsets_U[batch.user_B] + batch.history_end_B - 1
    seen = batch.history_end_B > batch.history_begin_B
    retrieved = Retrieved(index.clamp(min=0)[:, None], seen[:, None])
    found = search_columns(batch, retrieved)
    assert list(found) == ["retrieved", "median_age"], "no similarities, so no columns of them"
    assert (found["median_age"][seen] == 1).all()


def test_similarities_without_known_are_all_known(batch):
    given = picks(batch, 5, seed=0)
    found = search_columns(batch, Retrieved(given.index_BK, given.mask_BK, given.similarity_BK))
    every = Retrieved(given.index_BK, given.mask_BK, given.similarity_BK, given.mask_BK)
    np.testing.assert_array_equal(
        found["best_similarity"], search_columns(batch, every)["best_similarity"]
    )
    assert (np.isnan(found["best_similarity"]) == (found["retrieved"] == 0)).all()


def test_an_idle_process_has_the_same_columns(store, batch):
    empty = BatchBuilder(store, store.split("test"), 60).build(np.zeros(0, dtype=np.int64), 10)
    found = search_columns(empty, picks(empty, 5, seed=0))
    expected = search_columns(batch, picks(batch, 5, seed=0))
    assert list(found) == list(expected)
    for name, column in found.items():
        assert column.shape == (0,)
        assert column.dtype == expected[name].dtype


@pytest.mark.parametrize("rank", range(3))
def test_what_is_noted_stays_with_its_sample(rank, store, process):
    """The part of one of three processes, which in the last step has no sample."""
    split = store.split("test").part(0, 91)
    options = {"batch_size": 30, "history_length": 60, "shard": Shard(rank, 3)}
    # In another order than the split's.
    loader = Loader(store, split, seed=1, **options)
    read = []

    class Model(torch.nn.Module):
        def forward(self, batch, trace=None):
            read.append(batch.sample_B)
            if trace is not None:
                trace.parts["twice"] = 2.0 * batch.sample_B
            return batch.sample_B / 91.0

    def look(batch, trace):
        return {"twice": trace.parts["twice"].numpy(), "half": batch.sample_B.numpy() / 2}

    found = predict(Model(), loader, process, look=look)
    assert [len(samples) for samples in read] == [30, 1 if rank == 2 else 0]
    assert torch.cat(read).tolist() != sorted(torch.cat(read).tolist()) == found["sample"].tolist()
    assert list(found) == ["sample", "user", "item", "label", "score", "twice", "half"]
    np.testing.assert_array_equal(found["twice"], 2 * found["sample"])
    np.testing.assert_array_equal(found["half"], found["sample"] / 2)
    np.testing.assert_array_equal(found["label"], split.label[found["sample"]])
    plain = predict(Model(), loader, process)
    assert list(plain) == ["sample", "user", "item", "label", "score"]


@pytest.mark.parametrize("gsu", ["recent", "none"])
def test_an_evaluation_writes_slice_columns(gsu, config, store, process, tmp_path):
    config.run = str(tmp_path / "run")
    config.data.batch_size = 100
    config.trainer.max_steps = 1
    config.trainer.progress = False
    config.model.hidden = [8]
    config.model.gsu = gsu
    # Nothing of this model needs similarities, so that the evaluation has to ask for them.
    config.model.simtier = "none"
    config.model.retrieved_attention = ["target"]
    config.model.means = ["recent"] if gsu == "none" else ["recent", "retrieved"]
    run(config, process)
    folder = RunFolder(config.run_path)
    run_evaluation(folder, config, EvaluateConfig(progress=False), process)
    found = pl.read_parquet(folder.predictions("test"))
    of_search = SLICE_COLUMNS[4:] if gsu != "none" else ()
    assert set(found.columns[5:]) == {*SLICE_COLUMNS[:4], *of_search}
    assert json.loads(folder.evaluation("test").read_text())["samples"] == len(found)
    assert found["sample"].to_list() == list(range(len(store.split("test"))))
    if gsu == "none":
        return
    known = store.vector_inv_norm[found["item"].to_numpy()] > 0
    assert found["best_similarity"].null_count() > 0
    assert found.filter(~known)["best_similarity"].null_count() == (~known).sum()
    assert found["best_similarity"].is_nan().sum() == 0
    if gsu == "recent":
        length = found["history_length"].to_numpy()
        assert found["retrieved"].to_list() == np.minimum(length, 12).tolist()
        expected = [None if n == 0 else (min(n, 12) + 1) / 2 for n in length.tolist()]
        assert found["median_age"].to_list() == expected


def test_a_split_without_labels_is_refused_before_the_model_is_built(
    store, config, process, tmp_path, monkeypatch
):
    spec = store.schema.splits["test"]
    monkeypatch.setattr("ctr.schema.SplitSpec.labelled", property(lambda given: given != spec))
    monkeypatch.setattr(RunFolder, "check_store", lambda *_, **__: None)
    with pytest.raises(StoreError, match=r"split 'test' has no labels.*predict"):
        run_evaluation(RunFolder(tmp_path), config, EvaluateConfig(), process)


def test_missing_values_are_empty_cells(tmp_path):
    columns = {"score": np.array([0.5, 0.25], np.float32), "x": np.array([np.nan, 1], np.float32)}
    write_predictions(tmp_path / "p.parquet", {**columns, "known": np.array([True, False])})
    found = pl.read_parquet(tmp_path / "p.parquet")
    assert found["x"].to_list() == [None, 1.0]
    assert found["known"].to_list() == [True, False]
    assert [path.name for path in tmp_path.iterdir()] == ["p.parquet"]


def test_slices_that_a_command_line_asks_for():
    there = ("sample", "label", "retrieved", "history_length", "mine")
    assert wanted_slices(["mine", "label", "mine"], there, "f") == ("mine", "label")
    assert wanted_slices(["all"], there, "f") == ("history_length", "retrieved")
    assert wanted_slices(["mine", "all", "retrieved"], there, "f") == (
        *("history_length", "retrieved"),
        *("mine",),
    )
    with pytest.raises(PredictionError, match=r"f: has no slice column; ctr/evaluate.py writes"):
        wanted_slices(["all"], ("sample", "label"), "f")
