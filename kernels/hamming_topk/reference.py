"""Hamming top-K, slow and obvious: the oracle for every faster path."""

from __future__ import annotations

import torch
from torch import Tensor


def hamming_topk_reference(
    codes: Tensor,
    history_rows: Tensor,
    history_offsets: Tensor,
    query_user: Tensor,
    k: int,
    *,
    query_rows: Tensor | None = None,
    query_codes: Tensor | None = None,
    query_begin: Tensor | None = None,
    query_end: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The same as `kernels.hamming_topk`, one query, one bit count and one sort at a time."""
    queries = query_user.numel()
    asked = query_codes if query_rows is None else codes[query_rows]
    assert asked is not None, "give query_rows or query_codes"
    positions = torch.full((queries, k), -1, dtype=torch.int32)
    distances = torch.full((queries, k), -1, dtype=torch.int32)
    for q in range(queries):
        if query_rows is not None and int(query_rows[q]) == 0:
            continue
        own = asked[q].tolist()
        user = int(query_user[q])
        rows = history_rows[history_offsets[user] : history_offsets[user + 1]].tolist()
        begin = 0 if query_begin is None else int(query_begin[q])
        end = len(rows) if query_end is None else int(query_end[q])
        found = []
        for position in range(begin, end):
            if rows[position] != 0:
                words = zip(own, codes[rows[position]].tolist(), strict=True)
                found.append((sum(_differing(a, b, codes.dtype) for a, b in words), -position))
        for i, (distance, minus_position) in enumerate(sorted(found)[:k]):
            positions[q, i], distances[q, i] = -minus_position, distance
    return positions, distances


def _differing(a: int, b: int, dtype: torch.dtype) -> int:
    """How many bits differ between two words of a dtype, the sign bit included."""
    return bin((a ^ b) % (1 << 8 * dtype.itemsize)).count("1")
