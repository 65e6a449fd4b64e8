"""Scores of splits and of files of raw ids: the right ones, in order, whatever interrupts them."""

import json
import logging
import os
import shutil
import socket
import subprocess
import sys

import numpy as np
import polars as pl
import pyarrow.parquet as pq
import pytest
import torch

import ctr.predict
import ctr.train
from ctr.config import ConfigError, RunConfig
from ctr.data.raw_file import SamplesError
from ctr.data.store import Store
from ctr.distributed import process_group
from ctr.evaluate import EvaluateConfig, run_evaluation
from ctr.inference import reading_config
from ctr.predict import PredictConfig, run_prediction
from ctr.run_folder import RunFolder
from ctr.schema import StoreError
from ctr.score_parts import ScoresError


@pytest.fixture(scope="module")
def world(tiny_store, tmp_path_factory):
    """The tiny world, its samples with a feature, and its test split a second time, unlabelled."""
    path = shutil.copytree(tiny_store, tmp_path_factory.mktemp("store") / "world")
    manifest = json.loads((path / "manifest.json").read_text())
    del manifest["checksum"]
    samples, users = (manifest["splits"]["test"][key] for key in ("samples", "users"))
    shutil.copytree(path / "splits/test", path / "splits/later")
    (path / "splits/later/label.npy").unlink()
    np.save(path / "splits/later/source_row.npy", np.arange(samples)[::-1])
    later = {"samples": samples, "users": users, "labelled": False, "source_rows": True}
    manifest["splits"]["later"] = later
    manifest["features"]["sample"] = [{"name": "likes", "table": "shop"}]
    for name, split in manifest["splits"].items():
        rows = np.arange(split["samples"], dtype=np.int32) % 50
        np.save(path / f"splits/{name}/feature_likes.npy", rows)
    (path / "manifest.json").write_text(json.dumps(manifest))
    return path


@pytest.fixture(scope="module")
def process():
    with process_group("cpu") as process:
        # The tensors are small.
        torch.set_num_threads(1)
        yield process


@pytest.fixture(scope="module")
def run(world, process, tmp_path_factory):
    """A run of two steps with a checkpoint after each, trained well enough to tell rows apart."""
    config = RunConfig()
    config.run = str(tmp_path_factory.mktemp("runs") / "run")
    config.data.store, config.data.batch_size, config.data.history_length = str(world), 50, 60
    config.model.gsu, config.model.simtier = "none", "none"
    config.model.recent_length, config.model.hidden = 30, [16]
    config.trainer.max_steps, config.trainer.checkpoint_every = 2, 1
    config.trainer.lr, config.trainer.progress = 0.05, False
    ctr.train.run(config, process)
    return RunFolder(config.run_path)


@pytest.fixture(scope="module")
def load_model():
    """Loads each checkpoint once, which is half of what a small prediction takes."""
    loaded = {}

    def load(taken, *rest):
        if taken.path not in loaded:
            loaded[taken.path] = ctr.inference.load_model(taken, *rest)
        return loaded[taken.path]

    return load


@pytest.fixture
def score(run, process, tmp_path, load_model, monkeypatch):
    """Scores `samples` and returns the table that comes of it."""

    def start(samples, folder=run, **options):
        options = {"out": str(tmp_path / "scores.parquet"), "progress": False, **options}
        wanted = PredictConfig(samples=str(samples), **options)
        config = reading_config(folder, None, wanted.batch_size, "cpu")
        wanted.validate()
        return pq.read_table(run_prediction(folder, config, wanted, process))

    monkeypatch.setattr(ctr.predict, "load_model", load_model)
    return start


@pytest.fixture(scope="module")
def test_scores(run, process):
    """What ctr/evaluate.py writes of the test split."""
    config = reading_config(run, None, None, "cpu")
    run_evaluation(run, config, EvaluateConfig(progress=False), process)
    return pq.read_table(run.predictions("test"))


@pytest.fixture(scope="module")
def raw(world, test_scores):
    """The test samples whose user can be found by raw id, as a file would have them, in an order
    of its own and some of them twice; `expected` is the score of each."""
    store = Store(world)
    split = store.split("test")
    ids = {t: pl.read_parquet(world / f"vocab/{t}.parquet")["raw"] for t in ("user_id", "item")}
    shops = pl.read_parquet(world / "vocab/shop.parquet")["raw"]
    user = store.user_features["user_id"][split.user]
    found = np.flatnonzero((user > 0) & (split.item > 0) & (split.user > 0))
    assert len(found) > 20
    rows = np.random.default_rng(0).permutation(np.concatenate([found, found[::3]]))
    likes = split.features["likes"][rows]
    return pl.DataFrame(
        {
            "request": [f"r{place}" for place in range(len(rows))],
            "user": ids["user_id"].gather(user[rows] - 1),
            "item": ids["item"].gather(split.item[rows] - 1),
            "likes": [shops[int(row) - 1] if row else None for row in likes],
            "seen": split.history_end[rows],
            "list": [[1, 2], None] * (len(rows) // 2) + [[3]] * (len(rows) % 2),
            "expected": test_scores["score"].to_numpy()[rows],
        }
    )


@pytest.fixture
def file(raw, tmp_path):
    raw.write_parquet(tmp_path / "samples.parquet", row_group_size=17)
    return tmp_path / "samples.parquet"


COLUMNS = {"sample_columns": {"likes": "likes"}, "history_end_column": "seen"}


@pytest.mark.parametrize("part_rows", [1_000_000, 100])
def test_a_split_gets_the_scores_of_its_evaluation_to_the_last_bit(score, test_scores, part_rows):
    """Where a part is a whole number of steps, here of 50 samples."""
    found = score("test", part_rows=part_rows)
    for column in ("sample", "user", "item", "label", "score"):
        assert found[column].to_numpy().tolist() == test_scores[column].to_numpy().tolist()
    assert len(np.unique(found["score"].to_numpy())) > 100


def test_a_split_in_any_parts(score, test_scores):
    found = score("test", part_rows=131, batch_size=90)
    np.testing.assert_allclose(found["score"], test_scores["score"], rtol=0, atol=1e-6)


def test_a_split_without_labels(score, test_scores):
    found = score("later")
    assert found["score"].to_pylist() == test_scores["score"].to_pylist()
    assert found["source_row"].to_pylist() == [*range(len(found))][::-1]
    assert found.column_names == ["sample", "user", "item", "source_row", "score"]


@pytest.mark.parametrize("key", ["train_split", "valid_split", "test_split"])
def test_nothing_is_learnt_or_measured_without_labels(run, key, process, tmp_path):
    def start():
        if key == "test_split":
            return run_evaluation(run, config, EvaluateConfig(), process)
        return ctr.train.run(config, process)

    config = reading_config(run, None, None, "cpu")
    config.run = str(tmp_path / "run")
    setattr(config.data, key, "later")
    with pytest.raises(StoreError, match=r"split 'later' has no labels .*samples=later"):
        start()
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("part_rows", [1_000_000, 13])
def test_a_file_keeps_its_order_and_columns(score, file, raw, part_rows):
    found = pl.DataFrame(score(file, part_rows=part_rows, **COLUMNS))
    assert found.drop("score").equals(raw)
    np.testing.assert_allclose(found["score"], raw["expected"], rtol=0, atol=1e-6)
    assert raw["expected"].n_unique() > 20
    assert not (file.parent / "scores.parquet.parts").exists()


def test_scores_go_to_the_run_if_nothing_else_is_said(score, file, run):
    found = score(file, out=None, score_column="p", **COLUMNS)
    assert run.scores("samples").is_file()
    assert found.column_names[-1] == "p"


def test_a_file_without_rows(score, tmp_path, raw):
    raw.head(0).write_parquet(tmp_path / "none.parquet")
    found = score(tmp_path / "none.parquet", **COLUMNS)
    assert found.schema.names == [*raw.columns, "score"]
    assert len(found) == 0


def test_strangers_are_scored_and_counted(score, raw, world, test_scores, tmp_path, caplog):
    few = raw.head(4).with_columns(
        user=pl.Series([raw["user"][0], -5, -5, -6]),
        item=pl.Series([-7, raw["item"][1], -7, raw["item"][1]]),
        seen=pl.Series([raw["seen"][0], 9, 0, 9]),
    )
    few.write_parquet(tmp_path / "few.parquet")
    with caplog.at_level(logging.WARNING):
        found = score(tmp_path / "few.parquet", part_rows=3, **COLUMNS)["score"].to_pylist()
    assert "3 of 4 samples: user outside the vocabulary" in caplog.text
    assert "2 of 4 samples: item outside the vocabulary" in caplog.text
    assert "likes" not in caplog.text
    split = Store(world).split("test")
    strange = few.with_columns(likes=raw["likes"][0])
    strange.write_parquet(tmp_path / "same.parquet")
    same = score(tmp_path / "same.parquet", **COLUMNS)["score"].to_pylist()
    assert same[1] == pytest.approx(same[3], abs=1e-6), "two unknown users differ"
    assert len({round(value, 7) for value in [same[0], same[1], same[2]]}) == 3
    # As the samples of a split whose user or item was unknown when it was prepared.
    unknown = np.flatnonzero((split.user == 0) & (split.item > 0))[0]
    shops = pl.read_parquet(world / "vocab/shop.parquet")["raw"]
    items = pl.read_parquet(world / "vocab/item.parquet")["raw"]
    likes = int(split.features["likes"][unknown])
    alone = few.head(1).with_columns(
        user=pl.Series([-1]),
        item=pl.Series([items[int(split.item[unknown]) - 1]]),
        likes=pl.Series([shops[likes - 1] if likes else None], dtype=shops.dtype),
    )
    alone.write_parquet(tmp_path / "alone.parquet")
    (value,) = score(tmp_path / "alone.parquet", **COLUMNS)["score"].to_pylist()
    assert value == pytest.approx(test_scores["score"][unknown].as_py(), abs=1e-6)
    assert len(found) == 4


@pytest.fixture
def stop_after(monkeypatch):
    """Lets so many parts be scored and raises at the next; returns how many were begun."""

    def install(parts):
        begun = []
        original = ctr.inference.predict

        def counted(*arguments):
            begun.append(1)
            if parts is not None and len(begun) > parts:
                raise KeyboardInterrupt
            return original(*arguments)

        monkeypatch.setattr(ctr.predict, "predict", counted)
        return begun

    return install


def test_goes_on_where_it_was_stopped(score, file, stop_after):
    expected = score(file, part_rows=10, **COLUMNS)
    out = file.parent / "scores.parquet"
    out.unlink()
    stop_after(2)
    with pytest.raises(KeyboardInterrupt):
        score(file, part_rows=10, **COLUMNS)
    assert not out.exists()
    left = sorted(path.name for path in (file.parent / "scores.parquet.parts").iterdir())
    assert left == [f"part-{n:06d}.{kind}" for n in (0, 1) for kind in ("json", "npy")]
    begun = stop_after(None)
    found = score(file, part_rows=10, **COLUMNS)
    assert found.equals(expected)
    assert len(begun) == -(-len(expected) // 10) - 2
    assert not (file.parent / "scores.parquet.parts").exists()


def left_behind(score, file, stop_after, parts=2, **options):
    """Stop after some parts, and forget the stop."""
    stop_after(parts)
    with pytest.raises(KeyboardInterrupt):
        score(file, **{"part_rows": 10, **COLUMNS, **options})
    stop_after(None)


def test_parts_of_another_checkpoint_are_not_used(
    score, file, raw, stop_after, run, tmp_path, caplog
):
    copy = RunFolder(shutil.copytree(run.path, tmp_path / "copy"))
    left_behind(score, file, stop_after, folder=copy)
    shutil.rmtree(max(copy.checkpoints.iterdir()))
    begun = stop_after(None)
    found = score(file, part_rows=10, folder=copy, **COLUMNS)
    assert "2 parts are of another checkpoint; they are scored again" in caplog.text
    assert len(begun) == -(-len(found) // 10)
    assert abs(found["score"].to_numpy() - raw["expected"].to_numpy()).max() > 1e-3
    assert found.equals(score(file, part_rows=10, folder=copy, **COLUMNS))


@pytest.mark.parametrize("what", ["samples", "part_rows"])
def test_parts_of_another_request_are_not_used(score, file, raw, stop_after, what, caplog):
    left_behind(score, file, stop_after)
    if what == "samples":
        raw[::-1].write_parquet(file)
    options = {"part_rows": 20 if what == "part_rows" else 10, **COLUMNS}
    found = score(file, **options)["score"].to_pylist()
    assert f"2 parts are of another {what}" in caplog.text
    expected = raw["expected"][::-1] if what == "samples" else raw["expected"]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)


def test_a_damaged_part_is_scored_again(score, file, raw, stop_after, caplog):
    left_behind(score, file, stop_after, parts=5, part_rows=5)
    parts = file.parent / "scores.parquet.parts"
    array = np.load(parts / "part-000001.npy")
    array[3] += 0.25
    np.save(parts / "part-000001.npy", array)
    seal = parts / "part-000002.json"
    seal.write_text(seal.read_text().replace('"user": 0', '"user": 1'))
    for kind in ("npy", "json"):
        shutil.copy(parts / f"part-000000.{kind}", parts / f"part-000003.{kind}")
    (parts / "part-000004.npy").unlink()
    begun = stop_after(None)
    found = score(file, part_rows=5, **COLUMNS)["score"].to_pylist()
    assert "4 parts are damaged; they are scored again" in caplog.text
    assert len(begun) == -(-len(raw) // 5) - 1
    np.testing.assert_allclose(found, raw["expected"], rtol=0, atol=1e-6)


def test_a_score_that_is_no_number_is_named(score, file, monkeypatch):
    def broken(*arguments):
        found = original(*arguments)
        found["score"][found["sample"] == 2] = np.nan
        return found

    original = ctr.inference.predict
    monkeypatch.setattr(ctr.predict, "predict", broken)
    with pytest.raises(ScoresError, match=r"row \d+ gets the score nan"):
        score(file, **COLUMNS)
    assert [path.name for path in file.parent.iterdir()] == ["samples.parquet"]


# What is given -> error and its message; the file is samples.parquet with the change made to it.
MISTAKES = {
    "no such split": ({"samples": "vald"}, None, StoreError, "no split 'vald'; it has: train"),
    "no such file": ({"samples": "x.parquet"}, None, SamplesError, "x.parquet: cannot be read"),
    "no such column": ({"user_column": "uid"}, None, SamplesError, "column 'uid' is not there"),
    "score is there": ({"score_column": "seen"}, None, ConfigError, "score_column=seen: samples"),
    "no such feature": (
        {"sample_columns": {"like": "likes"}},
        None,
        SamplesError,
        r"sample_columns\.like: .* \(it has: likes\)",
    ),
    "checkpoint": ({"checkpoint": "first"}, None, ConfigError, "checkpoint=first: set one of"),
    "no rows a part": ({"part_rows": 0}, None, ConfigError, "part_rows=0: set at least 1"),
    "out is a folder": ({"out": "."}, None, ConfigError, r"out=\.: is a folder"),
    "out in no folder": ({"out": "a/b.parquet"}, None, ConfigError, "no such folder; make it"),
    "out is the input": ({"out": "samples.parquet"}, None, ConfigError, "is samples=; set"),
    "an id of text": (
        {},
        {"user": pl.col("request")},
        SamplesError,
        "column 'user', row 0: 'r0', of type .*string; ids of table 'user_id' are integers",
    ),
    "an id of floats": (
        {},
        {"item": pl.col("item").cast(pl.Float64)},
        SamplesError,
        "column 'item', row 0: .*of type double; ids of table 'item' are integers",
    ),
    "an empty id": (
        {},
        {"user": pl.when(pl.col("request") == "r30").then(None).otherwise(pl.col("user"))},
        SamplesError,
        "column 'user', row 30: empty",
    ),
    "too much history": (
        {},
        {"seen": pl.when(pl.col("request") == "r31").then(10**9).otherwise(pl.col("seen"))},
        SamplesError,
        r"column 'seen', row 31: 1000000000; its user has \d+ events",
    ),
    "an id too large": (
        {},
        {"item": pl.lit(2**63, dtype=pl.UInt64)},
        SamplesError,
        "column 'item', row 0: 9223372036854775808; write numbers below",
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_named_and_leaves_nothing(score, file, raw, name, monkeypatch):
    options, change, error, message = MISTAKES[name]
    if change is not None:
        raw.with_columns(**change).write_parquet(file)
    monkeypatch.chdir(file.parent)
    # Parts before the one with the mistake would be kept.
    options = {"samples": "samples.parquet", "part_rows": 1000, **COLUMNS, **options}
    with pytest.raises(error, match=message):
        score(options.pop("samples"), **options)
    assert [path.name for path in file.parent.iterdir()] == ["samples.parquet"]


def test_a_file_that_is_cut_short(score, file):
    os.truncate(file, file.stat().st_size // 2)
    with pytest.raises(SamplesError, match=r"samples\.parquet: cannot be read as Parquet"):
        score(file, **COLUMNS)


def test_two_processes_score_as_one(run, file, raw, repository):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "ctr/predict.py", f"run={run.path}", f"samples={file}"]
    command += ["sample_columns={likes: likes}", "history_end_column=seen", "part_rows=33"]
    command += [f"out={file.parent / 'two.parquet'}", "device=cpu", "batch_size=8"]
    # As torchrun sets them; without it there is a process less to wait for.
    group = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "localhost"}
    environment = {**os.environ, **group, "MASTER_PORT": str(port), "PYTHONPATH": str(repository)}
    started = [
        subprocess.Popen(
            command,
            cwd=repository,
            env={**environment, "RANK": rank, "LOCAL_RANK": rank},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in ("0", "1")
    ]
    said = [process.communicate(timeout=280) for process in started]
    assert [process.returncode for process in started] == [0, 0], said[0][1][-4000:]
    assert [out for out, _ in said] == [f"{file.parent / 'two.parquet'}\n", ""]
    found = pl.read_parquet(file.parent / "two.parquet")
    assert found.drop("score").equals(raw)
    np.testing.assert_allclose(found["score"], raw["expected"], rtol=0, atol=1e-6)
