"""Folders of runs as training, evaluation and the search report leave them."""

import json

import numpy as np
import polars as pl
import pytest

CONFIG = """data:
  store: stores/world
  history_length: 100
model:
  gsu: {gsu}
  retrieved: 50
trainer:
  lr: 0.001
run: {run}
resume: 'false'
seed: 1
"""
SUMMARY = {"steps": 40, "samples": 4000, "seconds": 2.5, "samples_per_s": 1600.0}


def predictions(gain, gsu, rows=1600, users=160):
    """Predictions of a model that knows a part of what makes users click; user 0 is unknown."""
    random = np.random.default_rng(0)
    user = random.integers(0, users, rows)
    known, hidden = random.normal(size=(2, rows))
    label = (random.random(rows) < 1 / (1 + np.exp(1 - known - hidden))).astype(np.uint8)
    score = 1 / (1 + np.exp(1 - known - gain * hidden))
    found = random.random(rows) < 0.9
    made = {
        "sample": np.arange(rows),
        "user": user.astype(np.int32),
        "item": random.integers(1, 300, rows).astype(np.int32),
        "label": label,
        "score": score.astype(np.float32),
        "history_length": random.integers(0, 100, rows).astype(np.int32),
        "target_train_samples": random.poisson(3, rows).astype(np.int32),
        "target_has_vector": random.random(rows) < 0.8,
        "user_train_samples": np.full(rows, 7, dtype=np.int32),
    }
    frame = pl.DataFrame(made)
    if gsu == "none":
        return frame
    best = pl.Series("best_similarity", random.random(rows).astype(np.float32))
    return frame.with_columns(pl.when(pl.Series(found)).then(best).alias("best_similarity"))


def log(gain):
    """Rows of metrics.jsonl; the last line was cut short by a kill."""
    rows = [
        {"kind": "train", "step": step, "epoch": 1, "samples": 100 * step}
        | {"loss": 0.5 + 1 / step - 0.1 * gain, "samples_per_s": 1600.0 + step}
        for step in range(1, 41)
    ]
    rows[6]["loss"] = None
    rows.append({"kind": "spike", "step": 9, "loss": 2.0})
    # `samples` of a validation are those of its split.
    valid = {"samples": 77, "auc": 0.6 + 0.1 * gain, "gauc": 0.6, "log_loss": 0.5}
    rows += [{"kind": "valid", "step": step, **valid} for step in (20, 40)]
    rows.append({"kind": "summary", "step": 40, **SUMMARY})
    return "".join(json.dumps(row) + "\n" for row in rows) + '{"kind": "tra'


SEARCH = {
    "split": "test",
    "samples": 1600,
    "gsu": "cosine",
    "k": 50,
    "fewer_than_k": 0.125,
    "similarity": {"edges": [-1.0, 0.0, 0.5, 1.0], "counts": [0, 700, 300]},
    "age": {"edges": [1, 2, 4, 8, 16, 32, 64], "counts": [1, 2, 4, 8, 16, 32]},
    "overlap": {"category": 0.31, "recent": None},
    "attention_recall": {"recall": 0.74, "k": 50, "samples": 512},
}


@pytest.fixture(scope="session")
def make_run():
    """Writes the folder of a run that was evaluated: (path, gain, gsu) -> path."""

    def make(path, gain=0.0, gsu="none", store="aa11"):
        path.mkdir(parents=True)
        (path / "config.yaml").write_text(CONFIG.format(gsu=gsu, run=json.dumps(str(path))))
        environment = {"commit": "abc", "versions": {"torch": "2.13.0"}, "store": "world"}
        (path / "environment.json").write_text(json.dumps(environment | {"store_digest": store}))
        (path / "metrics.jsonl").write_text(log(gain))
        predictions(gain, gsu).write_parquet(path / "predictions_test.parquet")
        if gsu != "none":
            (path / "gsu_test.json").write_text(json.dumps(SEARCH))
        return path

    return make


@pytest.fixture(scope="session")
def runs(tmp_path_factory, make_run):
    """Folders of a run without a search and of a better one with one."""
    root = tmp_path_factory.mktemp("runs")
    return [make_run(root / "din"), make_run(root / "muse", 0.7, "cosine")]
