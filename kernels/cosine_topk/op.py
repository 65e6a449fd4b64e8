"""Cosine top-K over jagged histories: the function, its checks, and the torch op behind it.

Shape legend: N rows of the table, M width of a vector, U users, T behaviours of all users,
Q queries, K picks.
"""

from __future__ import annotations

import torch
from torch import Tensor, library

from kernels.cosine_topk.walk import cosine_walk
from kernels.jagged import (
    check_device,
    check_index,
    check_per_query,
    check_queries,
    check_rows,
    scans_with_triton,
)

TABLE_DTYPES = (torch.int8, torch.float16, torch.bfloat16, torch.float32)

# Of a vector: up to here a product of int8 vectors is exact in float32, in whatever order.
MOST_WIDTH = 256


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
    query_inv_norm: Tensor | None = None,
    query_begin: Tensor | None = None,
    query_end: Tensor | None = None,
    histogram_bins: int | None = None,
) -> tuple[Tensor, ...]:
    """The K behaviours most similar to each query, by cosine (arXiv 2512.07216, section 3.1).

    score = (float32(dot) * inv_norm[row]) * inv_norm[query], in that order; ties go to the later
    position. Rows without a vector and row 0 are never returned; a query without a vector gets -1.
    With an int8 table the result is exact to the bit, whatever the device and the sizes. Has no
    gradient. Goes through torch.compile and torch.export as one op.

    On a GPU, arguments are checked by shape, dtype and device; by value, as on the CPU, only where
    the environment variable LIFELONG_KERNELS_CHECK is 1, since that waits for the GPU.

    Args:
        table: int8, float16, bfloat16 or float32 [N, M], contiguous, M up to 256; row 0 is padding.
        inv_norm: float32 [N]; 1 / norm of each row, 0 where it has no vector.
        history_rows: int32 or int64 [T]; rows of all users' behaviours, oldest first.
        history_offsets: int32 or int64 [U + 1]; user u has behaviours [offsets[u], offsets[u + 1]).
        query_user: int32 or int64 [Q], sorted; the user whose history the query searches.
        k: picks a query, at least 1.
        query_rows: int32 or int64 [Q]; the query's row of the table. This or `query_vectors`.
        query_vectors: [Q, M] of the table's dtype; the query's own vector, none where all zeros.
        query_inv_norm: float32 [Q]; 1 / norm of each of `query_vectors`, 0 where the query has no
            vector; default computed from them. With that of a table, scores are to the bit those
            of the table's rows.
        query_begin, query_end: int32 or int64 [Q]; window of positions the query may see, default
            all.
        histogram_bins: tiers in which to count all scores of a window, at least 1; None for none.

    Returns:
        positions int32 [Q, K], index inside the user's history, -1 where fewer than K exist;
        scores float32 [Q, K], falling, 0 where fewer exist;
        with `histogram_bins`, histogram int32 [Q, bins]: how many behaviours of the window have a
        score in tier clamp(floor((score + 1) * (bins / 2)), 0, bins - 1), computed in float32;
        behaviours without a score are not counted.

    Raises:
        ValueError: names the argument, what was given and what is accepted.
    """
    if histogram_bins is not None and histogram_bins < 1:
        raise ValueError(f"histogram_bins: {histogram_bins} given, must be at least 1 or None")
    # Not under no_grad: an exported program that fails inside would leave gradients off.
    positions, scores, histogram = _cosine_topk(
        table.detach(),
        inv_norm.detach(),
        history_rows,
        history_offsets,
        query_user,
        k,
        query_rows,
        None if query_vectors is None else query_vectors.detach(),
        None if query_inv_norm is None else query_inv_norm.detach(),
        query_begin,
        query_end,
        histogram_bins or 0,
    )
    return (positions, scores, histogram) if histogram_bins else (positions, scores)


@library.custom_op("lifelong_kernels::cosine_topk", mutates_args=())
def _cosine_topk(
    table: Tensor,
    inv_norm: Tensor,
    history_rows: Tensor,
    history_offsets: Tensor,
    query_user: Tensor,
    k: int,
    query_rows: Tensor | None,
    query_vectors: Tensor | None,
    query_inv_norm: Tensor | None,
    query_begin: Tensor | None,
    query_end: Tensor | None,
    bins: int,
) -> tuple[Tensor, Tensor, Tensor]:
    # All checks are in here: a compiler does not look in, and an exported program keeps them.
    _check_table(table, inv_norm)
    for name, given in (("history_rows", history_rows), ("history_offsets", history_offsets)):
        check_device(name, given, table, "table")
    check_rows("history_rows", history_rows, table.shape[0])
    _check_query_source(table, query_user, query_rows, query_vectors)
    _check_query_inv_norm(query_user, query_rows, query_inv_norm)
    windows = check_queries(
        history_offsets, history_rows.numel(), query_user, k, query_begin, query_end
    )
    vectors_QM, inv_norm_Q = _query_vectors(
        table, inv_norm, query_rows, query_vectors, query_inv_norm
    )
    search = cosine_walk
    if scans_with_triton(table.device, k):
        from kernels.cosine_topk.kernel import cosine_topk_cuda

        search = cosine_topk_cuda
    return search(
        table,
        inv_norm,
        history_rows,
        history_offsets.long(),
        windows,
        k,
        vectors_QM,
        inv_norm_Q,
        bins,
    )


@_cosine_topk.register_fake
def _(
    table: Tensor,
    inv_norm: Tensor,
    history_rows: Tensor,
    history_offsets: Tensor,
    query_user: Tensor,
    k: int,
    query_rows: Tensor | None,
    query_vectors: Tensor | None,
    query_inv_norm: Tensor | None,
    query_begin: Tensor | None,
    query_end: Tensor | None,
    bins: int,
) -> tuple[Tensor, Tensor, Tensor]:
    queries = query_user.shape[0]
    return (
        table.new_empty((queries, k), dtype=torch.int32),
        table.new_empty((queries, k), dtype=torch.float32),
        table.new_empty((queries, bins), dtype=torch.int32),
    )


def _check_table(table: Tensor, inv_norm: Tensor) -> None:
    fits = table.ndim == 2 and 1 <= table.shape[1] <= MOST_WIDTH and table.is_contiguous()
    if not fits or table.dtype not in TABLE_DTYPES:
        raise ValueError(
            f"table: {table.dtype} {tuple(table.shape)}, must be a contiguous [N, M] of "
            f"{', '.join(str(d) for d in TABLE_DTYPES)}, M from 1 to {MOST_WIDTH}"
        )
    if inv_norm.dtype != torch.float32 or inv_norm.shape != table.shape[:1]:
        raise ValueError(
            f"inv_norm: {inv_norm.dtype} {tuple(inv_norm.shape)}, "
            f"must be float32 [{table.shape[0]}], one entry per row of table"
        )
    check_device("inv_norm", inv_norm, table, "table")


def _check_query_source(
    table: Tensor, query_user: Tensor, query_rows: Tensor | None, query_vectors: Tensor | None
) -> None:
    check_index("query_user", query_user)
    check_device("query_user", query_user, table, "table")
    if (query_rows is None) == (query_vectors is None):
        raise ValueError("query_rows, query_vectors: give exactly one of the two")
    if query_rows is not None:
        check_per_query("query_rows", query_rows, query_user)
        check_rows("query_rows", query_rows, table.shape[0])
        return
    assert query_vectors is not None
    shape = (query_user.shape[0], table.shape[1])
    if tuple(query_vectors.shape) != shape or query_vectors.dtype != table.dtype:
        raise ValueError(
            f"query_vectors: {query_vectors.dtype} {tuple(query_vectors.shape)}, "
            f"must be {table.dtype} {shape} like table, one row per query of query_user"
        )
    check_device("query_vectors", query_vectors, table, "table")


def _check_query_inv_norm(
    query_user: Tensor, query_rows: Tensor | None, query_inv_norm: Tensor | None
) -> None:
    if query_inv_norm is None:
        return
    if query_rows is not None:
        raise ValueError(
            "query_inv_norm: given with query_rows, whose norms are in inv_norm; "
            "it goes with query_vectors"
        )
    if query_inv_norm.dtype != torch.float32 or query_inv_norm.shape != query_user.shape:
        raise ValueError(
            f"query_inv_norm: {query_inv_norm.dtype} {tuple(query_inv_norm.shape)}, "
            f"must be float32 {tuple(query_user.shape)}, one entry per query of query_user"
        )
    check_device("query_inv_norm", query_inv_norm, query_user, "query_user")


def _query_vectors(
    table: Tensor,
    inv_norm: Tensor,
    query_rows: Tensor | None,
    query_vectors: Tensor | None,
    query_inv_norm: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Vectors [Q, M] and inverse norms float32 [Q], 0 where a query has no vector."""
    if query_rows is not None:
        inv_norm_Q = inv_norm.index_select(0, query_rows)
        return table.index_select(0, query_rows), inv_norm_Q.masked_fill_(query_rows == 0, 0.0)
    assert query_vectors is not None
    if query_inv_norm is not None:
        return query_vectors.contiguous(), query_inv_norm.contiguous()
    norm_Q = query_vectors.double().norm(dim=1)
    inv_norm_Q = torch.where(norm_Q > 0, 1.0 / norm_Q, 0.0).float()
    return query_vectors.contiguous(), inv_norm_Q
