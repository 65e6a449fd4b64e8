"""Argument checks and packed sort keys that every top-K over jagged histories shares.

Shape legend: U users, L behaviours of one user, T behaviours of all users, Q queries, K picks.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from importlib.util import find_spec

import torch
from torch import Tensor

NO_KEY = torch.iinfo(torch.int64).min
# Picks a query that a program of the Triton scan can hold sorted in registers.
MOST_PICKS = 1024
INDEX_DTYPES = (torch.int32, torch.int64)
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


def reads_data(device: torch.device) -> bool:
    """Whether arguments on a device are checked by their values and not by their shapes alone.

    Always on the CPU. On a GPU such a check waits for all that was launched before, so it is made
    only where the environment variable LIFELONG_KERNELS_CHECK is 1.
    """
    if device.type == "cpu":
        return True
    return device.type == "cuda" and os.environ.get("LIFELONG_KERNELS_CHECK") == "1"


def scans_with_triton(device: torch.device, k: int) -> bool:
    """Whether the Triton scan takes a search; elsewhere the torch walk does."""
    return device.type == "cuda" and k <= MOST_PICKS and find_spec("triton") is not None


def check_queries(
    history_offsets: Tensor,
    history_size: int,
    query_user: Tensor,
    k: int,
    query_begin: Tensor | None,
    query_end: Tensor | None,
) -> QueryWindows:
    """Check offsets, query order and windows, and fill in full windows where none are given.

    Shapes, dtypes and devices are always checked, values where `reads_data` says so.

    Args:
        history_offsets: int32 or int64 [U + 1], not falling, from 0 to `history_size`.
        history_size: T, behaviours of all users.
        query_user: int32 or int64 [Q], not falling, each in [0, U).
        k: picks a query, at least 1.
        query_begin: int32 or int64 [Q] or None for 0.
        query_end: int32 or int64 [Q] or None for the user's whole history.

    Raises:
        ValueError: names the argument, what was given and what is accepted.
    """
    if k < 1:
        raise ValueError(f"k: {k} given, must be at least 1")
    check_index("history_offsets", history_offsets)
    if history_offsets.numel() < 1:
        raise ValueError("history_offsets: shape (0,), must be [U + 1], at least one entry")
    check_index("query_user", query_user)
    check_device("query_user", query_user, history_offsets, "history_offsets")
    offsets_U, user_Q = history_offsets.long(), query_user.long()
    lengths_U = offsets_U.diff()
    users = lengths_U.numel()
    for name, edge in (("query_begin", query_begin), ("query_end", query_end)):
        if edge is not None:
            check_per_query(name, edge, query_user)
    by_value = reads_data(history_offsets.device)
    if by_value:
        _check_offsets(offsets_U, lengths_U, history_size)
        _check_users(user_Q, users)
    length_Q = lengths_U.index_select(0, user_Q)
    begin_Q = torch.zeros_like(length_Q) if query_begin is None else query_begin.long()
    end_Q = length_Q if query_end is None else query_end.long()
    if by_value and not (query_begin is None and query_end is None):
        _check_windows(begin_Q, end_Q, length_Q)
    # Not bincount: it would wait for a GPU.
    edges_U = torch.arange(users + 1, device=user_Q.device)
    return QueryWindows(user_Q, begin_Q, end_Q, torch.searchsorted(user_Q, edges_U))


def check_index(name: str, given: Tensor) -> None:
    """Raise ValueError unless a tensor is a list of integers."""
    if given.ndim != 1 or given.dtype not in INDEX_DTYPES:
        raise ValueError(
            f"{name}: {given.dtype} {tuple(given.shape)}, must be int32 or int64 in one dimension"
        )


def check_per_query(name: str, given: Tensor, query_user: Tensor) -> None:
    """Raise ValueError unless a tensor has one integer a query, beside `query_user`."""
    check_index(name, given)
    if given.shape != query_user.shape:
        raise ValueError(
            f"{name}: shape {tuple(given.shape)}, must be one entry per query "
            f"{tuple(query_user.shape)}"
        )
    check_device(name, given, query_user, "query_user")


def check_device(name: str, given: Tensor, other: Tensor, other_name: str) -> None:
    """Raise ValueError unless two tensors are on one device."""
    if given.device != other.device:
        raise ValueError(f"{name}: on {given.device}, must be on {other.device} like {other_name}")


def check_rows(name: str, rows: Tensor, table_rows: int) -> None:
    """Raise ValueError unless a tensor is a list of integers, each in [0, table_rows).

    The range is looked at where `reads_data` says so.
    """
    check_index(name, rows)
    if not rows.numel() or not reads_data(rows.device):
        return
    low, high = (int(edge) for edge in torch.aminmax(rows))
    if low < 0 or high >= table_rows:
        raise ValueError(
            f"{name}: entries from {low} to {high}, "
            f"must lie in [0, {table_rows}), the rows of the table"
        )


def _check_offsets(offsets_U: Tensor, lengths_U: Tensor, history_size: int) -> None:
    first, last = int(offsets_U[0]), int(offsets_U[-1])
    if first != 0 or last != history_size:
        raise ValueError(
            f"history_offsets: runs from {first} to {last}, "
            f"must run from 0 to the {history_size} behaviours of the history"
        )
    if bool((lengths_U < 0).any()):
        raise ValueError("history_offsets: falls somewhere, must never fall")


def _check_users(user_Q: Tensor, users: int) -> None:
    if not user_Q.numel():
        return
    low, high = (int(edge) for edge in torch.aminmax(user_Q))
    if low < 0 or high >= users:
        raise ValueError(
            f"query_user: entries from {low} to {high}, must lie in [0, {users}), "
            "the users of history_offsets"
        )
    if bool((user_Q.diff() < 0).any()):
        raise ValueError("query_user: falls somewhere, must be sorted: a history is read once")


def _check_windows(begin_Q: Tensor, end_Q: Tensor, length_Q: Tensor) -> None:
    outside_Q = (begin_Q < 0) | (end_Q > length_Q)
    if bool(outside_Q.any()):
        query = int(outside_Q.nonzero()[0])
        raise ValueError(
            f"query_begin, query_end: window [{int(begin_Q[query])}, {int(end_Q[query])}) of query "
            f"{query}, must lie in the {int(length_Q[query])} behaviours of its user"
        )


def ordered_bits(scores: Tensor) -> Tensor:
    """int32 numbers in the order of float32 scores; equal scores give equal numbers. No NaN."""
    # +0.0 turns -0.0 into 0.0. Flipping the low 31 bits of a negative float's pattern makes the
    # order of integers that of floats.
    bits = (scores + 0.0).view(torch.int32)
    return bits ^ ((bits >> 31) & _LOW_31_BITS)


def scores_of_bits(ordered: Tensor) -> Tensor:
    """The scores that `ordered_bits` was given."""
    return (ordered ^ ((ordered >> 31) & _LOW_31_BITS)).view(torch.float32)


def pack_keys(scores: Tensor, positions: Tensor) -> Tensor:
    """int64 keys that order by score, then by position: a larger key is a better pick.

    Args:
        scores: float32, any shape, no NaN.
        positions: int64 in [0, 2^31), broadcastable to `scores`.
    """
    return (ordered_bits(scores).long() << 32) | positions


def unpack_keys(keys: Tensor) -> tuple[Tensor, Tensor]:
    """Positions (int32, -1 for NO_KEY) and scores (float32, 0 for NO_KEY) of packed keys."""
    empty = keys == NO_KEY
    positions = (keys & _LOW_31_BITS).int().masked_fill_(empty, -1)
    return positions, scores_of_bits((keys >> 32).int()).masked_fill(empty, 0.0)


def best_keys(keys_QL: Tensor, k: int) -> Tensor:
    """The k largest keys of each row, in no order, padded with NO_KEY: int64 [Q, k]."""
    width = keys_QL.shape[1]
    if width > k:
        return keys_QL.topk(k, dim=1, sorted=False).values
    return torch.nn.functional.pad(keys_QL, (0, k - width), value=NO_KEY)
