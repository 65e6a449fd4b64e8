"""Trees for measuring: they are repeatable, prepared like any other, and of the published shape."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from datasets import microlens_world, synthetic_tree, taobao_mm, world
from datasets.snapshots import Options
from datasets.synthetic_tree import TreeSize, write_tree
from datasets.verify import verify


def test_a_small_tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = ["--out", str(tmp_path / "a"), "--users", "300", "--history-length", "120"]
    assert synthetic_tree.main(command) == 0
    for table in taobao_mm.TABLES:
        found = pq.read_schema(tmp_path / "a" / f"{table}.parquet")
        assert found.equals(taobao_mm.raw_schema(table))
    manifest = taobao_mm.prepare_tree(tmp_path / "a", tmp_path / "store", Options())
    assert verify(tmp_path / "store") == manifest
    # 300 train users, 89 test users of whom 8 are train users: some of them with one record.
    assert 1 + 300 + 89 - 8 <= manifest["histories"]["records"] < 1 + 300 + 89
    assert manifest["histories"]["max_length"] == 120
    assert manifest["histories"]["events"] / manifest["histories"]["records"] == pytest.approx(
        93, abs=5
    )
    assert manifest["splits"]["train"]["samples"] == 3300
    clicks = manifest["splits"]["train"]["positives"]
    assert clicks / 3300 == pytest.approx(0.137, abs=0.03)
    for name in ("train_samples_unknown_user", "events_outside_vocabulary"):
        assert manifest["counts"][name] > 0
    # Neither the row groups nor anything but the size and the seed is in the rows.
    monkeypatch.setattr("datasets.synthetic_tree._GROUP_EVENTS", 1000)
    write_tree(tmp_path / "b", TreeSize(300, 120))
    for table in taobao_mm.TABLES:
        first, second = (pq.read_table(tmp_path / side / f"{table}.parquet") for side in "ab")
        assert first.equals(second)


def test_popularity() -> None:
    """A seventh of the items has 90% of the events, as published."""
    items, _, lengths = synthetic_tree._histories(
        TreeSize(2000), np.arange(2000), np.zeros(2000, np.int64)
    )
    assert lengths.mean() == pytest.approx(773, rel=0.03)
    counts = np.sort(np.unique(items, return_counts=True)[1])[::-1]
    share = counts[: TreeSize(2000).items // 7].sum() / counts.sum()
    assert share == pytest.approx(0.9, abs=0.03)


def test_impossible_sizes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert synthetic_tree.main(["--out", str(tmp_path / "a"), "--users", "0"]) == 2
    assert "must be positive" in capsys.readouterr().err
    assert not (tmp_path / "a").exists()


def test_tables_that_are_there_stay(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Whether they are files or folders of shards; a made-up world does not write over them."""
    for table, name in (("train_samples", "train_samples.parquet"), ("item_features", None)):
        folder = tmp_path / table
        folder.mkdir()
        if name is None:
            (folder / table).mkdir()
        else:
            (folder / name).write_text("published")
        commands = (
            (synthetic_tree.main, ["--out", str(folder), "--users", "30"]),
            (world.main, ["--out", str(tmp_path / "store"), "--raw", str(folder)]),
        )
        for command, arguments in commands:
            assert command(arguments) == 2
            assert f"{folder / (name or table)}: already exists" in capsys.readouterr().err
        assert len(list(folder.iterdir())) == 1
    assert not (tmp_path / "store").exists()


def test_a_negative_seed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = ["--out", str(tmp_path / "a"), "--seed", "-1"]
    assert synthetic_tree.main([*out, "--users", "30"]) == 2
    assert "seed -1" in capsys.readouterr().err
    for command in (world.main, microlens_world.main):
        assert command(out) == 2
        assert "seed -1" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
