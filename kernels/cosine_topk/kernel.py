"""Cosine top-K on the GPU: the scores of a tile of behaviours, for the scan.

Shape legend: C behaviours of a tile, B queries of a block, M width of a vector, M2 the next power
of two, Q queries, K picks.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.jagged import QueryWindows
from kernels.launch import ScanConfig, Scorer, scan_topk

# Bytes of vectors in one tile: with a few tiles on their way, enough to hide memory's latency, and
# two programs fit a multiprocessor.
_TILE_BYTES = 16384


@triton.jit
def load_queries(sources, query_B, M: tl.constexpr, M2: tl.constexpr):
    """Vectors [B, M2] and inverse norms [B] of a block's queries."""
    vectors_QM, inv_norm_Q = sources[3], sources[4]
    column = tl.arange(0, M2)
    at_BM = query_B[:, None] * M + column[None, :]
    vectors_BM = tl.load(vectors_QM + at_BM, mask=column[None, :] < M, other=0)
    return vectors_BM, tl.load(inv_norm_Q + query_B)


@triton.jit
def score_tile(sources, loaded, index_C, inside_C, M: tl.constexpr, M2: tl.constexpr):
    """Cosines [C, B], multiplied in the order of the reference, and which of them exist."""
    table, inv_norm, rows_T = sources[0], sources[1], sources[2]
    vectors_BM, inv_norm_B = loaded
    row_C = tl.load(rows_T + index_C, mask=inside_C, other=0).to(tl.int64)
    inv_norm_C = tl.load(inv_norm + row_C)
    column = tl.arange(0, M2)
    at_CM = row_C[:, None] * M + column[None, :]
    vectors_CM = tl.load(table + at_CM, mask=column[None, :] < M, other=0)
    dot_CB = tl.dot(vectors_CM, tl.trans(vectors_BM), input_precision="ieee")
    score_CB = (dot_CB.to(tl.float32) * inv_norm_C[:, None]) * inv_norm_B[None, :]
    known_C = (row_C != 0) & (inv_norm_C != 0)
    return score_CB, known_C[:, None] & (inv_norm_B != 0)[None, :]


def cosine_topk_cuda(
    table: Tensor,
    inv_norm: Tensor,
    history_rows: Tensor,
    history_offsets: Tensor,
    windows: QueryWindows,
    k: int,
    vectors_QM: Tensor,
    inv_norm_Q: Tensor,
    bins: int,
    config: ScanConfig | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """`kernels.cosine_topk` on a GPU, arguments checked.

    Args:
        vectors_QM: [Q, M] of the table's dtype; inv_norm_Q: float32 [Q], 0 for no vector.
        bins: tiers of the histogram, 0 for none.
        config: sizes, None for those that suit the shapes.

    Returns:
        positions int32 [Q, K], scores float32 [Q, K], histogram int32 [Q, bins].
    """
    sources = (table, inv_norm, history_rows, vectors_QM.contiguous(), inv_norm_Q)
    width = table.shape[1]
    scorer = Scorer(load_queries, score_tile, sources, width, _padded(width))
    if config is None:
        users = max(history_offsets.numel() - 1, 1)
        config = choose_config(table.dtype, width, windows.user_Q.numel() / users, bins)
    return scan_topk(scorer, history_offsets, windows, k, config, bins)


def choose_config(dtype: torch.dtype, width: int, queries_a_user: float, bins: int) -> ScanConfig:
    """Sizes for a table's dtype and width, and for how many queries share a history."""
    # The order in which a product of floats is summed may follow the sizes of a block; so that the
    # other queries of a batch do not change a score, only exact products choose their block.
    block = 16
    if dtype == torch.int8:
        if queries_a_user >= 32 and not bins:
            return ScanConfig(block_queries=32, tile=64)
        # What follows the product costs as much for a query that is not there. Longer vectors
        # would spill registers so.
        block = 8 if queries_a_user <= 4 and width <= 128 else 16
    row_bytes = _padded(width) * dtype.itemsize
    # Float32 products and histograms need more registers a score than fit with longer tiles.
    most = 64 if bins or dtype == torch.float32 else 128
    tile = min(max(_TILE_BYTES // row_bytes, 16), most)
    return ScanConfig(block_queries=block, tile=tile, warps=8 if bins else 4)


def _padded(width: int) -> int:
    # The integer matrix units take 32 bytes of a row at a time.
    return max(triton.next_power_of_2(width), 32)
