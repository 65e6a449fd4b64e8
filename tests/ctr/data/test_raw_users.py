"""Raw users find their longest records, and what each damage of the file is called."""

import shutil

import numpy as np
import polars as pl
import pytest

from ctr.data.raw_users import RawUsers
from ctr.data.store import Store
from ctr.schema import StoreError
from tests.datasets.stores import change_manifest, without_raw_users

FILE = "users/raw.parquet"


@pytest.fixture
def path(tiny_store, tmp_path):
    """A copy of the tiny store that may be changed."""
    return shutil.copytree(tiny_store, tmp_path / "store")


def longest(store: Store, raw: pl.Series, user) -> int:
    """By a slow loop; `raw` has no entry for record 0."""
    lengths = np.diff(store.history_offsets)
    mine = [record for record, own in enumerate(raw, 1) if own == user]
    return max(mine, key=lambda record: (lengths[record], record), default=0)


@pytest.mark.parametrize("text", [False, True])
def test_every_user_has_the_longest_record(path, text):
    raw = pl.read_parquet(path / FILE)["raw"]
    strange = pl.Series([-1, -2])
    if text:
        raw, strange = (("u" + ids.cast(pl.String)).alias("raw") for ids in (raw, strange))
        raw.to_frame().write_parquet(path / FILE)
    store = Store(path)
    users = RawUsers(store)
    assert users.of_integers is not text
    asked = pl.concat([raw, strange, raw[::-3]])
    found = users.records(asked)
    assert found.dtype == "int32"
    assert found.tolist() == [longest(store, raw, user) for user in asked]
    nobody = store.user_features["user_id"][found] == 0
    assert (nobody & (np.diff(store.history_offsets)[found] > 0)).sum() > 10
    assert users.records(raw.head(0)).tolist() == []


@pytest.mark.parametrize("of_table", [False, True])
@pytest.mark.parametrize(("lengths", "taken"), [((5, 9, 8), 7), ((5, 8, 8), 9), ((9, 8, 8), 3)])
def test_of_several_records_the_longest_one(path, lengths, taken, of_table):
    """As users of both splits whose history was rewritten own them."""
    raw = pl.read_parquet(path / FILE)["raw"].to_list()
    raw[6] = raw[8] = raw[2]
    pl.DataFrame({"raw": raw}).write_parquet(path / FILE)
    if of_table:
        without_raw_users(path)
    store = Store(path)
    user_U, sizes = store.user_features["user_id"], np.diff(store.history_offsets)
    user_U[[7, 9]] = user_U[3]
    sizes[[3, 7, 9]] = lengths
    store.history_offsets[1:] = np.cumsum(sizes)
    assert RawUsers(store).records(pl.Series([raw[2], raw[3]])).tolist() == [taken, 4]


def test_without_the_file_users_without_a_row_are_strangers(path):
    raw = pl.read_parquet(path / FILE)["raw"]
    known = Store(path).user_features["user_id"][1:] > 0
    expected = np.where(known, RawUsers(Store(path)).records(raw), 0)
    assert 0 < np.count_nonzero(expected) < len(raw)
    without_raw_users(path)
    assert RawUsers(Store(path)).records(raw).tolist() == expected.tolist()


def test_a_user_who_is_not_known_is_nobody(path):
    """As of an increment after a store of an earlier release."""
    frame = pl.read_parquet(path / FILE)
    some = pl.int_range(len(frame)) % 2 == 0
    frame.with_columns(pl.when(some).then("raw").alias("raw")).write_parquet(path / FILE)
    store = Store(path)
    raw = pl.read_parquet(path / FILE)["raw"]
    found = RawUsers(store).records(frame["raw"])
    assert found.tolist() == [longest(store, raw, user) for user in frame["raw"]]
    assert 0 < np.count_nonzero(found) < len(found)


def test_records_are_found_without_a_table_of_users(path):
    raw = pl.read_parquet(path / FILE)["raw"]
    expected = RawUsers(Store(path)).records(raw).tolist()
    change_manifest(path, "features.user", [])
    assert RawUsers(Store(path)).records(raw).tolist() == expected
    without_raw_users(path)
    with pytest.raises(StoreError, match=r"no.*user feature 'user_id'.*samples to a split"):
        RawUsers(Store(path))


def test_a_manifest_says_yes_or_no(path):
    change_manifest(path, "raw_users", 1)
    with pytest.raises(StoreError, match=r"manifest\.json: malformed \(1 is neither true nor"):
        Store(path)


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (lambda f: f[:-1], r"\d+ ids, expected \d+, one a record but 0"),
        (lambda f: f.rename({"raw": "id"}), "cannot be read"),
        (lambda f: f.cast(pl.Float64), "raw Float64"),
        (None, "cannot be read"),
    ],
)
def test_a_file_that_is_none(path, made, message):
    if made is None:
        (path / FILE).unlink()
    else:
        made(pl.read_parquet(path / FILE)).write_parquet(path / FILE)
    with pytest.raises(StoreError, match=rf"users/raw\.parquet: {message}.*; prepare the store"):
        RawUsers(Store(path))
