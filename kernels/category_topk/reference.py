"""The most recent K behaviours of a category, slow and obvious: the oracle."""

from __future__ import annotations

import torch
from torch import Tensor


def category_topk_reference(
    history_category: Tensor,
    history_offsets: Tensor,
    query_category: Tensor,
    query_user: Tensor,
    k: int,
    query_begin: Tensor | None = None,
    query_end: Tensor | None = None,
) -> Tensor:
    """The same as `kernels.category_topk`, one query at a time, latest behaviour first."""
    queries = query_category.numel()
    positions = torch.full((queries, k), -1, dtype=torch.int32)
    for q in range(queries):
        user = int(query_user[q])
        life = history_category[history_offsets[user] : history_offsets[user + 1]].tolist()
        begin = 0 if query_begin is None else int(query_begin[q])
        end = len(life) if query_end is None else int(query_end[q])
        wanted = int(query_category[q])
        found = [p for p in range(end - 1, begin - 1, -1) if life[p] == wanted and wanted != 0]
        for i, position in enumerate(found[:k]):
            positions[q, i] = position
    return positions
