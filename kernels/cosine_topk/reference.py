"""Cosine top-K, slow and obvious: the oracle for every faster path."""

from __future__ import annotations

import torch
from torch import Tensor


def cosine_topk_reference(
    table: Tensor,
    inv_norm: Tensor,
    history_rows: Tensor,
    history_offsets: Tensor,
    query_rows: Tensor,
    query_user: Tensor,
    k: int,
    query_begin: Tensor | None = None,
    query_end: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The same as `kernels.cosine_topk`, one query and one sort at a time."""
    queries = query_rows.numel()
    positions = torch.full((queries, k), -1, dtype=torch.int32)
    scores = torch.zeros(queries, k)
    for q in range(queries):
        user = int(query_user[q])
        rows = history_rows[history_offsets[user] : history_offsets[user + 1]].long()
        begin = 0 if query_begin is None else int(query_begin[q])
        end = rows.numel() if query_end is None else int(query_end[q])
        target = int(query_rows[q])
        if target == 0 or inv_norm[target] == 0:
            continue
        found = []
        for position in range(begin, end):
            row = int(rows[position])
            if row == 0 or inv_norm[row] == 0:
                continue
            dot = (table[row].double() * table[target].double()).sum().float()
            found.append((float((dot * inv_norm[row]) * inv_norm[target]), position))
        found.sort(reverse=True)
        for i, (score, position) in enumerate(found[:k]):
            scores[q, i], positions[q, i] = score, position
    return positions, scores
