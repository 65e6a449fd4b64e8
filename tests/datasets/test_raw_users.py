"""The raw user of each record: what preparations write, increments keep and `verify` refuses."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from datasets import increment, microlens, taobao_mm
from datasets import raw_users as written
from datasets.errors import DataError
from datasets.partitions import user_steps
from datasets.snapshots import Options
from datasets.verify import verify
from tests.datasets.microlens_tables import tables, write_tables
from tests.datasets.stores import change_manifest, raw_users, reseal

FILE = "users/raw.parquet"


@pytest.fixture
def tree(tmp_path: Path, taobao_columns: Any, write_tree: Callable[..., Path]) -> Path:
    """User -14 is in the test split only; 12 has two records."""
    return write_tree(tmp_path / "raw", taobao_columns)


@pytest.fixture
def store(tree: Path, tmp_path: Path) -> Path:
    taobao_mm.prepare_tree(tree, tmp_path / "store", Options())
    return tmp_path / "store"


def test_of_a_tree(store: Path, open_store: Any) -> None:
    assert raw_users(store) == [11, 12, 13, 12, -14]
    assert open_store(store)["users/feature_user_id"][-1] == 0


def test_a_user_below_the_threshold_is_there(tree: Path, tmp_path: Path) -> None:
    taobao_mm.prepare_tree(tree, tmp_path / "rare", Options(user_min_frequency=9))
    assert raw_users(tmp_path / "rare") == [11, 12, 13, 12, -14]
    verify(tmp_path / "rare")


def test_groups_of_rows(tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (written, user_steps):
        monkeypatch.setattr(module, "VOCABULARY_ROWS", 2)
    taobao_mm.prepare_tree(tree, tmp_path / "store", Options())
    assert raw_users(tmp_path / "store") == [11, 12, 13, 12, -14]


@pytest.mark.parametrize("with_user_id", [False, True])
def test_of_microlens(tmp_path: Path, with_user_id: bool) -> None:
    source = write_tables(tmp_path / "raw", tables())
    microlens.prepare(source, tmp_path / "store", with_user_id=with_user_id)
    verify(tmp_path / "store")
    assert raw_users(tmp_path / "store") == [5, 6, 7, 7]


def test_an_increment_of_a_tree(store: Path, tree: Path, tmp_path: Path) -> None:
    """Nothing is new but -14, who has no row and so gets another record."""
    arguments = ["--store", store, "--source", tree, "--out", tmp_path / "out"]
    assert increment.main([str(argument) for argument in arguments]) == 0
    verify(tmp_path / "out")
    assert raw_users(tmp_path / "out") == [11, 12, 13, 12, -14, -14]


def test_a_day_whose_users_are_of_another_type(tmp_path: Path) -> None:
    """Without a table of users nothing else would tell."""
    source = write_tables(tmp_path / "raw", tables())
    for name in ("0", "1"):
        microlens.prepare(source, tmp_path / name)
    ids = pl.read_parquet(tmp_path / "1" / FILE).select(pl.col("raw").cast(pl.String))
    ids.write_parquet(tmp_path / "1" / FILE)
    reseal(tmp_path / "1", FILE)
    arguments = ["--store", tmp_path / "0", "--prepared", tmp_path / "1", "--out", tmp_path / "out"]
    assert increment.main([str(argument) for argument in arguments]) == 2
    assert not (tmp_path / "out").exists()


DAMAGE: dict[str, Any] = {
    "4 ids, expected 5: one for each record but 0": lambda frame: frame[:-1],
    "6 ids, expected 5": lambda frame: frame[[0, *range(5)]],
    r"columns \{'raw': Float64\}, expected raw": lambda frame: frame.cast(pl.Float64),
    r"columns \{'id': Int64\}, expected raw": lambda frame: frame.rename({"raw": "id"}),
    "ids are String, those of table user_id Int64": lambda frame: frame.cast(pl.String),
    "row 1: id 11 of a record whose user has the id 12": lambda frame: frame[[0, 0, 2, 3, 4]],
    "row 3: id None of a record whose user has the id 12": lambda frame: frame.select(
        pl.when(pl.int_range(5) != 3).then("raw")
    ),
}


@pytest.mark.parametrize("message", DAMAGE)
def test_verify_refuses_other_users(store: Path, message: str) -> None:
    DAMAGE[message](pl.read_parquet(store / FILE)).write_parquet(store / FILE)
    reseal(store, FILE)
    with pytest.raises(DataError, match=rf"users/raw\.parquet.*{message}"):
        verify(store)


def test_verify_refuses_a_file_that_is_none(store: Path) -> None:
    (store / FILE).write_bytes(b"PAR1")
    reseal(store, FILE)
    with pytest.raises(DataError, match=r"users/raw\.parquet: cannot be read"):
        verify(store)


@pytest.mark.parametrize(
    ("told", "message"),
    [(False, "raw users that the manifest does not tell of"), ("yes", "key raw_users")],
)
def test_verify_compares_the_manifest(store: Path, told: Any, message: str) -> None:
    change_manifest(store, "raw_users", told)
    with pytest.raises(DataError, match=message):
        verify(store)
