"""The most recent K of the target's category on the GPU, through the scan.

Shape legend: C behaviours of a tile, B queries of a block, Q queries, K picks.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from kernels.jagged import QueryWindows
from kernels.launch import ScanConfig, Scorer, scan_topk

CONFIG = ScanConfig(block_queries=16, tile=128, warps=8)


@triton.jit
def load_queries(sources, query_B, W: tl.constexpr, W2: tl.constexpr):
    """Categories [B] of a block's queries."""
    return tl.load(sources[1] + query_B)


@triton.jit
def score_tile(sources, loaded, index_C, inside_C, W: tl.constexpr, W2: tl.constexpr):
    """A score of 0 for all, and where the category is the query's: ties go to the latest."""
    category_C = tl.load(sources[0] + index_C, mask=inside_C, other=0)
    same_CB = (category_C[:, None] == loaded[None, :]) & (loaded != 0)[None, :]
    return tl.where(same_CB, 0.0, float("-inf")), same_CB


def category_topk_cuda(
    history_category: Tensor,
    history_offsets: Tensor,
    windows: QueryWindows,
    query_category: Tensor,
    k: int,
    config: ScanConfig = CONFIG,
) -> Tensor:
    """`kernels.category_topk` on a GPU, arguments checked: positions int32 [Q, K]."""
    sources = (history_category.contiguous(), query_category.contiguous())
    scorer = Scorer(load_queries, score_tile, sources, 1, 1)
    return scan_topk(scorer, history_offsets, windows, k, config)[0]
