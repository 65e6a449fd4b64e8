"""Metrics inside groups (a user, a request): GAUC, NDCG@k, hit rate@k.

Rows are sorted by group, then by falling score, as one unsigned integer each; groups are dealt to
parts, and a part is sorted and added up at a time in each of two threads, so memory stays bounded.

Shape legend: S rows, T ties of a block, G groups (of a block, where it is said), K values of k.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from ctr.metrics.group_ties import GroupSums, group_blocks
from ctr.metrics.ties import BLOCK_ROWS, Array, PredictionError

# Key without group: 30 bits of score or rank, and the label.
KEY_BITS = 31
_PART_ROWS = 1 << 24
_THREADS = 2
# Knuth's multiplier: ids that share low bits spread over all parts.
_SPREAD = np.uint32(2654435769)


@dataclass(frozen=True)
class GroupMetrics:
    """Metrics inside groups; NaN where no group has one.

    Attributes:
        groups: distinct ones; one_class_groups: of those, without a click or without a non-click.
        coverage: share of all rows in groups of both classes, those that GAUC is made of.
        gauc: AUC inside each group of both classes, weighted by its rows (arXiv 1706.06978, 5.3).
        gauc_unweighted: the plain mean of those AUCs.
        clicked_groups: groups with a click, which NDCG and hit rate are plain means over.
        ndcg: by k: DCG of the k highest scores over that of the best order, gain 1 a click,
            discount 1 / log2(1 + place); tied rows share the mean gain of their places.
        hit_rate: by k: probability that a click is among the k highest scores, ties in any order.
    """

    groups: int
    one_class_groups: int
    coverage: float
    gauc: float
    gauc_unweighted: float
    clicked_groups: int
    ndcg: dict[int, float]
    hit_rate: dict[int, float]


def group_metrics(
    keys: Array,
    codes: Array,
    unknown: int | None = None,
    ks: Sequence[int] = (),
    part_rows: int = _PART_ROWS,
    block_rows: int = BLOCK_ROWS,
) -> GroupMetrics:
    """All metrics inside groups.

    Args:
        keys: of `score_keys`, in any order, [S].
        codes: uint32 [S], the group of each row.
        unknown: code that stands for no group; its rows are left out, but count for coverage.
        ks: how many highest scores NDCG and hit rate look at.
        part_rows: about so many rows are sorted at a time; block_rows: and looked at together.

    Raises:
        PredictionError: a k below 1, or more rows of one part than ranks can number.
    """
    if any(k < 1 for k in ks):
        raise PredictionError(f"k: {min(ks)} given, must be 1 or more")
    # A power of two, so that a part is the high bits of a product.
    bits = max(0, math.ceil(math.log2(max(1, len(keys)) / part_rows)))

    def add_up(part: int) -> list[_Totals]:
        rows = sorted_rows(keys, codes, unknown, bits, part)
        return [_totals(sums, ks) for sums in group_blocks(rows, KEY_BITS, ks, block_rows)]

    with ThreadPoolExecutor(_THREADS) as threads:
        totals = [block for part in threads.map(add_up, range(1 << bits)) for block in part]
    return _metrics(totals, len(keys), ks)


def sorted_rows(
    keys: Array, codes: Array, unknown: int | None = None, bits: int = 0, part: int = 0
) -> Array:
    """Rows of a part as uint64, sorted: group, then falling score or its rank, then label.

    Args:
        keys, codes, unknown: as of `group_metrics`.
        bits: 2^bits parts; part: which.

    Raises:
        PredictionError: more rows than ranks can number.
    """
    part_keys, part_codes = [], []
    for begin in range(0, len(keys), BLOCK_ROWS):
        block = codes[begin : begin + BLOCK_ROWS]
        mine = _in_part(block, bits, part)
        if unknown is not None:
            mine &= block != np.uint32(unknown)
        part_keys.append(keys[begin : begin + BLOCK_ROWS][mine])
        part_codes.append(block[mine])
    none = np.zeros(0, dtype=np.uint32)
    rows = _narrow(np.concatenate(part_keys)) if part_keys else none.astype(np.uint64)
    part_keys.clear()
    group = np.concatenate(part_codes) if part_codes else none
    for begin in range(0, len(rows), BLOCK_ROWS):
        high = group[begin : begin + BLOCK_ROWS].astype(np.uint64) << np.uint64(KEY_BITS)
        rows[begin : begin + BLOCK_ROWS] |= high
    rows.sort()
    return rows


def _in_part(codes: Array, bits: int, part: int) -> Array:
    if bits == 0:
        return np.ones(len(codes), dtype=bool)
    return (codes * _SPREAD) >> np.uint32(32 - bits) == np.uint32(part)


def _narrow(keys: Array) -> Array:
    """Keys of any scores as uint64 that use the low bits only: those of float64 become ranks."""
    if keys.dtype == np.uint32:
        return keys.astype(np.uint64)
    if len(keys) > 1 << (KEY_BITS - 1):
        raise PredictionError(f"{len(keys):,} rows of a part of the groups are too many")
    one = np.uint64(1)
    order = np.argsort(keys)
    ordered = keys[order]
    new = np.zeros(len(keys), dtype=bool)
    np.not_equal(ordered[1:] >> one, ordered[:-1] >> one, out=new[1:])
    ranked = np.cumsum(new, dtype=np.uint64)
    ranked <<= one
    ordered &= one
    ranked |= ordered
    # The sorted keys are no longer needed: their memory takes the result.
    ordered[order] = ranked
    return ordered


@dataclass(frozen=True)
class _Totals:
    """Sums over the groups of a block; ndcg and hits by k."""

    groups: int
    two_class: int
    two_class_rows: int
    weighted_auc: float
    auc: float
    clicked: int
    ndcg_K: list[float]
    hits_K: list[float]


def _totals(sums: GroupSums, ks: Sequence[int]) -> _Totals:
    auc, rows = sums.auc(), sums.rows
    both = ~np.isnan(auc)
    clicked = sums.clicks > 0
    ndcg_KG = sums.ndcg(ks)
    return _Totals(
        groups=len(rows),
        two_class=int(both.sum()),
        two_class_rows=int(rows[both].sum()),
        weighted_auc=float((auc[both] * rows[both]).sum()),
        auc=float(auc[both].sum()),
        clicked=int(clicked.sum()),
        ndcg_K=[float(ndcg_G[clicked].sum()) for ndcg_G in ndcg_KG],
        hits_K=[float((1.0 - miss_G[clicked]).sum()) for miss_G in sums.miss_KG],
    )


def _metrics(totals: Sequence[_Totals], rows: int, ks: Sequence[int]) -> GroupMetrics:
    groups, both = sum(t.groups for t in totals), sum(t.two_class for t in totals)
    both_rows = sum(t.two_class_rows for t in totals)
    clicked = sum(t.clicked for t in totals)

    def mean(values: Iterator[float], count: int) -> float:
        return math.fsum(values) / count if count else math.nan

    return GroupMetrics(
        groups=groups,
        one_class_groups=groups - both,
        coverage=both_rows / rows if rows else 0.0,
        gauc=mean((t.weighted_auc for t in totals), both_rows),
        gauc_unweighted=mean((t.auc for t in totals), both),
        clicked_groups=clicked,
        ndcg={k: mean((t.ndcg_K[i] for t in totals), clicked) for i, k in enumerate(ks)},
        hit_rate={k: mean((t.hits_K[i] for t in totals), clicked) for i, k in enumerate(ks)},
    )
