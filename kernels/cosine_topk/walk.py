"""Cosine top-K in plain torch: what the CPU runs, and a GPU without triton.

Shape legend: N rows of the table, M width of a vector, C behaviours of a user in a piece,
P behaviours of a piece, Q queries, K picks.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from kernels.jagged import QueryWindows
from kernels.scratch import scratch
from kernels.tiers import equal_tier
from kernels.walk import Piece, topk_walk

# Of vectors gathered together: larger would leave the cache, smaller would wake threads more often.
BLOCK_BYTES = 16 << 20

# Scores of a product that several users share. Each needs only its own part of it, but to wake the
# threads for one small product takes longer than to compute what nobody needs.
SHARED_SCORES = 1 << 17


def cosine_walk(
    table: Tensor,
    inv_norm: Tensor,
    history_rows: Tensor,
    history_offsets: Tensor,
    windows: QueryWindows,
    k: int,
    vectors_QM: Tensor,
    inv_norm_Q: Tensor,
    bins: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """`kernels.cosine_topk`, arguments checked.

    Args:
        vectors_QM: [Q, M] of the table's dtype; inv_norm_Q: float32 [Q], 0 for no vector.
        bins: tiers of the histogram, 0 for none.

    Returns:
        positions int32 [Q, K], scores float32 [Q, K], histogram int32 [Q, bins].
    """
    scorer = _CosineScorer(table, inv_norm, history_rows, vectors_QM, inv_norm_Q)
    tally = _Tally(inv_norm_Q, bins)
    # Under a caller's autocast the products would be rounded to bfloat16.
    with torch.autocast(table.device.type, enabled=False):
        positions, scores = topk_walk(
            history_offsets,
            windows,
            k,
            scorer,
            scale_Q=inv_norm_Q,
            see_piece=tally if bins else None,
        )
    return positions, scores, tally.histogram_Q


class _Part(NamedTuple):
    """A stretch of one user's history, and where its scores go."""

    low: int
    high: int
    q_low: int
    q_high: int
    column: int


class _CosineScorer:
    """Scores of a piece, less the query's inverse norm: one gather a block, one product a user."""

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
        # torch's integer product is wrong for vectors of one number.
        on_cpu = table.device.type == "cpu"
        self.integer = on_cpu and table.dtype == torch.int8 and table.shape[1] > 1
        self.vectors_QM = vectors_QM if self.integer else vectors_QM.float()
        # Row 0 is padding, whatever its norm.
        self.padding_has_norm = table.shape[0] > 0 and float(inv_norm[0]) != 0.0
        self.dead_Q = inv_norm_Q == 0
        self.any_dead_query = bool(self.dead_Q.any())
        self.block_rows = max(BLOCK_BYTES // (table.shape[1] * table.element_size()), 1)

    def __call__(self, piece: Piece) -> Tensor:
        first, last = piece.queries
        shape, device = (last - first, piece.width), self.table.device
        scores_QC = scratch("scores", shape, torch.float32, device)
        shortest = min(high - low for low, high in zip(piece.begin_U, piece.end_U, strict=True))
        if shortest < piece.width:
            scores_QC[:, shortest:] = float("-inf")
        for parts in self._blocks(piece):
            self._score(parts, scores_QC, first)
        if self.any_dead_query:
            dead = self.dead_Q[first:last].nonzero().view(-1)
            scores_QC.index_fill_(0, dead, float("-inf"))
        return scores_QC

    def _blocks(self, piece: Piece) -> Iterator[list[_Part]]:
        """Parts of a piece whose vectors are gathered together."""
        parts: list[_Part] = []
        room = self.block_rows
        for low, high, q_low, q_high in zip(
            piece.begin_U, piece.end_U, piece.query_begin_U, piece.query_end_U, strict=True
        ):
            if parts and high - low > room:
                yield parts
                parts, room = [], self.block_rows
            for start in range(low, high, self.block_rows):
                stop = min(start + self.block_rows, high)
                parts.append(_Part(start, stop, q_low, q_high, start - low))
                room -= stop - start
                if room <= 0:
                    yield parts
                    parts, room = [], self.block_rows
        if parts:
            yield parts

    def _score(self, parts: list[_Part], scores_QC: Tensor, first: int) -> None:
        vectors_PM, inv_P, bias_P = self._gather(parts)
        start = 0
        for shared in _shared_products(parts):
            q_low, rows = shared[0].q_low, sum(part.high - part.low for part in shared)
            wanted_QM = self.vectors_QM[q_low : shared[-1].q_high]
            dots_QP = self._dots(wanted_QM, vectors_PM[start : start + rows])
            end = 0
            for part in shared:
                length = part.high - part.low
                scores = scores_QC[part.q_low - first : part.q_high - first]
                scores = scores.narrow(1, part.column, length)
                dots = dots_QP[part.q_low - q_low : part.q_high - q_low].narrow(1, end, length)
                # Converted first: torch multiplies int32 by float32 more slowly than it converts.
                scores.copy_(dots).mul_(inv_P.narrow(0, start + end, length))
                if bias_P is not None:
                    scores += bias_P.narrow(0, start + end, length)
                end += length
            start += rows

    def _gather(self, parts: list[_Part]) -> tuple[Tensor, Tensor, Tensor | None]:
        """Vectors and inverse norms of the behaviours of some parts, end to end.

        The third tensor is -inf where a behaviour has no vector and 0 elsewhere, or None for 0.
        """
        rows_P = self.history_rows[parts[0].low : parts[-1].high]
        if any(a.high != b.low for a, b in pairwise(parts)):
            rows_P = torch.cat([self.history_rows[part.low : part.high] for part in parts])
        device = self.table.device
        shape = (rows_P.numel(), self.table.shape[1])
        vectors_PM = scratch("vectors", shape, self.table.dtype, device)
        torch.index_select(self.table, 0, rows_P, out=vectors_PM)
        inv_P = self.inv_norm.index_select(0, rows_P)
        if self.padding_has_norm:
            inv_P.masked_fill_(rows_P == 0, 0.0)
        if float(inv_P.amin()) > 0.0:
            return vectors_PM, inv_P, None
        dead_P = inv_P == 0
        if self.table.dtype != torch.int8:
            # Whatever stands where a vector is missing, its product must not be NaN.
            vectors_PM.index_fill_(0, dead_P.nonzero().view(-1), 0)
        return vectors_PM, inv_P, torch.zeros_like(inv_P).masked_fill_(dead_P, float("-inf"))

    def _dots(self, wanted: Tensor, keys: Tensor) -> Tensor:
        if not self.integer:
            return wanted @ keys.float().t()
        shape = (wanted.shape[0], keys.shape[0])
        dots = scratch("dots", shape, torch.int32, keys.device)
        return torch._int_mm(wanted, keys.t(), out=dots)


def _shared_products(parts: list[_Part]) -> Iterator[list[_Part]]:
    """Parts whose products are computed as one."""
    shared: list[_Part] = []
    rows = 0
    for part in parts:
        length = part.high - part.low
        if shared and (part.q_high - shared[0].q_low) * (rows + length) > SHARED_SCORES:
            yield shared
            shared, rows = [], 0
        shared.append(part)
        rows += length
    yield shared


class _Tally:
    """Counts of all scores by tier."""

    def __init__(self, inv_norm_Q: Tensor, bins: int) -> None:
        self.inv_norm_Q, self.bins = inv_norm_Q, bins
        self.histogram_Q = torch.zeros(
            inv_norm_Q.numel(), bins, dtype=torch.int32, device=inv_norm_Q.device
        )

    def __call__(self, piece: Piece, raw_QC: Tensor) -> None:
        first, last = piece.queries
        tier_QC = equal_tier(raw_QC * self.inv_norm_Q[first:last, None], self.bins)
        # One tier more takes what has no score, -inf before and after its product.
        tier_QC.masked_fill_(raw_QC == float("-inf"), self.bins)
        tiers = self.bins + 1
        tier_QC += (
            torch.arange(last - first, device=tier_QC.device, dtype=torch.int32)[:, None] * tiers
        )
        counts = torch.bincount(tier_QC.view(-1), minlength=(last - first) * tiers)
        self.histogram_Q[first:last] += counts.view(-1, tiers)[:, : self.bins].int()
