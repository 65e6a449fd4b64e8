"""Most recent K behaviours of the target's category: argument checks, the torch op, plain torch.

Shape legend: U users, T behaviours of all users, C behaviours of a user in a piece, Q queries,
K picks.
"""

from __future__ import annotations

import torch
from torch import Tensor, library

from kernels.jagged import (
    QueryWindows,
    check_device,
    check_index,
    check_per_query,
    check_queries,
    scans_with_triton,
)
from kernels.scratch import scratch
from kernels.walk import Piece, topk_walk


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

    Goes through torch.compile and torch.export as one op. On a GPU, arguments are checked by value
    only where the environment variable LIFELONG_KERNELS_CHECK is 1, since that waits for the GPU.

    Args:
        history_category: int32 or int64 [T]; category of all users' behaviours, oldest first.
        history_offsets: int32 or int64 [U + 1]; user u has behaviours [offsets[u], offsets[u + 1]).
        query_category: int32 or int64 [Q]; 0 (unknown) matches nothing.
        query_user: int32 or int64 [Q], sorted.
        k: picks a query, at least 1.
        query_begin, query_end: int32 or int64 [Q]; window of positions the query may see, default
            all.

    Returns:
        positions int32 [Q, K], latest first, -1 where fewer than K exist.

    Raises:
        ValueError: names the argument, what was given and what is accepted.
    """
    return _category_topk(
        history_category, history_offsets, query_category, query_user, k, query_begin, query_end
    )


@library.custom_op("lifelong_kernels::category_topk", mutates_args=())
def _category_topk(
    history_category: Tensor,
    history_offsets: Tensor,
    query_category: Tensor,
    query_user: Tensor,
    k: int,
    query_begin: Tensor | None,
    query_end: Tensor | None,
) -> Tensor:
    # All checks are in here: a compiler does not look in, and an exported program keeps them.
    check_index("history_category", history_category)
    check_device("history_offsets", history_offsets, history_category, "history_category")
    windows = check_queries(
        history_offsets, history_category.numel(), query_user, k, query_begin, query_end
    )
    check_per_query("query_category", query_category, query_user)
    if scans_with_triton(history_category.device, k):
        from kernels.category_topk.kernel import category_topk_cuda

        return category_topk_cuda(
            history_category, history_offsets.long(), windows, query_category, k
        )
    return _category_walk(history_category, history_offsets, windows, query_category, k)


@_category_topk.register_fake
def _(
    history_category: Tensor,
    history_offsets: Tensor,
    query_category: Tensor,
    query_user: Tensor,
    k: int,
    query_begin: Tensor | None,
    query_end: Tensor | None,
) -> Tensor:
    return history_category.new_empty((query_user.shape[0], k), dtype=torch.int32)


def _category_walk(
    history_category: Tensor,
    history_offsets: Tensor,
    windows: QueryWindows,
    query_category: Tensor,
    k: int,
) -> Tensor:
    device = history_category.device
    wanted_Q = query_category[:, None]
    known_Q = wanted_Q != 0

    def score(piece: Piece) -> Tensor:
        first, last = piece.queries
        scores_QC = scratch("scores", (last - first, piece.width), torch.float32, device)
        scores_QC.fill_(float("-inf"))
        spans = zip(piece.begin_U, piece.end_U, piece.query_begin_U, piece.query_end_U, strict=True)
        for low, high, q_low, q_high in spans:
            same = (history_category[low:high] == wanted_Q[q_low:q_high]) & known_Q[q_low:q_high]
            # All matches tie at 0, and ties go to the later position: the most recent come first.
            scores_QC[q_low - first : q_high - first, : high - low].masked_fill_(same, 0.0)
        return scores_QC

    return topk_walk(history_offsets, windows, k, score)[0]
