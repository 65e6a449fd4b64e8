"""Scores of splits and of files of raw ids: the right ones, in order, or a mistake named."""

import logging
import os

import numpy as np
import polars as pl
import pytest

import ctr.inference
import ctr.predict
import ctr.train
from ctr.config import ConfigError
from ctr.data.raw_file import SamplesError
from ctr.data.store import Store
from ctr.evaluate import EvaluateConfig, run_evaluation
from ctr.inference import reading_config
from ctr.schema import StoreError
from ctr.score_parts import ScoresError
from tests import starter

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
    assert "3 of 4 samples: user not in the store" in caplog.text
    assert "2 of 4 samples: item not in the store" in caplog.text
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
        "column 'user', row 0: 'r0', of type .*string; ids of users are integers",
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


def test_two_processes_score_as_one(run, file, raw):
    out = file.parent / "two.parquet"
    options = [f"run={run.path}", f"samples={file}", f"out={out}", "part_rows=33", "batch_size=8"]
    options += ["sample_columns={likes: likes}", "history_end_column=seen", "device=cpu"]
    done = starter.run(2, "ctr/predict.py", *options)
    assert done.codes == [0, 0], done.stderr[-4000:]
    assert done.outs == [f"{out}\n", ""]
    found = pl.read_parquet(out)
    assert found.drop("score").equals(raw)
    np.testing.assert_allclose(found["score"], raw["expected"], rtol=0, atol=1e-6)
