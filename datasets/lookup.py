"""Finding many ids in a sorted array."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

# Beyond this many keys a binary search misses the cache at every step.
_LARGE = 1 << 18


def find_sorted(keys: NDArray[np.int64], values: NDArray[np.int64]) -> NDArray[np.int64]:
    """Place of each value among the keys, -1 where it is not there.

    Args:
        keys: distinct, rising, int64 [K].
        values: int64 [n].

    Returns:
        int64 [n].
    """
    if not len(keys):
        return np.full(len(values), -1, np.int64)
    if len(keys) > _LARGE:
        # Sorted values walk through the keys in order: several times faster, sorting included.
        order = np.argsort(values)
        place = np.empty(len(values), np.int64)
        place[order] = np.searchsorted(keys, values[order])
    else:
        place = np.searchsorted(keys, values)
    np.minimum(place, len(keys) - 1, out=place)
    place[keys[place] != values] = -1
    return place
