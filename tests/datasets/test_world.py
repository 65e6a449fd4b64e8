"""The synthetic world: it is repeatable, it takes the raw road, and what is planted is there."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from datasets import world
from datasets.verify import verify
from datasets.world_truth import WorldSize, raw_ids

SMALL = WorldSize(users=300, samples_per_user=12, history_length=400, items=4000, categories=20)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, dict[str, Any]]:
    """Store, raw folder and manifest of a small world."""
    folder = tmp_path_factory.mktemp("world")
    manifest = world.make_world(folder / "store", SMALL, raw=folder / "raw")
    return folder / "store", folder / "raw", manifest


def test_store(made: tuple[Path, Path, dict[str, Any]]) -> None:
    store, _, manifest = made
    assert verify(store) == manifest
    assert manifest["name"] == "world"
    assert manifest["histories"]["max_length"] == 400
    # 300 train users, 75 test users of whom 7 are train users, and the unknown user.
    assert 1 + 300 + 75 - 7 <= manifest["histories"]["records"] < 1 + 300 + 75
    positives = sum(split["positives"] for split in manifest["splits"].values())
    samples = sum(split["samples"] for split in manifest["splits"].values())
    assert positives / samples == pytest.approx(0.14, abs=0.025)
    for name in ("train_samples_unknown_user", "test_samples_unknown_item", "category_conflicts"):
        assert manifest["counts"][name] > 0
    assert manifest["vectors"]["items_with_vector"] < manifest["tables"]["item"]["rows"] - 1


def test_repeatable(made: tuple[Path, Path, dict[str, Any]], tmp_path: Path) -> None:
    again = world.make_world(tmp_path / "again", SMALL)
    assert again["files"] == made[2]["files"]
    assert [path.name for path in tmp_path.iterdir()] == ["again"]
    other = world.make_world(tmp_path / "other", WorldSize(**{**vars(SMALL), "seed": 1}))
    assert other["files"] != again["files"]


def auc(score: np.ndarray, label: np.ndarray) -> float:
    """Share of (positive, negative) pairs in the right order, ties counting half."""
    order = pl.Series(score).rank("average").to_numpy()
    positives = int(label.sum())
    negatives = len(label) - positives
    return float(
        (order[label == 1].sum() - positives * (positives + 1) / 2) / (positives * negatives)
    )


def test_old_similar_behaviours_tell_most(
    made: tuple[Path, Path, dict[str, Any]], open_store: Callable[[Path], Any]
) -> None:
    """The closest 50 of the whole history order clicks better than the last 50 do, and better than
    the last 50 of the target's category."""
    store = open_store(made[0])
    offsets, rows = store["users/history_offsets"], store["users/history_item"]
    unit = store["items/vectors"].astype(np.float32) * store["items/vector_inv_norm"][:, None]
    category = store["items/feature_category"]
    names = ("user", "item", "history_end", "label")
    user, item, end, label = (store[f"splits/train/{name}"] for name in names)
    scores: dict[str, list[float]] = {"recent": [], "category": [], "closest": []}
    for u, i, e in zip(user, item, end, strict=True):
        history = rows[offsets[u] : offsets[u] + e]
        cosine = np.append(unit[history] @ unit[i], 0)
        same = np.append(category[history] == category[i], False)
        scores["recent"].append(np.sort(cosine[:-1][-50:])[-5:].sum())
        scores["category"].append(np.sort(cosine[same][-50:])[-5:].sum())
        scores["closest"].append(np.sort(cosine)[-50:].sum())
    found = {name: auc(np.array(values), label) for name, values in scores.items()}
    assert found["closest"] > found["category"] + 0.03
    assert found["closest"] > found["recent"] + 0.03
    assert found["closest"] > 0.65


def test_truth_explains_labels(made: tuple[Path, Path, dict[str, Any]]) -> None:
    truth = pl.read_parquet(made[1] / "truth_train.parquet")
    label, probability = truth["label"].to_numpy(), truth["probability"].to_numpy()
    assert probability.mean() == pytest.approx(label.mean(), abs=0.02)
    assert auc(probability, label) > 0.78
    assert auc(truth["lifelong_match"].to_numpy(), label) > 0.7


def test_test_targets_hold_cold_items(made: tuple[Path, Path, dict[str, Any]]) -> None:
    vocabulary = pl.read_parquet(made[0] / "vocab" / "item.parquet")
    targets = np.load(made[0] / "splits" / "test" / "item.npy")
    cold = vocabulary.filter(pl.col("count") == 0)["row"].to_numpy()
    assert 0.02 < np.isin(targets, cold).mean() < 0.5


def test_killed_preparation(tmp_path: Path) -> None:
    """SIGKILL while the store is being written: no store, and the next run cleans up."""
    out = tmp_path / "store"
    command = [sys.executable, "-m", "datasets.world", "--out", str(out), "--users", "2000"]
    with subprocess.Popen(command, cwd=Path(__file__).parents[2]) as process:
        until = time.monotonic() + 60
        while not list(tmp_path.glob("store.tmp-*/store/users/history_item.npy")):
            assert process.poll() is None, "the preparation ended too soon to be killed"
            assert time.monotonic() < until
            time.sleep(0.002)
        process.kill()
    assert not out.exists()
    assert len(list(tmp_path.iterdir())) == 2
    manifest = world.make_world(out, SMALL)
    assert verify(out) == manifest
    assert [path.name for path in tmp_path.iterdir()] == ["store"]


def test_raw_ids_are_distinct_and_of_both_signs() -> None:
    ids = np.concatenate([raw_ids(kind, 1000) for kind in (1, 2)])
    assert len(np.unique(ids)) == 2000
    assert (ids < 0).any()
    assert (ids > 0).any()


def test_long_histories(tmp_path: Path) -> None:
    size = WorldSize(users=3, samples_per_user=4, history_length=20_000, items=2000, categories=5)
    manifest = world.make_world(tmp_path / "store", size)
    assert manifest["histories"]["max_length"] == 20_000
    assert manifest["tables"]["item"]["rows"] > 1000


@pytest.mark.parametrize(
    "arguments", [["--users", "0"], ["--items", "10"], ["--history-length", "0"]]
)
def test_impossible_sizes(
    tmp_path: Path, arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert world.main(["--out", str(tmp_path / "store"), *arguments]) == 2
    assert capsys.readouterr().err.startswith("error: ")
    assert list(tmp_path.iterdir()) == []
