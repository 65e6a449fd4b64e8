"""Pairs of item and category, counted in parts and merged, against a plain counter."""

from __future__ import annotations

from collections import Counter

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from datasets.counting import Pairs, count_pairs, likeliest_category, merge_pairs
from datasets.partitions.keys import ids_of, keys_of

PAIRS = st.lists(st.tuples(st.integers(-3, 3), st.integers(0, 3)), max_size=40)


def count(pairs: list[tuple[int, int]]) -> tuple[Pairs, np.ndarray]:
    columns = np.array(pairs, np.int64).reshape(-1, 2)
    return count_pairs(columns[:, 0].copy(), columns[:, 1].copy())


def as_counter(pairs: Pairs) -> Counter[tuple[int, int]]:
    found = zip(
        ids_of(pairs.key).tolist(), pairs.category.tolist(), pairs.count.tolist(), strict=True
    )
    return Counter({(item, category): n for item, category, n in found})


@given(PAIRS)
def test_pairs_of_a_batch(pairs: list[tuple[int, int]]) -> None:
    found, place = count(pairs)
    assert as_counter(found) == Counter(pairs)
    assert len(found.key) == len(set(pairs))
    assert (found.key[1:] >= found.key[:-1]).all()
    items = ids_of(found.key)[place].tolist()
    assert list(zip(items, found.category[place].tolist(), strict=True)) == pairs


@given(st.lists(PAIRS, max_size=4))
def test_merging(parts: list[list[tuple[int, int]]]) -> None:
    counted = [count(part)[0] for part in parts]
    merged = merge_pairs(
        np.concatenate([np.empty(0, np.uint64), *(part.key for part in counted)]),
        np.concatenate([np.empty(0, np.int64), *(part.category for part in counted)]),
        np.concatenate([np.empty(0, np.int64), *(part.count for part in counted)]),
    )
    assert as_counter(merged) == sum((Counter(part) for part in parts), Counter())
    assert len(merged.key) == len({pair for part in parts for pair in part})


@given(PAIRS, st.dictionaries(st.integers(-3, 3), st.integers(0, 3)))
def test_category(pairs: list[tuple[int, int]], given_category: dict[int, int]) -> None:
    items = sorted(given_category, key=lambda item: int(keys_of(np.array([item]))[0]))
    given_n = np.array([given_category[item] for item in items], np.int64)
    key_n = keys_of(np.array(items, np.int64))
    chosen, several = likeliest_category(key_n, given_n, count(pairs)[0])
    expected, conflicts = [], 0
    for item in items:
        seen = Counter(category for one, category in pairs if one == item and category != 0)
        best = min(seen, key=lambda category: (-seen[category], category)) if seen else 0
        expected.append(given_category[item] or best)
        conflicts += len({*seen, given_category[item]} - {0}) > 1
    assert chosen.tolist() == expected
    assert several == conflicts
