"""Whole stores from small random trees: as loops make them, and the same from every engine.

The pool is started once and also used to see what becomes of a worker that dies.
"""

from __future__ import annotations

import importlib.util
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pytest

from datasets import taobao_mm
from datasets.errors import DataError, data_error
from datasets.partitions.budget import Budget
from datasets.partitions.engine import ONE_THREAD, Engine, Inline, Pool, run_task
from datasets.partitions.engines import open_engine
from datasets.snapshots import Means, Options
from datasets.verify import verify
from tests.datasets.partitions.oracle import Columns, expected_store, random_tree


class Unending:
    """An engine that stays open when a preparation is done with it."""

    def __init__(self, engine: Engine) -> None:
        self.map = engine.map

    def __enter__(self) -> Unending:
        return self

    def __exit__(self, *_: object) -> None:
        pass


def means(engine: Engine, partitions: int | None = None) -> Means:
    return Means(Unending(engine), Budget(partitions=partitions))


def read_back(store: Any) -> dict[str, Any]:
    """A store as `expected_store` describes it."""
    tables = ("item", "user_id", *taobao_mm.PROFILE, *taobao_mm.ITEM_FEATURES)
    raw = {table: store.raw(table) for table in tables}

    def named(file: str, table: str) -> list[Any]:
        return [raw[table][row] for row in store[file]]

    users = [named(f"users/feature_{name}", name) for name in ("user_id", *taobao_mm.PROFILE)]
    records = list(zip(users[0], zip(*users[1:], strict=True), store.histories(), strict=True))
    features = [named(f"items/feature_{name}", name) for name in taobao_mm.ITEM_FEATURES]
    found: dict[str, Any] = {
        "vocabularies": {table: ids[1:] for table, ids in raw.items()},
        "records": [(user, list(profile), history) for user, profile, history in records[1:]],
        "features": [list(values) for values in zip(*features, strict=True)][1:],
        "raw_users": pl.read_parquet(store.path / "users/raw.parquet")["raw"].to_list(),
    }
    assert records[0] == (None, (None,) * len(taobao_mm.PROFILE), [])
    for split in taobao_mm.SPLITS:
        columns = [store[f"splits/{split}/{name}"] for name in ("user", "history_end")]
        items = named(f"splits/{split}/item", "item")
        labels = store[f"splits/{split}/label"].tolist()
        rows = zip(*(c.tolist() for c in columns), items, labels, strict=True)
        found[split] = list(rows)
    return found


@pytest.fixture
def trees(tmp_path: Path, write_tree: Callable[..., Path]) -> list[tuple[Path, Columns]]:
    """Random trees, on disk and as columns."""
    random = np.random.default_rng(5)
    sizes = [(12, 9, 40), (12, 9, 40), (40, 60, 300), (1, 1, 1)]
    trees = [random_tree(random, users=u, items=i, samples=s) for u, i, s in sizes]
    # No user at all is no reason to give up: all samples are then of the unknown one.
    trees.append(random_tree(random))
    trees[-1]["train_user_features"] = {word: [] for word in trees[-1]["train_user_features"]}
    return [(write_tree(tmp_path / f"raw-{k}", tree), tree) for k, tree in enumerate(trees)]


@pytest.mark.parametrize("options", [Options(), Options(3, 2)])
def test_as_loops_make_it(
    trees: list[tuple[Path, Columns]], tmp_path: Path, open_store: Any, options: Options
) -> None:
    for number, (folder, tree) in enumerate(trees):
        expected = expected_store(tree, options.min_frequency, options.user_min_frequency)
        for partitions in (1, 3):
            out = tmp_path / f"store-{number}-{partitions}"
            manifest = taobao_mm.prepare_tree(
                folder, out, options, means=means(Inline(), partitions)
            )
            assert verify(out) == manifest
            assert read_back(open_store(out)) == expected
            events = [item for _, _, history in expected["records"] for item in history]
            assert manifest["counts"]["events_outside_vocabulary"] == events.count(None)
            assert not (out / "scratch").exists()


def test_small_memory_leaves_no_trace(
    trees: list[tuple[Path, Columns]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = taobao_mm.prepare_tree(trees[2][0], tmp_path / "whole", Options())
    monkeypatch.setattr("datasets.partitions.budget._BYTES_A_ROW", 120_000_000)
    monkeypatch.setattr("datasets.partitions.budget._LEAST_ROWS", 1)
    monkeypatch.setattr("datasets.partitions.budget._MOST_BATCH", 2_000)
    small = taobao_mm.prepare_tree(trees[2][0], tmp_path / "small", Options())
    assert small == whole


def die(task: int) -> int:
    """A task whose process is killed, in the middle of others."""
    if task == 2:
        time.sleep(0.2)
        os.kill(os.getpid(), signal.SIGKILL)
    return task


def refuse(task: int) -> int:
    """A task that complains, the later the sooner."""
    if task:
        time.sleep(0.3 / task)
        raise data_error(f"task {task}", "Do something")
    return task


def cores(_: int) -> tuple[int, int, list[str | None]]:
    """What Arrow, polars, OpenMP and OpenBLAS may use in a worker."""
    others = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    return pa.cpu_count(), pl.thread_pool_size(), [os.environ.get(name) for name in others]


def test_the_pool(trees: list[tuple[Path, Columns]], tmp_path: Path) -> None:
    folder = trees[2][0]
    alone = taobao_mm.prepare_tree(folder, tmp_path / "alone", Options())
    with Pool(2) as pool:
        for partitions in (1, 3):
            out, chosen = tmp_path / f"pool-{partitions}", means(pool, partitions)
            assert taobao_mm.prepare_tree(folder, out, Options(), means=chosen) == alone
        assert pool.map("a step", cores, range(2)) == [(1, 1, ["1", "1"])] * 2
        with pytest.raises(DataError, match="task 1"):
            pool.map("a step", refuse, range(4))
        with pytest.raises(
            ChildProcessError, match=r"step 'a step', partition 2 of 5: .* killed by SIGKILL"
        ):
            pool.map("a step", die, range(5))


def test_a_failed_preparation_leaves_nothing(
    trees: list[tuple[Path, Columns]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise ChildProcessError("step 'records', partition 0 of 1: killed")

    monkeypatch.setattr("datasets.partitions.users.write_records", fail)
    with pytest.raises(ChildProcessError, match="records"):
        taobao_mm.prepare_tree(trees[0][0], tmp_path / "out" / "store", Options())
    assert list((tmp_path / "out").iterdir()) == []


def test_ray(trees: list[tuple[Path, Columns]], tmp_path: Path) -> None:
    if importlib.util.find_spec("ray") is None:
        pytest.skip("Ray is not installed: pip install 'lifelong-ctr[ray]'")
    folder = trees[2][0]
    alone = taobao_mm.prepare_tree(folder, tmp_path / "alone", Options())
    with open_engine("ray", 2) as engine:
        for partitions in (1, 3):
            out = tmp_path / f"ray-{partitions}"
            manifest = taobao_mm.prepare_tree(
                folder, out, Options(), means=means(engine, partitions)
            )
            assert manifest == alone
        assert engine.map("a step", cores, range(2)) == [(1, 1, ["1", "1"])] * 2
        with pytest.raises(DataError, match="task 1"):
            engine.map("a step", refuse, range(4))
        with pytest.raises(ChildProcessError, match="step 'a step', partition 2 of 5"):
            engine.map("a step", die, range(5))


def test_a_task_runs_on_one_core_and_keeps_no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    released = []

    class Memory:
        def release_unused(self) -> None:
            released.append(pa.cpu_count())

    before = pa.cpu_count()
    monkeypatch.setattr(pa, "default_memory_pool", Memory)
    try:
        pa.set_cpu_count(3)
        assert run_task(cores, 0)[0] == 1
        with pytest.raises(DataError, match="task 1"):
            run_task(refuse, 1)
    finally:
        pa.set_cpu_count(before)
    assert released == [1, 1]


@pytest.mark.parametrize("address", [None, "auto"])
def test_workers_of_ray_are_told_to_use_one_core(
    monkeypatch: pytest.MonkeyPatch, address: str | None
) -> None:
    told: dict[str, Any] = {}
    ray = SimpleNamespace(init=lambda **options: told.update(options), shutdown=lambda: None)
    monkeypatch.setitem(sys.modules, "ray", ray)
    with open_engine("ray", 2, address):
        assert told["runtime_env"] == {"env_vars": ONE_THREAD}
    assert told.get("address") == address


def test_a_url_from_a_cluster_needs_a_folder_that_all_see(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    command = ["--source", str(tmp_path), "--engine", "ray", "--address", "auto", "--out"]
    monkeypatch.delenv("TMPDIR", raising=False)
    assert taobao_mm.main([*command, "memory://bucket/store"]) == 2
    assert "key --address: --out memory://bucket/store on a cluster" in capsys.readouterr().err
    assert taobao_mm.main([*command, str(tmp_path / "out")]) == 2
    assert "Ray is not installed" in capsys.readouterr().err
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    assert taobao_mm.main([*command, "memory://bucket/store"]) == 2
    assert "Ray is not installed" in capsys.readouterr().err


def test_ray_that_is_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    command = ["--source", str(tmp_path), "--out", str(tmp_path / "out"), "--engine"]
    assert taobao_mm.main([*command, "ray"]) == 2
    assert "Ray is not installed. Install it with pip install" in capsys.readouterr().err
    assert taobao_mm.main([*command, "local", "--address", "auto"]) == 2
    assert "an address without Ray" in capsys.readouterr().err
