"""Vocabularies: which ids get a row, in which order, and looking them up."""

from __future__ import annotations

from collections import Counter

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from datasets.vocab import Vocabulary, build_vocabulary, count_values

INT64 = st.integers(-(2**63), 2**63 - 1)
FEW = st.one_of(st.integers(-3, 3), INT64)


@given(
    seen=st.lists(FEW, max_size=60),
    always=st.lists(FEW, max_size=5),
    asked=st.lists(FEW, max_size=20),
    least=st.integers(1, 4),
)
def test_rows_follow_count_then_id(
    seen: list[int], always: list[int], asked: list[int], least: int
) -> None:
    vocabulary = build_vocabulary(
        count_values(pl.Series(seen, dtype=pl.Int64)),
        min_frequency=least,
        always=pl.Series(always, dtype=pl.Int64),
        missing=(0,),
    )
    counts = Counter(seen)
    kept = {i for i in {*seen, *always} if i != 0 and (counts[i] >= least or i in always)}
    expected = sorted(kept, key=lambda i: (-counts[i], i))
    assert vocabulary.raw.to_list() == expected
    assert vocabulary.count.to_list() == [counts[i] for i in expected]
    rows = vocabulary.rows(np.array([*asked, *expected], np.int64))
    assert rows.dtype == np.int32
    places = {raw: row for row, raw in enumerate(expected, start=1)}
    assert rows.tolist() == [places.get(i, 0) for i in [*asked, *expected]]


@given(seen=st.lists(st.text(max_size=3), max_size=40), asked=st.lists(st.text(max_size=3)))
def test_text_ids(seen: list[str], asked: list[str]) -> None:
    vocabulary = build_vocabulary(count_values(pl.Series(seen, dtype=pl.String)))
    counts = Counter(seen)
    expected = sorted(counts, key=lambda i: (-counts[i], i.encode()))
    assert vocabulary.raw.to_list() == expected
    places = {raw: row for row, raw in enumerate(expected, start=1)}
    rows = vocabulary.rows(pl.Series(asked, dtype=pl.String))
    assert rows.tolist() == [places.get(i, 0) for i in asked]


def test_null_is_row_0() -> None:
    vocabulary = build_vocabulary(count_values(pl.Series([5, None, 5, 0])))
    assert vocabulary.raw.to_list() == [5, 0]
    assert vocabulary.rows(pl.Series([None, 0, 5, 6])).tolist() == [0, 2, 1, 0]


def test_frame_is_the_file() -> None:
    frame = build_vocabulary(count_values(pl.Series([7, -2, 7]))).frame()
    assert frame.schema == {"raw": pl.Int64, "row": pl.Int32, "count": pl.Int64}
    assert frame.rows() == [(7, 1, 2), (-2, 2, 1)]


def test_repeated_ids_are_refused() -> None:
    with pytest.raises(ValueError, match="distinct"):
        Vocabulary(pl.Series([1, 1]), pl.Series([1, 1]))
