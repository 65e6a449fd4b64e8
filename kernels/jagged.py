"""Argument checks and packed sort keys that every top-K over jagged histories shares.

Shape legend: U users, L behaviours of one user, T behaviours of all users, Q queries, K picks.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

NO_KEY = torch.iinfo(torch.int64).min
_LOW_31_BITS = 0x7FFFFFFF


@dataclass(frozen=True)
class QueryWindows:
    """Checked queries: who asks, and which part of the history each may see.

    Attributes:
        user_Q: int64 [Q], rising; index of the query's user.
        begin_Q, end_Q: int64 [Q]; the window `[begin, end)` in positions of that user's history.
        first_query_U: int64 [U + 1]; user u asks queries `[first_query_U[u], first_query_U[u+1])`.
    """

    user_Q: Tensor
    begin_Q: Tensor
    end_Q: Tensor
    first_query_U: Tensor


def check_queries(
    history_offsets: Tensor,
    history_size: int,
    query_user: Tensor,
    k: int,
    query_begin: Tensor | None,
    query_end: Tensor | None,
) -> QueryWindows:
    """Check offsets, query order and windows, and fill in full windows where none are given.

    Args:
        history_offsets: int64 [U + 1], not falling, from 0 to `history_size`.
        history_size: T, behaviours of all users.
        query_user: int64 [Q], not falling, each in [0, U).
        k: picks a query, at least 1.
        query_begin: int64 [Q] or None for 0.
        query_end: int64 [Q] or None for the user's whole history.

    Raises:
        ValueError: names the argument, what was given and what is accepted.
    """
    if k < 1:
        raise ValueError(f"k: {k} given, must be at least 1")
    if history_offsets.ndim != 1 or history_offsets.numel() < 1:
        raise ValueError(f"history_offsets: shape {tuple(history_offsets.shape)}, must be [U + 1]")
    lengths_U = history_offsets.diff()
    if int(history_offsets[0]) != 0 or int(history_offsets[-1]) != history_size:
        raise ValueError(
            f"history_offsets: runs from {int(history_offsets[0])} to {int(history_offsets[-1])}, "
            f"must run from 0 to the {history_size} rows of history_rows"
        )
    if (lengths_U < 0).any():
        raise ValueError("history_offsets: falls somewhere, must never fall")
    users = lengths_U.numel()
    user_Q = query_user.long()
    if user_Q.numel():
        if int(user_Q.min()) < 0 or int(user_Q.max()) >= users:
            raise ValueError(f"query_user: must lie in [0, {users}), the users of history_offsets")
        if (user_Q.diff() < 0).any():
            raise ValueError("query_user: must be sorted, so that a user's history is read once")
    length_Q = lengths_U.index_select(0, user_Q)
    begin_Q = _window_edge("query_begin", query_begin, torch.zeros_like(length_Q))
    end_Q = _window_edge("query_end", query_end, length_Q)
    if ((begin_Q < 0) | (end_Q > length_Q)).any():
        raise ValueError("query_begin, query_end: a window reaches outside its user's history")
    counts_U = torch.bincount(user_Q, minlength=users)
    first_query_U = torch.cat([counts_U.new_zeros(1), counts_U.cumsum(0)])
    return QueryWindows(user_Q, begin_Q, end_Q, first_query_U)


def _window_edge(name: str, given: Tensor | None, default_Q: Tensor) -> Tensor:
    if given is None:
        return default_Q
    if given.shape != default_Q.shape:
        raise ValueError(
            f"{name}: shape {tuple(given.shape)}, must be one entry per query "
            f"{tuple(default_Q.shape)}"
        )
    return given.long()


def check_rows(name: str, rows: Tensor, table_rows: int) -> None:
    """Raise ValueError unless every entry of an integer tensor lies in [0, table_rows)."""
    if rows.dtype not in (torch.int32, torch.int64):
        raise ValueError(f"{name}: dtype {rows.dtype}, must be int32 or int64")
    if rows.numel() and (int(rows.min()) < 0 or int(rows.max()) >= table_rows):
        raise ValueError(
            f"{name}: entries from {int(rows.min())} to {int(rows.max())}, "
            f"must lie in [0, {table_rows}), the rows of the table"
        )


def pack_keys(scores: Tensor, positions: Tensor) -> Tensor:
    """int64 keys that order by score, then by position: a larger key is a better pick.

    Args:
        scores: float32, any shape, no NaN.
        positions: int64 in [0, 2^31), broadcastable to `scores`.
    """
    # +0.0 turns -0.0 into 0.0, so that equal scores give equal bits. Flipping the low 31 bits of
    # a negative float's pattern makes integer order equal float order.
    bits = (scores + 0.0).view(torch.int32)
    ordered = bits ^ ((bits >> 31) & _LOW_31_BITS)
    return (ordered.long() << 32) | positions


def unpack_keys(keys: Tensor) -> tuple[Tensor, Tensor]:
    """Positions (int32, -1 for NO_KEY) and scores (float32, 0 for NO_KEY) of packed keys."""
    empty = keys == NO_KEY
    positions = (keys & _LOW_31_BITS).int().masked_fill_(empty, -1)
    ordered = (keys >> 32).int()
    bits = ordered ^ ((ordered >> 31) & _LOW_31_BITS)
    return positions, bits.view(torch.float32).masked_fill(empty, 0.0)


def best_keys(keys_QL: Tensor, k: int) -> Tensor:
    """The k largest keys of each row, falling, padded with NO_KEY: int64 [Q, k]."""
    width = min(k, keys_QL.shape[1])
    best = keys_QL.topk(width, dim=1, sorted=True).values
    if width == k:
        return best
    return torch.cat([best, best.new_full((best.shape[0], k - width), NO_KEY)], dim=1)
