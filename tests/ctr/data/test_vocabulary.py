"""Raw ids to rows, and what each damage of a vocabulary is called."""

import os
import shutil

import polars as pl
import pytest

from ctr.data.store import Store
from ctr.data.vocabulary import Vocabulary
from ctr.schema import StoreError


@pytest.fixture
def store(tiny_store, tmp_path):
    """With a few files of the tiny store, those of the vocabularies its own."""
    path = tmp_path / "store"
    path.mkdir()
    for name in ("users", "items", "splits", "manifest.json"):
        (path / name).symlink_to(tiny_store / name)
    shutil.copytree(tiny_store / "vocab", path / "vocab")
    return Store(path)


def change(store, table, made):
    """Write a vocabulary anew."""
    file = store.path / f"vocab/{table}.parquet"
    made(pl.read_parquet(file)).write_parquet(file)


def as_text(frame):
    return frame.with_columns(raw="id-" + pl.col("raw").cast(pl.String))


@pytest.mark.parametrize("text", [False, True])
def test_every_id_has_its_row_and_others_none(store, text):
    if text:
        change(store, "item", as_text)
    vocabulary = Vocabulary(store, "item")
    assert vocabulary.of_integers is not text
    raw = pl.read_parquet(store.path / "vocab/item.parquet")["raw"]
    assert vocabulary.rows(raw).tolist() == list(range(1, len(raw) + 1))
    strange = "strange" if text else -1
    asked = pl.Series([raw[4], None, strange, raw[0], raw[4]], dtype=raw.dtype)
    found = vocabulary.rows(asked)
    assert found.tolist() == [5, 0, 0, 1, 5]
    assert found.dtype == "int32"
    assert vocabulary.rows(asked.head(0)).tolist() == []


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (lambda f: f.drop("row"), "cannot be read"),
        (lambda f: f.rename({"raw": "id"}), "cannot be read"),
        (lambda f: f.with_columns(pl.col("raw").cast(pl.Float64)), "raw Float64, row Int32"),
        (lambda f: f.with_columns(pl.col("row").cast(pl.Int64)), "raw Int64, row Int64"),
        (lambda f: f[:-1], r"its rows are not 1 to \d+"),
        (lambda f: f[::-1], r"its rows are not 1 to \d+"),
        (lambda f: f.with_columns(row=pl.lit(None, pl.Int32)), r"its rows are not 1 to \d+"),
    ],
)
def test_a_vocabulary_that_is_none(store, made, message):
    change(store, "shop", made)
    with pytest.raises(StoreError, match=rf"vocab/shop\.parquet: {message}.*; prepare the store"):
        Vocabulary(store, "shop")


def test_a_vocabulary_that_is_missing_or_cut_short(store):
    file = store.path / "vocab/shop.parquet"
    os.truncate(file, 60)
    with pytest.raises(StoreError, match=r"shop\.parquet: cannot be read .*prepare the store"):
        Vocabulary(store, "shop")
    file.unlink()
    with pytest.raises(StoreError, match=r"shop\.parquet: cannot be read .*prepare the store"):
        Vocabulary(store, "shop")


def test_an_id_that_has_two_rows(store):
    change(store, "shop", lambda f: f.with_columns(raw=pl.lit(7, pl.Int64)))
    with pytest.raises(StoreError, match=r"shop\.parquet: id 7 comes twice; prepare the store"):
        Vocabulary(store, "shop").rows(pl.Series([7, 8]))
