"""Explanations of single samples against the model asked in other ways."""

import re
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest
import torch

from ctr.data.loader import BatchBuilder
from ctr.data.store import Split
from ctr.model.trace import Trace
from ctr.schema import FeatureSpec
from tools.explain.__main__ import _parser, main
from tools.explain.choose import ExplainError, by_ids, by_number
from tools.explain.look import look
from tools.explain.show import Names, Titles
from tools.trained_run import opened_run

L = 60

# The command joins a process group of its own, so its tests come before those of an open run.


def told(capsys, trained, *arguments):
    main([f"run={trained.path}", "--device", "cpu", *map(str, arguments)])
    return capsys.readouterr().out


def failure(capsys, trained, *arguments):
    with pytest.raises(SystemExit) as stopped:
        main([str(trained.path), "--device", "cpu", *map(str, arguments)])
    error = capsys.readouterr().err
    assert stopped.value.code == 2
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    return error


def stored(trained, name):
    return np.load(trained.path.parent / "store" / f"{name}.npy")


def raw_ids(trained, table):
    """Raw id of each row, None for row 0."""
    return [
        None,
        *pl.read_parquet(trained.path.parent / "store" / "vocab" / f"{table}.parquet")["raw"],
    ]


def test_a_sample_by_its_number(trained, capsys, tmp_path):
    item, label = (stored(trained, f"splits/test/{name}")[-1] for name in ("item", "label"))
    number = len(stored(trained, "splits/test/item")) - 1
    raw = raw_ids(trained, "item")
    # The first title of an item stands; ids of text, which the store has as numbers.
    titles = pl.DataFrame({"id": [str(raw[item]), "7"], "name": ["Brazil", "Alien"]})
    titles.write_parquet(tmp_path / "titles.parquet")
    shown = told(
        *(capsys, trained, f"sample={number}", "top=4", "--titles", tmp_path / "titles.parquet"),
        *("--title-key", "id", "--title-column", "name"),
    )
    assert f"sample {number} of split 'test'" in shown
    assert f"target item {raw[item]} (Brazil), category " in shown
    assert f"label {label}, click probability 0." in shown
    lines = shown.splitlines()
    (begin,) = (
        i for i, line in enumerate(lines) if line.startswith("retrieved: picked by cosine, 4")
    )
    assert lines[begin].endswith("by falling retrieved.sa_ta")
    assert lines[begin + 1].split() == [
        *("age", "position", "item", "similarity", "retrieved.sa_ta", "recent.target"),
        *("category", "title"),
    ]
    rows = [line.split() for line in lines[begin + 2 : begin + 6]]
    record = stored(trained, "splits/test/user")[-1]
    base, history = (
        stored(trained, "users/history_offsets")[record],
        stored(trained, "users/history_item"),
    )
    end = stored(trained, "splits/test/history_end")[-1]
    for age, position, shown_item, *_ in rows:
        assert int(age) + int(position) == end
        assert shown_item == str(raw[history[base + int(position)]])
    weights = [float(row[4]) for row in rows]
    assert weights == sorted(weights, reverse=True)
    assert "An ablation: the changes do not add up" in shown
    assert re.search(r"^ +[+-]\d+\.\d{4}  retrieved\.simtier$", shown, re.MULTILINE)


def test_a_sample_by_raw_ids(trained, capsys):
    record, item = (stored(trained, f"splits/test/{name}") for name in ("user", "item"))
    users = stored(trained, "users/feature_user_id")[record]
    number = int(np.flatnonzero((users > 0) & (item > 0))[-1])
    user, target = (
        raw_ids(trained, "user_id")[users[number]],
        raw_ids(trained, "item")[item[number]],
    )
    shown = told(capsys, trained, f"user={user}", "--item", target)
    assert f"sample {number} of split 'test'" in shown
    assert f"user {user} (record {record[number]})" in shown


def test_a_user_without_a_row_is_explained_by_raw_id(trained, capsys):
    record = stored(trained, "splits/test/user")
    rows = stored(trained, "users/feature_user_id")[record]
    (number,) = np.flatnonzero((rows == 0) & (record > 0))[-1:]
    users = pl.read_parquet(trained.path.parent / "store" / "users" / "raw.parquet")["raw"]
    raw = users[int(record[number]) - 1]
    shown = told(capsys, trained, "--sample", int(number))
    assert f"user {raw} (record {record[number]})" in shown
    item = raw_ids(trained, "item")[stored(trained, "splits/test/item")[number]]
    shown = told(capsys, trained, "--user", raw, "--item", item)
    assert f"user {raw} (record {record[number]})" in shown


def test_what_cannot_be_explained(trained, capsys):
    users, items = raw_ids(trained, "user_id"), raw_ids(trained, "item")
    error = failure(capsys, trained, "--user", users[1], "--item", "12")
    assert "--item 12: not in the vocabulary of table 'item'" in error
    assert f"the first of its {len(items) - 1} items are {items[1]}, {items[2]}" in error
    error = failure(capsys, trained, "--user", "12", "--item", items[1])
    assert "--user 12: not in the store; the first of its users are" in error
    assert "--sample N explains a sample of split 'test' by its number" in error
    error = failure(capsys, trained, "--user", "Tom", "--item", items[1])
    assert "--user Tom: users are whole numbers" in error
    assert "not in the store" in failure(capsys, trained, "--user", 2**70, "--item", items[1])
    error = failure(capsys, trained, "--sample", "100000")
    assert f"split 'test' has samples 0 to {len(stored(trained, 'splits/test/item')) - 1}" in error
    for arguments in ((), ("--user", "1"), ("--user", "1", "--item", "2", "--sample", "3")):
        assert "give --user and --item, or --sample" in failure(capsys, trained, *arguments)
    error = failure(capsys, trained, "--sample", "1", "--titles", trained.config)
    assert f"--titles {trained.config}: no columns 'item' and 'title' can be read" in error


@pytest.fixture(scope="module")
def opened(trained):
    with opened_run(_parser().parse_args([str(trained.path), "--device", "cpu"])) as run:
        yield run


@torch.no_grad()
def traced(run, row):
    """A sample's batch, logit and trace, with the rows around it."""
    rows = np.arange(max(0, row - 3), min(len(run.split), row + 4))
    batch, trace = BatchBuilder(run.store, run.split, L).build(rows, len(rows)), Trace()
    return batch, run.network(batch, trace), trace, int(np.flatnonzero(rows == row)[0])


def of_a_target_without_a_vector(run):
    """A row with behaviours, none of which has a similarity."""
    bare = run.store.vector_inv_norm[run.split.item] == 0
    return int(np.flatnonzero(bare & (run.split.history_end > 0))[0])


@pytest.mark.parametrize("row", [0, -1, None])
def test_behaviours_are_those_that_the_model_looked_at(opened, row):
    row = of_a_target_without_a_vector(opened) if row is None else row % len(opened.split)
    found = look(opened, opened.split.part(row, row + 1), reference=10)
    batch, logit, trace, b = traced(opened, row)
    assert found.logit == pytest.approx(float(logit[b]), abs=1e-5)
    assert found.probability == pytest.approx(float(logit[b].sigmoid()), abs=1e-6)
    assert found.seen == min(int(opened.split.history_end[row]), L)
    end = int(batch.history_offsets_U[batch.user_B[b]] + batch.history_end_B[b])
    weight = {name: value[b] for name, value in trace.weights.items()}
    picks = trace.retrieved
    expected = {
        end - int(index): (float(similarity), float(w))
        for index, mask, similarity, w in zip(
            *(picks.index_BK[b], picks.mask_BK[b], picks.similarity_BK[b]),
            weight["retrieved.sa_ta"],
            strict=True,
        )
        if mask
    }
    retrieved, recent = found.sequences["retrieved"], found.sequences["recent"]
    assert {behaviour.age for behaviour in retrieved} == set(expected)
    for behaviour in retrieved:
        similarity, w = expected[behaviour.age]
        assert behaviour.similarity == pytest.approx(similarity, abs=1e-5)
        assert behaviour.weights["retrieved.sa_ta"] == pytest.approx(w, abs=1e-5)
    latest = min(found.seen, 10)
    assert sorted(behaviour.age for behaviour in recent) == list(range(1, latest + 1))
    assert sum(behaviour.weights["recent.target"] for behaviour in recent) == pytest.approx(
        1.0 if latest else 0.0, abs=1e-5
    )
    for behaviours, unit in ((retrieved, "retrieved.sa_ta"), (recent, "recent.target")):
        weights = [behaviour.weights[unit] for behaviour in behaviours]
        assert weights == sorted(weights, reverse=True)
        for behaviour in behaviours:
            assert unit in behaviour.weights
            assert ("recent.target" in behaviour.weights) == (behaviour.age <= 10)
            base = opened.store.history_offsets[opened.split.user[row]]
            assert behaviour.item == opened.store.history_item[0][base + behaviour.position]
            vectors = opened.store.vector_inv_norm[[behaviour.item, opened.split.item[row]]]
            assert (behaviour.similarity is not None) == bool((vectors > 0).all())


def test_changes_are_those_of_a_forward_pass_with_the_mean_in_place(opened):
    row = len(opened.split) - 1
    found = look(opened, opened.split.part(row, row + 1), reference=10**6)
    assert found.reference == len(opened.split)
    every = BatchBuilder(opened.store, opened.split, L).build(np.arange(len(opened.split)), 1)
    means, (_, logit, trace, b) = Trace(), traced(opened, row)
    with torch.no_grad():
        opened.network(every, means)
    assert list(found.changes) == list(trace.parts)
    for name, change in found.changes.items():
        seen = []

        def replaced(module, given, name=name, seen=seen):
            (x,) = given
            begin = 0
            for part, value in trace.parts.items():
                if part == name:
                    break
                begin += value.shape[1]
            width = trace.parts[name].shape[1]
            x = x.clone()
            x[b, begin : begin + width] = means.parts[name].mean(dim=0)
            seen.append(name)
            return (x,)

        hook = opened.network.head.register_forward_pre_hook(replaced)
        _, changed, _, _ = traced(opened, row)
        hook.remove()
        assert seen == [name]
        assert change == pytest.approx(float(changed[b] - logit[b]), abs=2e-5), name
    assert max(map(abs, found.changes.values())) > 1e-3


def test_a_pair_without_a_sample_is_made_up(opened):
    store, split = opened.store, opened.split
    users, items = (
        pl.read_parquet(store.path / "vocab" / f"{table}.parquet")["raw"]
        for table in ("user_id", "item")
    )
    rows = store.user_features["user_id"]
    # Users whose records are of training only, and users with samples in the split.
    for known in (False, True):
        row = next(
            r
            for r in range(1, len(users) + 1)
            if np.isin(split.user, np.flatnonzero(rows == r)).any() == known
        )
        records = np.flatnonzero(rows == row)
        shown = set(split.item[np.isin(split.user, records)].tolist())
        item = next(i for i in range(1, len(items) + 1) if i not in shown)
        chosen = by_ids(store, split, "test", str(users[row - 1]), str(items[item - 1]))
        assert chosen.label == "unknown"
        assert "made up, with all events of user record" in chosen.told
        (record,) = chosen.split.user
        assert record in records
        length = store.history_offsets[record + 1] - store.history_offsets[record]
        assert (chosen.split.item.tolist(), chosen.split.history_end.tolist()) == ([item], [length])
        assert look(opened, chosen.split, 10).seen == min(length, L)


@pytest.fixture
def several(tmp_path):
    """User 70 owns records 1 and 3 and was shown item 80 three times."""
    (tmp_path / "vocab").mkdir()
    kinds = {"raw": pl.Int64, "row": pl.Int32, "count": pl.Int64}
    ids = pl.DataFrame({"raw": [70, 80], "row": [1, 2], "count": [9, 1]}, schema=kinds)
    for table in ("user_id", "item"):
        ids.write_parquet(tmp_path / "vocab" / f"{table}.parquet")
    features = (FeatureSpec("user_id", "user_id"),)
    rows = {"user_id": 3, "item": 3}
    store = SimpleNamespace(
        path=tmp_path,
        schema=SimpleNamespace(
            name="small", user=features, sample=(), table_rows=rows, raw_users=False
        ),
        user_features={"user_id": np.array([0, 1, 0, 1])},
        history_offsets=np.array([0, 0, 2, 2, 7]),
    )
    split = Split(
        user=np.array([1, 1, 1, 3, 3], dtype=np.int32),
        item=np.array([2, 2, 1, 2, 1], dtype=np.int32),
        history_end=np.array([0, 1, 2, 4, 5]),
        label=np.array([0, 0, 0, 1, 0], dtype=np.uint8),
    )
    return store, split


def test_the_last_of_several_samples_is_taken_and_the_others_named(several):
    store, split = several
    chosen = by_ids(store, split, "test", "70", "80")
    assert chosen.told == (
        "sample 3 of split 'test', the last of 3 with this user and item (also 0, 1)"
    )
    assert (chosen.split.history_end.tolist(), chosen.label) == ([4], "1")
    assert by_number(split, "test", 2).split.item.tolist() == [1]
    with pytest.raises(ExplainError, match="samples 0 to 4"):
        by_number(split, "test", 5)


def test_users_that_a_store_cannot_find(several):
    store, split = several
    with pytest.raises(ExplainError, match=r"--user 80: not in the store; .* users are 70;"):
        by_ids(store, split, "test", "80", "70")
    store.schema.user = ()
    with pytest.raises(ExplainError, match=r"'small' has neither raw users .*--sample N"):
        by_ids(store, split, "test", "70", "80")


def test_titles_are_read_by_any_type_of_key(tmp_path):
    path = tmp_path / "t.parquet"
    pl.DataFrame({"item": [7, 8, 8], "title": ["seven", None, "eight"]}).write_parquet(path)
    assert Titles(path, "item", "title").of(["7", "8", "9"]) == {"7": "seven", "8": "eight"}
    with pytest.raises(ExplainError, match=r"t.parquet: no columns 'id' and 'title' can be read"):
        Titles(path, "id", "title").of(["7"])
    names = Names(SimpleNamespace(), Titles(path, "item", "title"))
    assert names.title(["9", "7"]) == ["-", "seven"]
