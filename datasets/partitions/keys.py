"""Keys: raw ids mixed so that they lie evenly over 64 bits, whatever the ids are.

N keys, n of them asked for.
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
from numpy.typing import NDArray

from datasets.hashing import splitmix64

# Key ranges that runs are cut at; a partition is some neighbouring ones.
FENCES = 1024
HASH_BOUNDS: NDArray[np.uint64] = np.arange(FENCES, dtype=np.uint64) << np.uint64(54)

_FIRST_INVERSE = np.uint64(0x96DE1B173F119089)
_SECOND_INVERSE = np.uint64(0x319642B2D24D8EC3)


def keys_of(ids_N: NDArray[Any]) -> NDArray[np.uint64]:
    """Keys of raw ids; distinct ids have distinct keys.

    Args:
        ids_N: int64 [N].
    """
    return splitmix64(np.ascontiguousarray(ids_N, np.int64).view(np.uint64))


def ids_of(keys_N: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Raw ids of keys: the inverse of `keys_of`.

    Args:
        keys_N: uint64 [N].
    """
    mixed = _unshift(keys_N, 31) * _SECOND_INVERSE
    mixed = _unshift(mixed, 27) * _FIRST_INVERSE
    ids: NDArray[np.int64] = (_unshift(mixed, 30) - np.uint64(0x9E3779B97F4A7C15)).view(np.int64)
    return ids


def _unshift(values_N: NDArray[np.uint64], bits: int) -> NDArray[np.uint64]:
    """Undo `x ^ (x >> bits)`, for a third of the word or more."""
    twice: NDArray[np.uint64] = values_N ^ (values_N >> np.uint64(bits))
    return twice ^ (values_N >> np.uint64(2 * bits))


def sort_order(keys_N: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Stable order of keys, int64 [N].

    Sorting words of which the low bits hold the place is several times faster than `argsort`. Keys
    that differ in those bits only may then be in the wrong order: few, and a second sort, linear in
    what is sorted already, puts them right.
    """
    mask = np.uint64((1 << max(1, len(keys_N) - 1).bit_length()) - 1)
    packed = keys_N & ~mask
    packed |= np.arange(len(keys_N), dtype=np.uint64)
    packed.sort()
    packed &= mask
    order: NDArray[np.int64] = packed.view(np.int64)
    found = keys_N[order]
    if (found[1:] < found[:-1]).any():
        order = order[np.argsort(found, kind="stable")]
    return order


def first_of_runs(*columns_N: NDArray[Any]) -> NDArray[np.bool_]:
    """Where a row differs from the one before it in any column; row 0 does, bool [N]."""
    first = np.zeros(len(columns_N[0]), bool)
    first[:1] = True
    for column in columns_N:
        first[1:] |= column[1:] != column[:-1]
    return first


def ranges(partitions: int) -> list[tuple[int, int]]:
    """Fences [first, last) of each of so many partitions."""
    cuts = [place * FENCES // partitions for place in range(partitions + 1)]
    return list(itertools.pairwise(cuts))


def find_in_order(known_N: NDArray[np.uint64], sorted_n: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Place of each key among the known ones, -1 where it is not there, int64 [n].

    Args:
        known_N: distinct, rising, uint64.
        sorted_n: rising, so that the search walks through memory in order, uint64.
    """
    if not len(known_N):
        return np.full(len(sorted_n), -1, np.int64)
    place = np.searchsorted(known_N, sorted_n)
    np.minimum(place, len(known_N) - 1, out=place)
    place[known_N[place] != sorted_n] = -1
    return place
