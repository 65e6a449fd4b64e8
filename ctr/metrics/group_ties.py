"""Sums of each group over its ties, block after block, for rows sorted by group and falling score.

Shape legend: T ties of a block, G groups of a block, K values of k.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ctr.metrics.ties import BLOCK_ROWS, Array, Ties, tie_blocks


@dataclass(frozen=True)
class GroupSums:
    """What is known of some groups, in order.

    Attributes:
        group: uint64 [G], codes, rising.
        rows, clicks: int64 [G].
        wins: int64 [G], twice the pairs of a click and a non-click of a lower score, plus ties.
        dcg_KG: float64 [K, G], discounted gain of the k highest scores.
        miss_KG: float64 [K, G], probability that none of those is a click.
    """

    group: Array
    rows: Array
    clicks: Array
    wins: Array
    dcg_KG: Array
    miss_KG: Array

    def auc(self) -> Array:
        """AUC of each group, float64 [G]; NaN with one class."""
        pairs = 2 * self.clicks * (self.rows - self.clicks)
        return np.where(pairs > 0, self.wins / np.maximum(pairs, 1), np.nan)

    def ndcg(self, ks: Sequence[int]) -> Array:
        """DCG over that of the best order, float64 [K, G]; NaN without a click."""
        best = [_discounts(k)[np.minimum(self.clicks, k)] for k in ks]
        best_KG = np.reshape(best, self.dcg_KG.shape)
        return np.where(best_KG > 0, self.dcg_KG / np.where(best_KG > 0, best_KG, 1.0), np.nan)

    def __getitem__(self, groups: slice) -> GroupSums:
        return GroupSums(
            self.group[groups],
            self.rows[groups],
            self.clicks[groups],
            self.wins[groups],
            self.dcg_KG[:, groups],
            self.miss_KG[:, groups],
        )


def group_blocks(
    rows: Array, key_bits: int, ks: Sequence[int], block_rows: int = BLOCK_ROWS
) -> Iterator[GroupSums]:
    """Sums of all groups, each once, in blocks.

    Args:
        rows: uint64 [S], sorted: the group's code above `key_bits` bits of falling score and label.
        ks: how many highest scores DCG and misses look at.
        block_rows: looked at together.
    """
    # The last group of a block may go on in the next, so it waits.
    waiting: GroupSums | None = None
    for ties in tie_blocks(rows, block_rows):
        # A tie's value lacks the label's bit.
        group = ties.value >> np.uint64(key_bits - 1)
        goes_on = waiting is not None and waiting.group[0] == group[0]
        if waiting is not None and not goes_on:
            yield waiting
        sums = _sums(group, ties, ks, waiting if goes_on else None)
        yield sums[:-1]
        waiting = sums[-1:]
    if waiting is not None:
        yield waiting


def _sums(group: Array, ties: Ties, ks: Sequence[int], before: GroupSums | None) -> GroupSums:
    """Sums of a block's groups; `before` is what earlier blocks know of the first."""
    start = np.flatnonzero(np.concatenate([[True], group[1:] != group[:-1]]))
    ties_of = np.diff(start, append=len(group))
    size = ties.clicks + ties.others
    rows_before, clicks_before = _before(size, start, ties_of), _before(ties.clicks, start, ties_of)
    if before is not None:
        rows_before[: ties_of[0]] += before.rows[0]
        clicks_before[: ties_of[0]] += before.clicks[0]
    wins = np.add.reduceat(ties.others * (2 * clicks_before + ties.clicks), start)
    number = np.repeat(np.arange(len(start)), ties_of)
    top = [_top(ties, size, rows_before, number, len(start), k) for k in ks]
    found = GroupSums(
        group[start],
        np.add.reduceat(size, start),
        np.add.reduceat(ties.clicks, start),
        wins,
        np.reshape([dcg for dcg, _ in top], (len(ks), len(start))),
        np.reshape([miss for _, miss in top], (len(ks), len(start))),
    )
    if before is not None:
        for mine, earlier in (
            (found.rows, before.rows),
            (found.clicks, before.clicks),
            (found.wins, before.wins),
        ):
            mine[0] += earlier[0]
        found.dcg_KG[:, 0] += before.dcg_KG[:, 0]
        found.miss_KG[:, 0] *= before.miss_KG[:, 0]
    return found


def _before(counts: Array, start: Array, ties_of: Array) -> Array:
    """Sum of the counts of earlier ties of the same group, int64 [T]."""
    before = np.cumsum(counts) - counts
    return before - np.repeat(before[start], ties_of)


def _top(
    ties: Ties, size: Array, place: Array, number: Array, groups: int, k: int
) -> tuple[Array, Array]:
    """DCG@k and the probability of no click among the k highest, float64 [G] each.

    Args:
        size, place, number: int64 [T], rows of a tie, rows of its group before it, its group.
    """
    top = np.flatnonzero(place < k)
    size, place, number, clicks = size[top], place[top], number[top], ties.clicks[top]
    end = place + size
    discounts = _discounts(k)
    # Tied rows come in any order, so each place of a tie gains the tie's share of clicks.
    gain = clicks / size * (discounts[np.minimum(end, k)] - discounts[place])
    # Of no rows bincount gives int64, weights or not: all may lie past the k-th place.
    dcg_G = np.bincount(number, gain, groups).astype(np.float64)
    inside = end <= k
    miss_G = (np.bincount(number[inside], clicks[inside], groups) == 0).astype(np.float64)
    # One tie of a group at most is cut by the k-th place.
    cut = ~inside
    miss_G[number[cut]] *= _no_click(size[cut], clicks[cut], k - place[cut])
    return dcg_G, miss_G


def _no_click(size: Array, clicks: Array, drawn: Array) -> Array:
    """Probability that `drawn` of `size` rows, without replacement, hold none of the clicks."""
    chance = np.ones(len(size))
    for i in range(int(drawn.max(initial=0))):
        left = np.maximum(size - clicks - i, 0) / np.maximum(size - i, 1)
        chance *= np.where(i < drawn, left, 1.0)
    return chance


def _discounts(k: int) -> Array:
    """Sum of 1 / log2(1 + place) over the places up to each of 0 to k, float64 [k + 1]."""
    return np.concatenate([[0.0], np.cumsum(1.0 / np.log2(np.arange(2, k + 2)))])
