"""Most recent K behaviours of the target's category: argument checks and plain torch.

Shape legend: U users, T behaviours of all users, C behaviours of a user in a piece, Q queries,
K picks.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kernels.jagged import check_queries
from kernels.walk import Piece, topk_walk


@torch.no_grad()
def category_topk(
    history_category: Tensor,
    history_offsets: Tensor,
    query_category: Tensor,
    query_user: Tensor,
    k: int,
    *,
    query_begin: Tensor | None = None,
    query_end: Tensor | None = None,
) -> Tensor:
    """The K latest behaviours whose category is the query's (SIM-hard, arXiv 2006.05639, 3.2).

    Args:
        history_category: int32 or int64 [T]; category of all users' behaviours, oldest first.
        history_offsets: int64 [U + 1].
        query_category: int32 or int64 [Q]; 0 (unknown) matches nothing.
        query_user: int64 [Q], sorted.
        k: picks a query, at least 1.
        query_begin, query_end: int64 [Q]; window of positions the query may see, default all.

    Returns:
        positions int32 [Q, K], latest first, -1 where fewer than K exist.

    Raises:
        ValueError: names the argument, what was given and what is accepted.
    """
    windows = check_queries(
        history_offsets, history_category.numel(), query_user, k, query_begin, query_end
    )
    if query_category.shape != windows.user_Q.shape:
        raise ValueError(
            f"query_category: shape {tuple(query_category.shape)}, "
            f"must be one entry per query {tuple(windows.user_Q.shape)}"
        )

    def score(piece: Piece) -> Tensor:
        first, last = piece.queries
        shape = last - first, piece.width
        scores_QC = torch.full(shape, float("-inf"), device=history_category.device)
        spans = zip(piece.begin_U, piece.end_U, piece.query_begin_U, piece.query_end_U, strict=True)
        for low, high, q_low, q_high in spans:
            wanted = query_category[q_low:q_high, None]
            same = (history_category[low:high] == wanted) & (wanted != 0)
            # All matches tie at 0, and ties go to the later position: the most recent come first.
            scores_QC[q_low - first : q_high - first, : high - low].masked_fill_(same, 0.0)
        return scores_QC

    return topk_walk(history_offsets, windows, k, score)[0]
