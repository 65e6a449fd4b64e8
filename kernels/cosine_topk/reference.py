"""Cosine top-K, slow and obvious: the oracle for every faster path.

Shape legend: N rows of the table, M width of a vector, Q queries, K picks.
"""

from __future__ import annotations

import torch
from torch import Tensor


def cosine_topk_reference(
    table: Tensor,
    inv_norm: Tensor,
    history_rows: Tensor,
    history_offsets: Tensor,
    query_rows: Tensor | None,
    query_user: Tensor,
    k: int,
    query_begin: Tensor | None = None,
    query_end: Tensor | None = None,
    *,
    query_vectors: Tensor | None = None,
    query_inv_norm: Tensor | None = None,
    histogram_bins: int | None = None,
) -> tuple[Tensor, ...]:
    """The same as `kernels.cosine_topk`, one query and one sort at a time."""
    queries = query_user.numel()
    positions = torch.full((queries, k), -1, dtype=torch.int32)
    scores = torch.zeros(queries, k)
    histogram = torch.zeros(queries, histogram_bins or 0, dtype=torch.int32)
    for q in range(queries):
        user = int(query_user[q])
        rows = history_rows[history_offsets[user] : history_offsets[user + 1]].long()
        begin = 0 if query_begin is None else int(query_begin[q])
        end = rows.numel() if query_end is None else int(query_end[q])
        vector, scale = _query(table, inv_norm, query_rows, query_vectors, query_inv_norm, q)
        if scale == 0:
            continue
        found = []
        for position in range(begin, end):
            row = int(rows[position])
            if row == 0 or inv_norm[row] == 0:
                continue
            dot = (table[row].double() * vector.double()).sum().float()
            score = (dot * inv_norm[row]) * scale
            found.append((float(score), position))
            if histogram_bins is not None:
                tier = int(torch.floor((score + 1.0) * (histogram_bins / 2)))
                histogram[q, min(max(tier, 0), histogram_bins - 1)] += 1
        found.sort(reverse=True)
        for i, (best, position) in enumerate(found[:k]):
            scores[q, i], positions[q, i] = best, position
    return (positions, scores) if histogram_bins is None else (positions, scores, histogram)


def _query(
    table: Tensor,
    inv_norm: Tensor,
    query_rows: Tensor | None,
    query_vectors: Tensor | None,
    query_inv_norm: Tensor | None,
    q: int,
) -> tuple[Tensor, Tensor]:
    """Vector [M] and inverse norm of a query, 0 where it has no vector."""
    if query_vectors is not None and query_inv_norm is not None:
        return query_vectors[q], query_inv_norm[q]
    if query_vectors is not None:
        norm = query_vectors[q].double().norm()
        return query_vectors[q], torch.where(norm > 0, 1.0 / norm, 0.0).float()
    assert query_rows is not None
    row = int(query_rows[q])
    return table[row], inv_norm[row] * (row != 0)
