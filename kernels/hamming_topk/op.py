"""Hamming top-K over jagged histories: argument checks, the torch op, plain torch.

Shape legend: N rows of the table, W words of a code, S bits of a code, U users, T behaviours of
all users, C behaviours of a user in a piece, P behaviours of a piece, Q queries, K picks.
"""

from __future__ import annotations

import torch
from torch import Tensor, library

from kernels.jagged import (
    QueryWindows,
    check_device,
    check_per_query,
    check_queries,
    check_rows,
    scans_with_triton,
)
from kernels.scratch import scratch
from kernels.walk import Piece, topk_walk

CODE_DTYPES = (torch.int32, torch.int64)
MOST_WORDS = 8


def hamming_topk(
    codes: Tensor,
    history_rows: Tensor,
    history_offsets: Tensor,
    query_user: Tensor,
    k: int,
    *,
    query_rows: Tensor | None = None,
    query_codes: Tensor | None = None,
    query_begin: Tensor | None = None,
    query_end: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The K behaviours whose SimHash code differs least from the query's (ETA, arXiv 2108.04468).

    Every bit of a word counts. Ties go to the later position; row 0 is never returned.

    Goes through torch.compile and torch.export as one op. On a GPU, arguments are checked by value
    only where the environment variable LIFELONG_KERNELS_CHECK is 1, since that waits for the GPU.

    Args:
        codes: int32 or int64 [N, W], contiguous, W up to 8; packed bits, row 0 is padding.
        history_rows: int32 or int64 [T]; rows of all users' behaviours, oldest first.
        history_offsets: int32 or int64 [U + 1]; user u has behaviours [offsets[u], offsets[u + 1]).
        query_user: int32 or int64 [Q], sorted; the user whose history the query searches.
        k: picks a query, at least 1.
        query_rows: int32 or int64 [Q]; the query's row of the table, 0 picks nothing. This or
            `query_codes`.
        query_codes: [Q, W] of the table's dtype; the query's own code.
        query_begin, query_end: int32 or int64 [Q]; window of positions the query may see, default
            all.

    Returns:
        positions int32 [Q, K], index inside the user's history; distances int32 [Q, K], rising.
        Both -1 where fewer than K exist.

    Raises:
        ValueError: names the argument, what was given and what is accepted.
    """
    return _hamming_topk(
        codes,
        history_rows,
        history_offsets,
        query_user,
        k,
        query_rows,
        query_codes,
        query_begin,
        query_end,
    )


def _check_codes(codes: Tensor) -> None:
    packed = codes.ndim == 2 and 1 <= codes.shape[1] <= MOST_WORDS and codes.is_contiguous()
    if not packed or codes.dtype not in CODE_DTYPES:
        raise ValueError(
            f"codes: {codes.dtype} {tuple(codes.shape)}, must be a contiguous [N, W] of "
            f"{', '.join(str(d) for d in CODE_DTYPES)}, W from 1 to {MOST_WORDS}"
        )


def _check_query_source(
    codes: Tensor, query_user: Tensor, query_rows: Tensor | None, query_codes: Tensor | None
) -> None:
    if (query_rows is None) == (query_codes is None):
        raise ValueError("query_rows, query_codes: give exactly one of the two")
    if query_rows is not None:
        check_per_query("query_rows", query_rows, query_user)
    if query_codes is None:
        return
    shape = (query_user.shape[0], codes.shape[1])
    if tuple(query_codes.shape) != shape or query_codes.dtype != codes.dtype:
        raise ValueError(
            f"query_codes: {query_codes.dtype} {tuple(query_codes.shape)}, "
            f"must be {codes.dtype} {shape} like codes, one row per query"
        )
    check_device("query_codes", query_codes, codes, "codes")


@library.custom_op("lifelong_kernels::hamming_topk", mutates_args=())
def _hamming_topk(
    codes: Tensor,
    history_rows: Tensor,
    history_offsets: Tensor,
    query_user: Tensor,
    k: int,
    query_rows: Tensor | None,
    query_codes: Tensor | None,
    query_begin: Tensor | None,
    query_end: Tensor | None,
) -> tuple[Tensor, Tensor]:
    # All checks are in here: a compiler does not look in, and an exported program keeps them.
    _check_codes(codes)
    check_device("history_rows", history_rows, codes, "codes")
    check_device("history_offsets", history_offsets, codes, "codes")
    check_rows("history_rows", history_rows, codes.shape[0])
    windows = check_queries(
        history_offsets, history_rows.numel(), query_user, k, query_begin, query_end
    )
    _check_query_source(codes, query_user, query_rows, query_codes)
    offsets_U = history_offsets.long()
    if query_codes is not None:
        codes_QW = query_codes
        ok_Q = torch.ones_like(windows.user_Q, dtype=torch.bool)
    else:
        assert query_rows is not None
        check_rows("query_rows", query_rows, codes.shape[0])
        codes_QW, ok_Q = codes.index_select(0, query_rows), query_rows != 0
    if scans_with_triton(codes.device, k):
        from kernels.hamming_topk.kernel import hamming_topk_cuda

        return hamming_topk_cuda(codes, history_rows, offsets_U, windows, k, codes_QW, ok_Q)
    return _search_by_walk(codes, history_rows, offsets_U, windows, k, codes_QW, ok_Q)


@_hamming_topk.register_fake
def _(
    codes: Tensor,
    history_rows: Tensor,
    history_offsets: Tensor,
    query_user: Tensor,
    k: int,
    query_rows: Tensor | None,
    query_codes: Tensor | None,
    query_begin: Tensor | None,
    query_end: Tensor | None,
) -> tuple[Tensor, Tensor]:
    shape = (query_user.shape[0], k)
    return codes.new_empty(shape, dtype=torch.int32), codes.new_empty(shape, dtype=torch.int32)


def _search_by_walk(
    codes: Tensor,
    history_rows: Tensor,
    history_offsets: Tensor,
    windows: QueryWindows,
    k: int,
    codes_QW: Tensor,
    ok_Q: Tensor,
) -> tuple[Tensor, Tensor]:
    scorer = _HammingScorer(codes, history_rows, codes_QW, ok_Q)
    # Under a caller's autocast a GPU's products would be rounded to bfloat16.
    with torch.autocast(codes.device.type, enabled=False):
        positions, dots = topk_walk(history_offsets, windows, k, scorer)
    distances = (scorer.bits - dots.int()) // 2
    return positions, distances.masked_fill_(positions < 0, -1)


class _HammingScorer:
    """Scores of a piece: one gather per piece, one integer product of signs per user in it.

    A product of two rows of signs is S - 2 distance: it falls as the distance rises, and it is
    exact in float32 too, in which a GPU without Triton computes it.
    """

    def __init__(self, codes: Tensor, history_rows: Tensor, codes_QW: Tensor, ok_Q: Tensor) -> None:
        self.codes, self.history_rows, self.dead_Q = codes, history_rows, ~ok_Q
        self.bits = codes.shape[1] * codes.dtype.itemsize * 8
        # The 8 signs of every byte, as one integer, so that a look-up moves 8 signs at once.
        bit = (torch.arange(256)[:, None] >> torch.arange(8)) & 1
        signs = (2 * bit - 1).to(torch.int8).view(torch.int64).view(-1)
        self.signs_of_byte = signs.to(codes.device)
        self.signs_QS = self._signs(codes_QW.contiguous())

    def _signs(self, codes: Tensor) -> Tensor:
        """Bits of packed words [n, W] as int8 signs [n, S]."""
        byte = codes.view(torch.uint8).view(-1).int()
        signs = self.signs_of_byte.index_select(0, byte)
        return signs.view(torch.int8).view(codes.shape[0], self.bits)

    def _products(self, q_low: int, q_high: int, signs_CS: Tensor) -> Tensor:
        signs_QS = self.signs_QS[q_low:q_high]
        if signs_CS.device.type == "cpu":
            return torch._int_mm(signs_QS, signs_CS.t())
        return signs_QS.float() @ signs_CS.float().t()

    def __call__(self, piece: Piece) -> Tensor:
        first, last = piece.queries
        spans = list(
            zip(piece.begin_U, piece.end_U, piece.query_begin_U, piece.query_end_U, strict=True)
        )
        # Only what some query may see is unpacked, not the rest of a life between two windows.
        rows_P = torch.cat([self.history_rows[low:high] for low, high, _, _ in spans]).long()
        signs_PS = self._signs(self.codes.index_select(0, rows_P))
        dead_P = rows_P == 0
        any_dead = bool(dead_P.any())
        shape = last - first, piece.width
        scores_QC = scratch("scores", shape, torch.float32, rows_P.device).fill_(float("-inf"))
        start = 0
        for low, high, q_low, q_high in spans:
            stop = start + high - low
            scores = scores_QC[q_low - first : q_high - first, : high - low]
            scores.copy_(self._products(q_low, q_high, signs_PS[start:stop]))
            if any_dead:
                scores.masked_fill_(dead_P[start:stop], float("-inf"))
            start = stop
        return scores_QC.masked_fill_(self.dead_Q[first:last, None], float("-inf"))
