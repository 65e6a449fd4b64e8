"""The walk over jagged histories: one read per user, in pieces of bounded size, latest first.

A top-K op gives the walk a function that turns a piece of a few users' histories into scores;
the walk masks what a query may not see, keeps the best K keys, and joins the pieces.

Shape legend: U users, C behaviours of a user in the piece, Q queries of the piece, K picks.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from kernels.jagged import QueryWindows
from kernels.selection import BestKeys

# Scores alive at once, 4 MB of them: they stay in cache. Finding the best of a piece costs much the
# same for a large one as for a small one.
SCORES_PER_PIECE = 1 << 20

# Behaviours of a piece, where few queries share them.
ROWS_PER_PIECE = 1 << 17

# The columns of a piece are a multiple of this, so that they fall into groups of one size.
ALIGN = 16


@dataclass(frozen=True)
class Piece:
    """A stretch of behaviours of consecutive users, with the queries that may look at it.

    Attributes:
        begin_U, end_U: python lists; the stretch `[begin, end)` of each user, as indices into the
            flat history of all users.
        query_begin_U, query_end_U: python lists; that user's queries, as indices into all queries.
        skipped: behaviours between the first that any query of the user may see and the stretch; 0
            where the piece has several users, whose stretches are never cut.
        head, tail: some query may not look at the first `head` columns, or from column `tail` on.
        width: longest stretch, rounded up to a multiple of `ALIGN`.
    """

    begin_U: list[int]
    end_U: list[int]
    query_begin_U: list[int]
    query_end_U: list[int]
    skipped: int = 0
    head: int = 0
    tail: int = sys.maxsize

    @property
    def width(self) -> int:
        longest = max(e - b for b, e in zip(self.begin_U, self.end_U, strict=True))
        return -(-longest // ALIGN) * ALIGN

    @property
    def queries(self) -> tuple[int, int]:
        return self.query_begin_U[0], self.query_end_U[-1]


ScorePiece = Callable[[Piece], Tensor]
SeePiece = Callable[[Piece, Tensor], None]


def topk_walk(
    history_offsets: Tensor,
    windows: QueryWindows,
    k: int,
    score_piece: ScorePiece,
    *,
    scale_Q: Tensor | None = None,
    see_piece: SeePiece | None = None,
) -> tuple[Tensor, Tensor]:
    """The k best behaviours of each query: highest score first, ties to the later position.

    Args:
        history_offsets: int64 [U + 1].
        windows: checked queries.
        k: picks a query.
        score_piece: piece -> float32 [Q, piece.width], -inf where the behaviour must not be picked;
            column c is the c-th behaviour of the user's stretch, columns past its end are -inf.
            The walk writes to it and is done with it at the next piece.
        scale_Q: float32 [Q], not negative; a score is what score_piece returned times this. Most
            behaviours are dismissed without that product. None for 1.
        see_piece: called with each piece and what score_piece returned, -inf outside the windows.

    Returns:
        positions int32 [Q, K] (-1 where fewer exist), scores float32 [Q, K] (0 there).
    """
    best = BestKeys(windows.user_Q.numel(), k, history_offsets.device, scale_Q)
    low_U, low_Q = _first_seen(windows)
    for piece in _pieces(history_offsets, windows, low_U):
        first, last = piece.queries
        scores_QC = score_piece(piece)
        start_Q = low_Q[first:last] + piece.skipped
        _hide_unseen(scores_QC, piece, start_Q, windows)
        if see_piece is not None:
            see_piece(piece, scores_QC)
        best.add(scores_QC, start_Q, first, last)
    return best.picks()


def _first_seen(windows: QueryWindows) -> tuple[Tensor, Tensor]:
    """First position that any query of a user may see, by user and by query: int64 [U], [Q]."""
    low_U = torch.zeros_like(windows.first_query_U[:-1])
    low_U.scatter_reduce_(0, windows.user_Q, windows.begin_Q, "amin", include_self=False)
    return low_U, low_U.index_select(0, windows.user_Q)


def _hide_unseen(scores_QC: Tensor, piece: Piece, start_Q: Tensor, windows: QueryWindows) -> None:
    """Write -inf where a query may not look; `start_Q` is the position of column 0."""
    first, last = piece.queries
    columns = scores_QC.shape[1]
    head, tail = min(piece.head, columns), max(piece.tail, 0)
    if head > 0:
        begin_Q = (windows.begin_Q[first:last] - start_Q).clamp_(0, columns)
        column_C = torch.arange(0, head, device=start_Q.device, dtype=torch.float32)
        _hide(scores_QC[:, :head], column_C - (begin_Q[:, None] - 0.5))
    if tail < columns:
        end_Q = (windows.end_Q[first:last] - start_Q).clamp_(0, columns)
        column_C = torch.arange(tail, columns, device=start_Q.device, dtype=torch.float32)
        _hide(scores_QC[:, tail:], (end_Q[:, None] - 0.5) - column_C)


def _hide(scores: Tensor, inside: Tensor) -> None:
    """Write -inf where `inside` is negative; it is never 0. Several times faster than a mask."""
    torch.minimum(scores, inside.mul_(float("inf")), out=scores)


def _pieces(history_offsets: Tensor, windows: QueryWindows, low_U: Tensor) -> Iterator[Piece]:
    """Group short users, cut long ones, so that a piece holds at most SCORES_PER_PIECE scores."""
    group = _Group()
    for user in _stretches(history_offsets, windows, low_U):
        if user.queries == 0:
            continue
        long = user.length * user.queries > SCORES_PER_PIECE or user.length > ROWS_PER_PIECE
        # A group covers consecutive queries, so it also ends where there is nothing to score.
        if group.users and (long or user.length <= 0 or not group.takes(user)):
            yield group.piece()
            group = _Group()
        if long:
            yield from _cut_user(user)
        elif user.length > 0:
            group.add(user)
    if group.users:
        yield group.piece()


class _Stretch(NamedTuple):
    """What the queries of a user may see of the flat history; `head` and `tail` as in Piece."""

    low: int
    high: int
    q_begin: int
    q_end: int
    head: int
    tail: int

    @property
    def length(self) -> int:
        return self.high - self.low

    @property
    def queries(self) -> int:
        return self.q_end - self.q_begin


class _Group:
    """Short users that wait to become a piece."""

    def __init__(self) -> None:
        self.users: list[_Stretch] = []
        self.width = self.queries = self.rows = 0

    def takes(self, user: _Stretch) -> bool:
        scores = max(self.width, user.length) * (self.queries + user.queries)
        return scores <= SCORES_PER_PIECE and self.rows + user.length <= ROWS_PER_PIECE

    def add(self, user: _Stretch) -> None:
        self.users.append(user)
        self.width = max(self.width, user.length)
        self.queries += user.queries
        self.rows += user.length

    def piece(self) -> Piece:
        low, high, q_begin, q_end, head, _ = (list(c) for c in zip(*self.users, strict=True))
        # Past the end of a stretch nothing is left to hide.
        tails = [user.tail for user in self.users if user.tail < user.length]
        return Piece(low, high, q_begin, q_end, 0, max(head), min(tails, default=sys.maxsize))


def _cut_user(user: _Stretch) -> Iterator[Piece]:
    """Pieces of one user, latest first: what a tie needs is then already there.

    They are of one size, since the first one's K-th best prunes the others, and a small first
    piece would prune little.
    """
    queries_step = min(user.queries, 1024)
    most = max(min(SCORES_PER_PIECE // queries_step, ROWS_PER_PIECE), 1)
    pieces = -(-user.length // most)
    step = -(-user.length // (pieces * ALIGN)) * ALIGN
    for skipped in reversed(range(0, user.length, step)):
        start, stop = user.low + skipped, min(user.low + skipped + step, user.high)
        head, tail = user.head - skipped, user.tail - skipped
        for query in range(user.q_begin, user.q_end, queries_step):
            last = min(query + queries_step, user.q_end)
            yield Piece([start], [stop], [query], [last], skipped, head, tail)


def _stretches(history_offsets: Tensor, windows: QueryWindows, low_U: Tensor) -> Iterator[_Stretch]:
    base_U = history_offsets[:-1].long()
    none_U = torch.zeros_like(base_U)
    user_Q, begin_Q, end_Q = windows.user_Q, windows.begin_Q, windows.end_Q
    last_begin_U = none_U.scatter_reduce(0, user_Q, begin_Q, "amax", include_self=False)
    first_end_U = none_U.scatter_reduce(0, user_Q, end_Q, "amin", include_self=False)
    last_end_U = none_U.scatter_reduce(0, user_Q, end_Q, "amax", include_self=False)
    query_U = windows.first_query_U
    return map(
        _Stretch,
        (base_U + low_U).tolist(),
        (base_U + last_end_U).tolist(),
        query_U[:-1].tolist(),
        query_U[1:].tolist(),
        (last_begin_U - low_U).tolist(),
        (first_end_U - low_U).tolist(),
    )
