"""Counting (item, category) pairs, as map and merge: memory grows with what is given at once.

T events; D distinct pairs; n items.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from datasets.partitions.keys import find_in_order, first_of_runs, keys_of, sort_order

MISSING = 0


@dataclass(frozen=True)
class Pairs:
    """Distinct (item, category) pairs in the order of the item's key; within an item in any order.

    Args:
        key: of the item, uint64 [D].
        category: raw id, int64 [D].
        count: events, int64 [D].
    """

    key: NDArray[np.uint64]
    category: NDArray[np.int64]
    count: NDArray[np.int64]


def count_pairs(
    items_T: NDArray[np.int64], categories_T: NDArray[np.int64]
) -> tuple[Pairs, NDArray[np.int32]]:
    """Count the pairs of some events.

    Args:
        items_T: raw ids, int64.
        categories_T: raw ids, int64.

    Returns:
        The pairs, and each event's place among them, int32 [T].
    """
    encoded = pa.array(items_T).dictionary_encode()
    keys = keys_of(encoded.dictionary.to_numpy())
    return _group(keys, encoded.indices.to_numpy(), categories_T, None)


def merge_pairs(
    key_T: NDArray[np.uint64], category_T: NDArray[np.int64], count_T: NDArray[np.int64]
) -> Pairs:
    """Merge counts of pairs; each pair may come several times.

    Args:
        key_T: of the item, uint64.
        category_T: raw ids, int64.
        count_T: events, int64.
    """
    order = sort_order(key_T)
    sorted_T = key_T[order]
    first = first_of_runs(sorted_T)
    group = (np.cumsum(first) - 1).astype(np.int32)
    return _group(sorted_T[first], group, category_T[order], count_T[order])[0]


def _group(
    keys: NDArray[np.uint64],
    code_T: NDArray[np.int32],
    category_T: NDArray[np.int64],
    count_T: NDArray[np.int64] | None,
) -> tuple[Pairs, NDArray[np.int32]]:
    """Pairs of rows whose item is `keys[code]`, and each row's place among them.

    Nearly all items have one category. So one category of each item is taken from any of its rows,
    and only the rows that differ from it are sorted.
    """
    category = np.empty(len(keys), np.int64)
    category[code_T] = category_T
    odd = np.flatnonzero(category_T != category[code_T])
    if len(odd):
        odd = odd[np.lexsort((category_T[odd], code_T[odd]))]
        first = first_of_runs(code_T[odd], category_T[odd])
        new = odd[first]
        keys = np.concatenate([keys, keys[code_T[new]]])
        category = np.concatenate([category, category_T[new]])
        code_T = code_T.copy()
        code_T[odd] = len(keys) - len(new) + np.cumsum(first) - 1
    count = np.bincount(code_T, count_T, minlength=len(keys)).astype(np.int64)
    order = sort_order(keys)
    place = np.empty(len(keys), np.int32)
    place[order] = np.arange(len(keys), dtype=np.int32)
    return Pairs(keys[order], category[order], count[order]), place[code_T]


def likeliest_category(
    key_n: NDArray[np.uint64], given_n: NDArray[np.int64], pairs: Pairs
) -> tuple[NDArray[np.int64], int]:
    """Choose each item's category: the given one, else the most frequent one of the histories.

    Args:
        key_n: items, distinct, rising, uint64.
        given_n: category from the item table, int64, 0 = not given.
        pairs: of the histories; other items may be among them.

    Returns:
        The category of each item, int64 [n], 0 = none; and how many items have several categories.
    """
    item_D = find_in_order(key_n, pairs.key)
    seen = np.flatnonzero((item_D >= 0) & (pairs.category != MISSING))
    item, category = item_D[seen], pairs.category[seen]
    several = np.bincount(item, minlength=len(key_n)) > 1
    best_n = np.zeros(len(key_n), np.int64)
    best_n[item] = category
    choice = np.flatnonzero(several[item])
    # The smaller id wins a tie, so that the choice does not hang on the order of the rows.
    by_worth = np.lexsort((category[choice], -pairs.count[seen[choice]], item[choice]))
    choice = choice[by_worth]
    choice = choice[first_of_runs(item[choice])]
    best_n[item[choice]] = category[choice]
    differs = several
    differs[item[(given_n[item] != MISSING) & (given_n[item] != category)]] = True
    return np.where(given_n != MISSING, given_n, best_n), int(differs.sum())
