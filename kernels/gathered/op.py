"""Gathered dot and gathered sum, each the other's derivative.

Attention over picked rows is dot, softmax, sum. Done on a [B, K, D] copy of the rows it keeps that
copy and moves it seven times forward and backward. These two read the V distinct rows in place, or
make a piece of the copy at a time where torch has no such kernel.

Shape legend: B queries, K picks, V rows, D width.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

# Numbers of a piece: small enough for a CPU's cache, large enough to fill a GPU.
_PIECE = {"cpu": 1 << 20, "cuda": 1 << 26}


def gathered_dot(query_BD: Tensor, rows_VD: Tensor, index_BK: Tensor) -> Tensor:
    """<query b, row index[b, k]> of every pick: float [B, K], differentiable in both operands.

    Args:
        query_BD: float [B, D]; rows_VD: float [V, D], same dtype; index_BK: int64 in [0, V).

    Raises:
        ValueError: names the argument, what was given and what is accepted.
    """
    _check("query_BD", query_BD, (index_BK.shape[0], rows_VD.shape[1]), rows_VD, index_BK)
    return _Dot.apply(query_BD, rows_VD, index_BK)


def gathered_sum(weight_BK: Tensor, rows_VD: Tensor, index_BK: Tensor) -> Tensor:
    """Sum over k of weight[b, k] row index[b, k]: float [B, D], differentiable in both operands.

    Args:
        weight_BK: float [B, K]; rows_VD: float [V, D], same dtype; index_BK: int64 in [0, V).

    Raises:
        ValueError: names the argument, what was given and what is accepted.
    """
    _check("weight_BK", weight_BK, tuple(index_BK.shape), rows_VD, index_BK)
    return _Sum.apply(weight_BK, rows_VD, index_BK)


def _check(
    name: str, given: Tensor, shape: tuple[int, ...], rows_VD: Tensor, index_BK: Tensor
) -> None:
    if rows_VD.ndim != 2 or index_BK.ndim != 2 or index_BK.dtype != torch.int64:
        raise ValueError(
            f"rows_VD, index_BK: {tuple(rows_VD.shape)} and {index_BK.dtype} "
            f"{tuple(index_BK.shape)}, must be [V, D] and int64 [B, K]"
        )
    if tuple(given.shape) != shape or given.dtype != rows_VD.dtype:
        raise ValueError(
            f"{name}: {given.dtype} {tuple(given.shape)}, must be {rows_VD.dtype} {shape}"
        )


def _dot(query_BD: Tensor, rows_VD: Tensor, index_BK: Tensor) -> Tensor:
    if query_BD.device.type != "cpu" or query_BD.dtype != torch.float32:
        return torch.cat(
            [
                torch.bmm(F.embedding(index_BK[part], rows_VD), query_BD[part, :, None]).squeeze(2)
                for part in _pieces(query_BD, index_BK)
            ]
        )
    picks = index_BK.shape[1]
    queries = torch.arange(index_BK.shape[0], device=index_BK.device)
    # aten's derivative of a weighted embedding bag by its weights is this very product.
    return torch.ops.aten._embedding_bag_per_sample_weights_backward(
        query_BD.contiguous(),
        rows_VD.contiguous(),
        index_BK.reshape(-1),
        queries * picks,
        queries.repeat_interleave(picks),
        0,
    ).view(index_BK.shape)


def _sum(weight_BK: Tensor, rows_VD: Tensor, index_BK: Tensor) -> Tensor:
    if index_BK.shape[1] == 0:
        return rows_VD.new_zeros(index_BK.shape[0], rows_VD.shape[1])
    return F.embedding_bag(
        index_BK, rows_VD.contiguous(), per_sample_weights=weight_BK.contiguous(), mode="sum"
    )


def _scatter(weight_BK: Tensor, query_BD: Tensor, index_BK: Tensor, rows: int) -> Tensor:
    """Sum of weight[b, k] query[b] into row index[b, k]: [V, D].

    In float32 at least: a row that thousands pick would lose what is added last.
    """
    width = query_BD.shape[1]
    exact = torch.promote_types(query_BD.dtype, torch.float32)
    sums_VD = query_BD.new_zeros(rows, width, dtype=exact)
    for part in _pieces(query_BD, index_BK):
        outer = weight_BK[part, :, None].to(exact) * query_BD[part, None].to(exact)
        sums_VD.index_add_(0, index_BK[part].reshape(-1), outer.view(-1, width))
    return sums_VD.to(query_BD.dtype)


def _pieces(query_BD: Tensor, index_BK: Tensor) -> Iterator[slice]:
    """All queries, one piece at least, in pieces whose [B, K, D] is small."""
    if torch.compiler.is_compiling():
        # A number of pieces that follows the batch would be a graph for each.
        yield slice(None)
        return
    queries, most = query_BD.shape[0], _PIECE.get(query_BD.device.type, 1 << 20)
    step = max(most // max(index_BK.shape[1] * query_BD.shape[1], 1), 1)
    for first in range(0, max(queries, 1), step):
        yield slice(first, first + step)


class _Dot(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query_BD: Tensor, rows_VD: Tensor, index_BK: Tensor) -> Tensor:
        ctx.save_for_backward(query_BD, rows_VD, index_BK)
        return _dot(query_BD, rows_VD, index_BK)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        query_BD, rows_VD, index_BK = ctx.saved_tensors
        (grad_BK,) = grads
        wants_query, wants_rows, _ = ctx.needs_input_grad
        return (
            _sum(grad_BK, rows_VD, index_BK) if wants_query else None,
            _scatter(grad_BK, query_BD, index_BK, rows_VD.shape[0]) if wants_rows else None,
            None,
        )


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight_BK: Tensor, rows_VD: Tensor, index_BK: Tensor) -> Tensor:
        ctx.save_for_backward(weight_BK, rows_VD, index_BK)
        return _sum(weight_BK, rows_VD, index_BK)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        weight_BK, rows_VD, index_BK = ctx.saved_tensors
        (grad_BD,) = grads
        wants_weight, wants_rows, _ = ctx.needs_input_grad
        return (
            _dot(grad_BD, rows_VD, index_BK) if wants_weight else None,
            _scatter(weight_BK, grad_BD, index_BK, rows_VD.shape[0]) if wants_rows else None,
            None,
        )
