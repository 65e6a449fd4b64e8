"""Cosine top-K over jagged histories: argument checks and plain torch.

Shape legend: N rows of the table, M width of a vector, U users, L behaviours of a user,
T behaviours of all users, C behaviours of a user in a piece, Q queries, K picks.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kernels.jagged import check_queries, check_rows
from kernels.walk import Piece, topk_walk

TABLE_DTYPES = (torch.int8, torch.float16, torch.bfloat16, torch.float32)


@torch.no_grad()
def cosine_topk(
    table: Tensor,
    inv_norm: Tensor,
    history_rows: Tensor,
    history_offsets: Tensor,
    query_user: Tensor,
    k: int,
    *,
    query_rows: Tensor | None = None,
    query_vectors: Tensor | None = None,
    query_begin: Tensor | None = None,
    query_end: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The K behaviours most similar to each query, by cosine (arXiv 2512.07216, section 3.1).

    score = (float32(dot) * inv_norm[row]) * inv_norm[query], in that order; ties go to the later
    position. Rows without a vector and row 0 are never returned; a query without a vector gets -1.

    Args:
        table: int8, float16, bfloat16 or float32 [N, M], contiguous; row 0 is padding.
        inv_norm: float32 [N]; 1 / norm of each row, 0 where it has no vector.
        history_rows: int32 or int64 [T]; rows of all users' behaviours, oldest first.
        history_offsets: int64 [U + 1].
        query_user: int64 [Q], sorted; the user whose history the query searches.
        k: picks a query, at least 1.
        query_rows: int32 or int64 [Q]; the query's row of the table. This or `query_vectors`.
        query_vectors: [Q, M] of the table's dtype; the query's own vector.
        query_begin, query_end: int64 [Q]; window of positions the query may see, default all.

    Returns:
        positions int32 [Q, K], index inside the user's history, -1 where fewer than K exist;
        scores float32 [Q, K], falling, 0 where fewer exist.

    Raises:
        ValueError: names the argument, what was given and what is accepted.
    """
    _check_table(table, inv_norm)
    check_rows("history_rows", history_rows, table.shape[0])
    windows = check_queries(
        history_offsets, history_rows.numel(), query_user, k, query_begin, query_end
    )
    vectors_QM, inv_norm_Q = _query_vectors(table, inv_norm, query_rows, query_vectors)
    if vectors_QM.shape[0] != windows.user_Q.numel():
        raise ValueError(
            f"query_user: {windows.user_Q.numel()} entries for {vectors_QM.shape[0]} queries"
        )
    scorer = _CosineScorer(table, inv_norm, history_rows, vectors_QM, inv_norm_Q)
    # Under a caller's autocast the products would be rounded to bfloat16.
    with torch.autocast(table.device.type, enabled=False):
        return topk_walk(history_offsets, windows, k, scorer)


def _check_table(table: Tensor, inv_norm: Tensor) -> None:
    if table.ndim != 2 or table.dtype not in TABLE_DTYPES or not table.is_contiguous():
        raise ValueError(
            f"table: {table.dtype} {tuple(table.shape)}, must be a contiguous [N, M] of "
            f"{', '.join(str(d) for d in TABLE_DTYPES)}"
        )
    if inv_norm.dtype != torch.float32 or inv_norm.shape != table.shape[:1]:
        raise ValueError(
            f"inv_norm: {inv_norm.dtype} {tuple(inv_norm.shape)}, "
            f"must be float32 [{table.shape[0]}], one entry per row of table"
        )
    if inv_norm.device != table.device:
        raise ValueError(f"inv_norm: on {inv_norm.device}, must be on {table.device} like table")


def _query_vectors(
    table: Tensor, inv_norm: Tensor, query_rows: Tensor | None, query_vectors: Tensor | None
) -> tuple[Tensor, Tensor]:
    if (query_rows is None) == (query_vectors is None):
        raise ValueError("query_rows, query_vectors: give exactly one of the two")
    if query_rows is not None:
        check_rows("query_rows", query_rows, table.shape[0])
        inv_norm_Q = inv_norm.index_select(0, query_rows)
        return table.index_select(0, query_rows), inv_norm_Q.masked_fill(query_rows == 0, 0.0)
    assert query_vectors is not None
    if query_vectors.shape[1:] != table.shape[1:] or query_vectors.dtype != table.dtype:
        raise ValueError(
            f"query_vectors: {query_vectors.dtype} {tuple(query_vectors.shape)}, "
            f"must be {table.dtype} [Q, {table.shape[1]}]"
        )
    norm_Q = query_vectors.double().norm(dim=1)
    inv_norm_Q = torch.where(norm_Q > 0, 1.0 / norm_Q, 0.0).float()
    return query_vectors, inv_norm_Q


class _CosineScorer:
    """Scores of a piece: one gather per piece, one matrix product per user in it."""

    def __init__(
        self,
        table: Tensor,
        inv_norm: Tensor,
        history_rows: Tensor,
        vectors_QM: Tensor,
        inv_norm_Q: Tensor,
    ) -> None:
        self.table, self.inv_norm, self.history_rows = table, inv_norm, history_rows
        # int8 vectors meet in the CPU's integer product, everything else in float32. That is exact
        # for int8 too: 256 products of at most 2^14 stay below 2^24.
        self.integer = table.dtype == torch.int8 and table.device.type == "cpu"
        self.vectors_QM = vectors_QM.contiguous() if self.integer else vectors_QM.float()
        self.inv_norm_Q = inv_norm_Q

    def __call__(self, piece: Piece) -> Tensor:
        first, last = piece.queries
        begin, end = min(piece.begin_U), max(piece.end_U)
        # index_select is several times slower with int32 than with int64 indices.
        rows = self.history_rows[begin:end].long()
        vectors = self.table.index_select(0, rows)
        inv = self.inv_norm.index_select(0, rows).masked_fill_(rows == 0, 0.0)
        shape = last - first, piece.width
        scores_QC = torch.full(shape, float("-inf"), device=vectors.device)
        spans = zip(piece.begin_U, piece.end_U, piece.query_begin_U, piece.query_end_U, strict=True)
        for low, high, q_low, q_high in spans:
            keys = vectors[low - begin : high - begin]
            queries = self.vectors_QM[q_low:q_high]
            dots = torch._int_mm(queries, keys.t()) if self.integer else queries @ keys.float().t()
            scores = scores_QC[q_low - first : q_high - first, : high - low]
            torch.mul(dots, inv[low - begin : high - begin], out=scores)
            scores.mul_(self.inv_norm_Q[q_low:q_high, None])
        dead = inv == 0
        if bool(dead.any()):
            for low, high, q_low, q_high in zip(
                piece.begin_U, piece.end_U, piece.query_begin_U, piece.query_end_U, strict=True
            ):
                scores = scores_QC[q_low - first : q_high - first, : high - low]
                scores.masked_fill_(dead[low - begin : high - begin], float("-inf"))
        dead_Q = self.inv_norm_Q[first:last] == 0
        if bool(dead_Q.any()):
            scores_QC.masked_fill_(dead_Q[:, None], float("-inf"))
        return scores_QC
