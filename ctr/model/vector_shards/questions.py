"""Queries over histories, cut into what each owner of rows is asked.

Shape legend: W processes, U users, T events, S events that are not padding, B queries of this
process, Q queries that reach a process, K picks.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ctr.model.vector_shards.rows import ByOwner
from kernels.jagged import NO_KEY, QueryWindows, best_keys, pack_keys, unpack_keys


@dataclass(frozen=True)
class SubHistories:
    """Of each user's history, the events whose rows a process owns, by process.

    Attributes:
        order_S: int64; places of the events in all histories, owner by owner, rising within one.
        edges_WU: int64 [W, U + 1]; process w's part of user u's history is `order_S[edges[w, u] :
            edges[w, u + 1]]`.
        begin_WB, end_WB: int64; each query's window in positions of its user's part.
    """

    order_S: Tensor
    edges_WU: Tensor
    begin_WB: Tensor
    end_WB: Tensor


def cut_histories(
    sorted_rows: ByOwner, offsets_U: Tensor, windows: QueryWindows, events: int
) -> SubHistories:
    """Parts of the histories by owner, and the windows in each.

    Args:
        sorted_rows: events by the owners of their rows; offsets_U: int64 [U + 1].
        windows: of the queries, checked; events: T.
    """
    order_S, counts = sorted_rows.order_m, sorted_rows.counts
    first_W = torch.arange(len(counts), device=order_S.device)[:, None] * events
    # Owners apart and rising within each: one sorted list, in which any place is searched.
    owner_S = first_W[:, 0].repeat_interleave(torch.tensor(counts, device=order_S.device))
    key_S = owner_S + order_S
    base_B = offsets_U.index_select(0, windows.user_Q)
    edges_WU = torch.searchsorted(key_S, first_W + offsets_U)
    start_WB = edges_WU.index_select(1, windows.user_Q)
    begin_WB = torch.searchsorted(key_S, first_W + (base_B + windows.begin_Q)) - start_WB
    end_WB = torch.searchsorted(key_S, first_W + (base_B + windows.end_Q)) - start_WB
    return SubHistories(order_S, edges_WU, begin_WB, end_WB)


@dataclass(frozen=True)
class Questions:
    """What a process is asked by all, as `kernels.cosine_topk` takes it.

    Attributes:
        rows: int32; rows of its parts of the histories of all users of all processes.
        offsets_U: int64 [U + 1]; the stretch of each user in them.
        user_Q: int64; the query's user.
        target_Q: int32; the query's row.
        begin_Q, end_Q: int64; its window.
    """

    rows: Tensor
    offsets_U: Tensor
    user_Q: Tensor
    target_Q: Tensor
    begin_Q: Tensor
    end_Q: Tensor


def questions_of(
    cut: SubHistories, windows: QueryWindows, target_B: Tensor
) -> tuple[Tensor, list[int]]:
    """All that is asked but the rows: int32, for one process after another, and each one's length.

    For each user events and queries, for each query target, begin and end of its window.
    """
    world_size = cut.edges_WU.shape[0]
    queries_U = windows.first_query_U.diff().expand(world_size, -1)
    target_WB = target_B.expand(world_size, -1)
    parts = (cut.edges_WU.diff(dim=1), queries_U, target_WB, cut.begin_WB, cut.end_WB)
    asked_W = torch.cat([part.int() for part in parts], dim=1)
    return asked_W.reshape(-1), [asked_W.shape[1]] * world_size


def read_questions(asked: Tensor, rows: Tensor, users: list[int], queries: list[int]) -> Questions:
    """What `questions_of` of every process said to this one.

    Args:
        asked: int32, one process after another; rows: int32, likewise.
        users, queries: of each process.
    """
    lengths = [n for u, b in zip(users, queries, strict=True) for n in (u, u, b, b, b)]
    parts = asked.split(lengths)
    length_U, queries_U, target_Q, begin_Q, end_Q = (torch.cat(parts[i::5]) for i in range(5))
    user_Q = torch.arange(len(length_U), device=asked.device).repeat_interleave(queries_U)
    offsets_U = torch.nn.functional.pad(length_U.cumsum(0), (1, 0))
    return Questions(rows, offsets_U, user_Q, target_Q, begin_Q.long(), end_Q.long())


def merge_answers(
    key_WBK: Tensor, cut: SubHistories, offsets_U: Tensor, user_B: Tensor
) -> tuple[Tensor, Tensor]:
    """The best of all processes' best, positions those of the whole histories.

    Distinct keys (score, position) have one order, so the best K of all are among the best K of
    each part, and a part keeps the order of its positions: the merge is exact.

    Args:
        key_WBK: int64 keys of `kernels.jagged.pack_keys`, by process.
        cut: the parts; offsets_U: int64 [U + 1]; user_B: int64.

    Returns:
        positions int32 [B, K], scores float32 [B, K], as of `kernels.cosine_topk`.
    """
    k = key_WBK.shape[2]
    position_WBK, score_WBK = unpack_keys(key_WBK)
    none_WBK = position_WBK < 0
    start_WB = cut.edges_WU.index_select(1, user_B)
    place_WBK = (start_WB[:, :, None] + position_WBK).masked_fill_(none_WBK, 0)
    if cut.order_S.numel():
        place_WBK = cut.order_S[place_WBK]
    whole_WBK = place_WBK - offsets_U.index_select(0, user_B)[:, None]
    whole_WBK = pack_keys(score_WBK, whole_WBK).masked_fill_(none_WBK, NO_KEY)
    key_BK = best_keys(whole_WBK.transpose(0, 1).flatten(1), k)
    return unpack_keys(key_BK.sort(dim=1, descending=True).values)
