"""A 64-bit mixing function, for fingerprints of histories and for made-up ids."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def splitmix64(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Mix 64-bit words (SplitMix64's finaliser); a bijection, so distinct inputs stay distinct.

    Args:
        values: uint64, any shape.
    """
    mixed = values + np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    result: NDArray[np.uint64] = mixed ^ (mixed >> np.uint64(31))
    return result


def prefix_fingerprints(
    items_T: NDArray[np.int64], starts_U: NDArray[np.int64], ends_U: NDArray[np.int64]
) -> NDArray[np.uint64]:
    """Fingerprint `items[start:end]` of every user; equal sequences give equal fingerprints.

    Args:
        items_T: raw ids of all users' events, one user after another, int64 [T].
        starts_U: where each user's history begins in `items_T`, int64 [U].
        ends_U: where the fingerprinted prefix ends, int64 [U].

    Returns:
        uint64 [U]. A word depends on an item's place in its own history, so order matters.
    """
    lengths = np.diff(np.append(starts_U, len(items_T)))
    place_T = (np.arange(len(items_T)) - np.repeat(starts_U, lengths)).astype(np.uint64)
    words_T = splitmix64(items_T.view(np.uint64) ^ splitmix64(place_T))
    sums = np.concatenate([np.zeros(1, np.uint64), np.cumsum(words_T, dtype=np.uint64)])
    fingerprints: NDArray[np.uint64] = sums[ends_U] - sums[starts_U]
    return fingerprints
