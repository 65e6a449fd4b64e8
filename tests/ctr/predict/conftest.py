"""A run to score samples by, and a file of samples whose scores are known."""

import json
import shutil

import numpy as np
import polars as pl
import pyarrow.parquet as pq
import pytest
import torch

import ctr.predict
import ctr.train
from ctr.config import RunConfig
from ctr.data.store import Store
from ctr.distributed import process_group
from ctr.evaluate import EvaluateConfig, run_evaluation
from ctr.inference import reading_config
from ctr.predict import PredictConfig, run_prediction
from ctr.run_folder import RunFolder


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
