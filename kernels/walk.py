"""The walk over jagged histories: one read per user, in pieces of bounded size.

A top-K op gives the walk a function that turns a piece of a few users' histories into scores;
the walk masks what a query may not see, keeps the best K keys, and joins the pieces.

Shape legend: U users, C behaviours of a user in the piece, Q queries of the piece, K picks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from kernels.jagged import NO_KEY, QueryWindows, best_keys, pack_keys, unpack_keys

# Scores alive at once: enough to keep the matrix product busy, few enough to stay in cache. Later
# pieces of a long history are pruned by the K-th best of the earlier ones, so small pieces pay.
SCORES_PER_PIECE = 1 << 18

# Behaviours whose maximum stands for them in the first estimate of the K-th best score.
GROUP = 8

# Below every cosine, above the -inf of what must not be picked.
_LOWEST = -3.0e38


@dataclass(frozen=True)
class Piece:
    """A stretch of behaviours of consecutive users, with the queries that may look at it.

    Attributes:
        begin_U, end_U: python lists; the stretch `[begin, end)` of each user, as indices into the
            flat history of all users.
        query_begin_U, query_end_U: python lists; that user's queries, as indices into all queries.
        width: longest stretch.
    """

    begin_U: list[int]
    end_U: list[int]
    query_begin_U: list[int]
    query_end_U: list[int]

    @property
    def width(self) -> int:
        return max(e - b for b, e in zip(self.begin_U, self.end_U, strict=True))

    @property
    def queries(self) -> tuple[int, int]:
        return self.query_begin_U[0], self.query_end_U[-1]


ScorePiece = Callable[[Piece], Tensor]


def topk_walk(
    history_offsets: Tensor, windows: QueryWindows, k: int, score_piece: ScorePiece
) -> tuple[Tensor, Tensor]:
    """The k best behaviours of each query: highest score first, ties to the later position.

    Args:
        history_offsets: int64 [U + 1].
        windows: checked queries.
        k: picks a query.
        score_piece: piece -> float32 [Q, C], -inf where the behaviour must not be picked; column c
            is the c-th behaviour of the user's stretch, columns past its end are ignored.

    Returns:
        positions int32 [Q, K] (-1 where fewer exist), scores float32 [Q, K] (0 there).
    """
    queries = windows.user_Q.numel()
    best_QK = torch.full((queries, k), NO_KEY, device=history_offsets.device)
    for piece in _pieces(history_offsets, windows):
        first, last = piece.queries
        scores_QC, start_Q = _visible_scores(piece, score_piece(piece), history_offsets, windows)
        known_QK = best_QK[first:last]
        keys = _contender_keys(scores_QC, start_Q, _floor(scores_QC, known_QK))
        if bool((known_QK[:, 0] != NO_KEY).any()):
            keys = torch.cat([known_QK, keys], dim=1)
        best_QK[first:last] = best_keys(keys, k)
    return unpack_keys(best_QK)


def _floor(scores_QC: Tensor, known_QK: Tensor) -> Tensor:
    """A score per query that none of its K best can fall below: float32 [Q].

    The K-th best of earlier pieces is one. In the first piece, the K-th highest of the maxima of
    small groups is: at least K behaviours, one a group, reach it.
    """
    queries, k = known_QK.shape
    worst_Q = known_QK[:, -1]
    floor_Q = unpack_keys(worst_Q)[1].masked_fill_(worst_Q == NO_KEY, _LOWEST)
    columns = scores_QC.shape[1] // GROUP * GROUP
    if columns // GROUP < k or not bool((worst_Q == NO_KEY).any()):
        return floor_Q
    maxima = scores_QC[:, :columns].view(queries, -1, GROUP).amax(dim=2)
    return torch.maximum(floor_Q, maxima.topk(k, dim=1, sorted=False).values.amin(dim=1))


def _contender_keys(scores_QC: Tensor, start_Q: Tensor, floor_Q: Tensor) -> Tensor:
    """Keys of what is not below the floor, moved together: int64 [Q, c], c as small as can be."""
    row, column = (scores_QC >= floor_Q[:, None]).nonzero(as_tuple=True)
    counts_Q = torch.bincount(row, minlength=scores_QC.shape[0])
    first_Q = counts_Q.cumsum(0) - counts_Q
    slot = torch.arange(row.numel(), device=row.device) - first_Q.index_select(0, row)
    keys = torch.full((scores_QC.shape[0], int(counts_Q.max())), NO_KEY, device=row.device)
    keys[row, slot] = pack_keys(scores_QC[row, column], start_Q.index_select(0, row) + column)
    return keys


def _visible_scores(
    piece: Piece, scores_QC: Tensor, history_offsets: Tensor, windows: QueryWindows
) -> tuple[Tensor, Tensor]:
    """Scores with -inf outside each query's window, and the position of column 0 per query."""
    first, last = piece.queries
    user_Q = windows.user_Q[first:last]
    low_Q, high_Q = _stretch_of_queries(piece, user_Q.device)
    life_start_Q = history_offsets.index_select(0, user_Q)
    start_Q = low_Q - life_start_Q
    stop_Q = torch.minimum(high_Q - life_start_Q, windows.end_Q[first:last])
    begin_Q = windows.begin_Q[first:last]
    columns_C = torch.arange(scores_QC.shape[1], device=user_Q.device)
    if bool(((stop_Q - start_Q) < scores_QC.shape[1]).any()):
        scores_QC.masked_fill_(columns_C >= (stop_Q - start_Q)[:, None], float("-inf"))
    if bool((begin_Q > start_Q).any()):
        scores_QC.masked_fill_(columns_C < (begin_Q - start_Q)[:, None], float("-inf"))
    return scores_QC, start_Q


def _stretch_of_queries(piece: Piece, device: torch.device) -> tuple[Tensor, Tensor]:
    """Begin and end of the stretch that each query of the piece looks at: int64 [Q] each."""
    edges = torch.tensor(
        [piece.begin_U, piece.end_U, piece.query_begin_U, piece.query_end_U], device=device
    )
    counts_U = edges[3] - edges[2]
    return edges[0].repeat_interleave(counts_U), edges[1].repeat_interleave(counts_U)


def _pieces(history_offsets: Tensor, windows: QueryWindows) -> Iterator[Piece]:
    """Group short users, cut long ones, so that a piece holds at most SCORES_PER_PIECE scores."""
    query_offsets = windows.first_query_U.tolist()
    lows, highs = _seen_stretch(history_offsets, windows)
    group: list[tuple[int, int, int, int]] = []
    group_width = group_queries = 0
    for user, (low, high) in enumerate(zip(lows, highs, strict=True)):
        q_begin, q_end = query_offsets[user], query_offsets[user + 1]
        if q_begin == q_end or low >= high:
            # Nothing to score; a group must cover consecutive queries, so it ends here.
            if q_begin != q_end and group:
                yield _as_piece(group)
                group, group_width, group_queries = [], 0, 0
            continue
        width = max(group_width, high - low)
        if group and width * (group_queries + q_end - q_begin) > SCORES_PER_PIECE:
            yield _as_piece(group)
            group, group_width, group_queries = [], 0, 0
            width = high - low
        if (high - low) * (q_end - q_begin) > SCORES_PER_PIECE:
            yield from _cut_user(low, high, q_begin, q_end)
            continue
        group.append((low, high, q_begin, q_end))
        group_width, group_queries = width, group_queries + q_end - q_begin
    if group:
        yield _as_piece(group)


def _cut_user(low: int, high: int, q_begin: int, q_end: int) -> Iterator[Piece]:
    queries_step = min(q_end - q_begin, 1024)
    step = max(SCORES_PER_PIECE // queries_step, 1)
    for start in range(low, high, step):
        for query in range(q_begin, q_end, queries_step):
            stop = min(query + queries_step, q_end)
            yield _as_piece([(start, min(start + step, high), query, stop)])


def _seen_stretch(history_offsets: Tensor, windows: QueryWindows) -> tuple[list[int], list[int]]:
    """The stretch of the flat history that any query of the user may see, per user."""
    base_U = history_offsets[:-1].long()
    low_U = torch.full_like(base_U, torch.iinfo(torch.int64).max)
    high_U = torch.zeros_like(base_U)
    low_U.scatter_reduce_(0, windows.user_Q, windows.begin_Q, "amin")
    high_U.scatter_reduce_(0, windows.user_Q, windows.end_Q, "amax")
    low_U = torch.where(windows.first_query_U.diff() > 0, low_U, 0)
    return (base_U + low_U).tolist(), (base_U + high_U).tolist()


def _as_piece(parts: list[tuple[int, int, int, int]]) -> Piece:
    begin, end, q_begin, q_end = (list(column) for column in zip(*parts, strict=True))
    return Piece(begin, end, q_begin, q_end)
