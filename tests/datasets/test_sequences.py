"""Sequences of rows: who shares a record, against a slow loop, and the cutting into pieces."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from datasets.sequences import Sequences, pieces, share_prefixes

ROWS = st.lists(
    st.tuples(
        st.sampled_from([3, -1, 2**40, 2**62 + 1, 2**62]),
        # 256 differs from 1 in the order of its bytes only.
        st.lists(st.sampled_from([1, 2, 256, -1]), max_size=4),
    ),
    min_size=1,
    max_size=14,
)
Row = tuple[int, list[int]]


def arrays(rows: list[Row]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Users, items and lengths of rows."""
    items = np.array([item for _, items in rows for item in items], np.int64)
    lengths = np.array([len(items) for _, items in rows], np.int64)
    return np.array([user for user, _ in rows]), items, lengths


def begins(one: Row, other: Row) -> bool:
    return one[0] == other[0] and other[1][: len(one[1])] == one[1]


def check(rows: list[Row], of_row: list[int], longest: list[int]) -> None:
    """Every row begins its record's sequence, and no sequence of a record begins another's."""
    assert len(of_row) == len(rows)
    for row, record in zip(rows, of_row, strict=True):
        assert begins(row, rows[longest[record]])
    for place, one in enumerate(longest):
        assert of_row[one] == place
        assert not any(begins(rows[one], rows[other]) for other in longest if other != one)
    users = [rows[row][0] for row in longest]
    assert users == sorted(users)


@given(ROWS)
def test_prefixes_share_a_record(rows: list[Row]) -> None:
    found = share_prefixes(*arrays(rows))
    check(rows, found.of_row.tolist(), found.longest.tolist())


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(ROWS, st.sampled_from([1, 3, 1000]))
def test_pieces_leave_no_trace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: list[Row], limit: int
) -> None:
    users, items, lengths = arrays(rows)
    np.save(tmp_path / "items.npy", items)
    sequences = Sequences(tmp_path / "items.npy", lengths)
    monkeypatch.setattr("datasets.sequences._PIECE_EVENTS", limit)
    found, whole = sequences.records(users), share_prefixes(users, items, lengths)
    assert found.of_row.tolist() == whole.of_row.tolist()
    assert found.longest.tolist() == whole.longest.tolist()
    parts = list(sequences.pieces(found.longest))
    assert [row for part in parts for row in part] == found.longest.tolist()
    read = [item for part in parts for item in sequences.events(part).tolist()]
    assert read == [item for row in found.longest for item in rows[row][1]]
    assert all(len(part) == 1 or len(sequences.events(part)) <= limit for part in parts)


def test_pieces_are_as_large_as_they_may_be() -> None:
    sizes = np.array([2, 2, 0, 1, 9, 0, 4, 5])
    found = [(part.start, part.stop) for part in pieces(sizes, 5)]
    assert found == [(0, 4), (4, 5), (5, 7), (7, 8)]
    assert list(pieces(np.empty(0, np.int64), 5)) == []
