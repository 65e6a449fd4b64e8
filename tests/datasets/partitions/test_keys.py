"""Keys of raw ids: distinct, back again, and sorted by words of which the low bits are a place."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from datasets.partitions.keys import (
    FENCES,
    HASH_BOUNDS,
    find_in_order,
    ids_of,
    keys_of,
    ranges,
    sort_order,
)

INT64 = st.integers(-(2**63), 2**63 - 1)
# Keys that differ in their low bits only are the ones that the packed words cannot tell apart.
CLOSE = st.builds(lambda high, low: high << 60 | low, st.integers(0, 3), st.integers(0, 3))


@given(st.lists(INT64))
def test_back_again(ids: list[int]) -> None:
    array = np.array(ids, np.int64)
    assert ids_of(keys_of(array)).tolist() == ids
    assert len(np.unique(keys_of(array))) == len(set(ids))


@given(st.lists(st.one_of(CLOSE, st.integers(0, 2**64 - 1)), max_size=40))
def test_order_is_that_of_a_stable_sort(keys: list[int]) -> None:
    array = np.array(keys, np.uint64)
    assert sort_order(array).tolist() == np.argsort(array, kind="stable").tolist()


@given(st.sets(CLOSE, max_size=8), st.lists(CLOSE, max_size=8))
def test_finding(known: set[int], asked: list[int]) -> None:
    keys = sorted(known)
    found = find_in_order(np.array(keys, np.uint64), np.array(sorted(asked), np.uint64))
    assert found.tolist() == [keys.index(k) if k in known else -1 for k in sorted(asked)]


def test_partitions_cover_all_fences() -> None:
    assert len(HASH_BOUNDS) == FENCES
    for partitions in (1, 3, FENCES):
        cuts = ranges(partitions)
        assert len(cuts) == partitions
        assert [fence for first, last in cuts for fence in range(first, last)] == list(
            range(FENCES)
        )
