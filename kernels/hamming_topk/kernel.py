"""Hamming top-K on the GPU: distances of packed codes by the matrix units, through the scan.

Shape legend: C behaviours of a tile, B queries of a block, W 32-bit words of a code, W2 the next
power of two, Q queries, K picks.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.jagged import QueryWindows
from kernels.launch import ScanConfig, Scorer, scan_topk

CONFIG = ScanConfig(block_queries=16, tile=64)


@triton.jit
def _signs(words, ROWS: tl.constexpr, W2: tl.constexpr):
    """Bits of packed words [ROWS, W2] as int8 signs [ROWS, 32 W2]."""
    bits = (words[:, :, None] >> tl.arange(0, 32)[None, None, :]) & 1
    return tl.reshape((2 * bits - 1).to(tl.int8), [ROWS, 32 * W2])


@triton.jit
def load_queries(sources, query_B, W: tl.constexpr, W2: tl.constexpr):
    """Signs [B, 32 W2] of a block's queries, and which of them have a code."""
    codes_QW, known_Q = sources[2], sources[3]
    word = tl.arange(0, W2)
    at_BW = query_B[:, None] * W + word[None, :]
    words_BW = tl.load(codes_QW + at_BW, mask=word[None, :] < W, other=0)
    return _signs(words_BW, query_B.shape[0], W2), tl.load(known_Q + query_B) != 0


@triton.jit
def score_tile(sources, loaded, index_C, inside_C, W: tl.constexpr, W2: tl.constexpr):
    """Negative distances [C, B]: a product of signs is the bits less twice the distance."""
    codes, rows_T = sources[0], sources[1]
    signs_BS, known_B = loaded
    row_C = tl.load(rows_T + index_C, mask=inside_C, other=0).to(tl.int64)
    word = tl.arange(0, W2)
    # Words past the last are 0 on both sides and add nothing to a distance.
    words_CW = tl.load(codes + row_C[:, None] * W + word[None, :], mask=word[None, :] < W, other=0)
    dot_CB = tl.dot(_signs(words_CW, index_C.shape[0], W2), tl.trans(signs_BS))
    score_CB = (dot_CB - 32 * W2).to(tl.float32) * 0.5
    return score_CB, (row_C != 0)[:, None] & known_B[None, :]


def hamming_topk_cuda(
    codes: Tensor,
    history_rows: Tensor,
    history_offsets: Tensor,
    windows: QueryWindows,
    k: int,
    query_codes_QW: Tensor,
    query_ok_Q: Tensor,
    config: ScanConfig = CONFIG,
) -> tuple[Tensor, Tensor]:
    """`kernels.hamming_topk` on a GPU, arguments checked.

    Args:
        codes: int32 or int64 [N, words]; query_codes_QW: the same dtype [Q, words].
        query_ok_Q: bool [Q]; whether the query has a code.

    Returns:
        positions int32 [Q, K], distances int32 [Q, K], -1 where fewer exist.
    """
    words, queries = codes.view(torch.int32), query_codes_QW.contiguous().view(torch.int32)
    sources = (words, history_rows, queries, query_ok_Q.int())
    width = words.shape[1]
    scorer = Scorer(load_queries, score_tile, sources, width, triton.next_power_of_2(width))
    positions, scores, _ = scan_topk(scorer, history_offsets, windows, k, config)
    return positions, (-scores).int().masked_fill_(positions < 0, -1)
