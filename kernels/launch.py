"""Launch of the Triton scan: memory, grid and constants. Imported on the CUDA path only.

Shape legend: U users, Q queries, K picks, K2 picks rounded up to a power of two.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
import triton
from torch import Tensor

from kernels.jagged import QueryWindows
from kernels.plan import ScanPlan, plan_scan
from kernels.scan import merge_kernel, scan_kernel

# A product and a sum in one rounding would count a score in another tier than the reference does.
COMPILED = {"enable_fp_fusion": False}

# Segments that the merge sorts at once, at most; more would not fit its registers.
_MOST_SEGMENTS = 16


@dataclass(frozen=True)
class ScanConfig:
    """Sizes of a scan. None of them changes its result.

    Attributes:
        block_queries: queries that share one read of a history; a power of two.
        tile: behaviours scored at once; a power of two.
        warps: of a program.
        stages: depth of the load pipeline.
        round_tiles: most tiles between two sorts of what was found.
        programs: runs to cut the work into; 0 for twice the device's multiprocessors, which is
            what registers let run at once.
        least_tiles: tiles below which a run is not worth a program.
    """

    block_queries: int
    tile: int
    warps: int = 4
    stages: int = 5
    round_tiles: int = 16
    programs: int = 0
    least_tiles: int = 4


@dataclass(frozen=True)
class Scorer:
    """What an op brings to the scan.

    Attributes:
        load_queries: `@triton.jit` (sources, query_B, width, width2) -> anything.
        score_tile: `@triton.jit` (sources, loaded, index_C, inside_C, width, width2) -> float32
            scores and bool of what may be picked, [C, B] each.
        sources: tensors that both read.
        width: of a row of what is compared; padded_width: as a power of two.
    """

    load_queries: Any
    score_tile: Any
    sources: tuple[Tensor, ...]
    width: int
    padded_width: int


def scan_topk(
    scorer: Scorer,
    history_offsets: Tensor,
    windows: QueryWindows,
    k: int,
    config: ScanConfig,
    bins: int = 0,
) -> tuple[Tensor, Tensor, Tensor]:
    """The k best behaviours of each query on the GPU, without waiting for it.

    Args:
        scorer: the op's device functions and tensors.
        history_offsets: int64 [U + 1].
        windows: checked queries.
        k: picks a query, at most `kernels.jagged.MOST_PICKS`.
        config: sizes.
        bins: tiers of the histogram of all scores, 0 for none.

    Returns:
        positions int32 [Q, K], scores float32 [Q, K], histogram int32 [Q, bins].
    """
    device, queries = history_offsets.device, windows.user_Q.numel()
    positions_QK = torch.empty(queries, k, dtype=torch.int32, device=device)
    scores_QK = torch.empty(queries, k, device=device)
    histogram_Q = torch.zeros(queries, bins, dtype=torch.int32, device=device)
    if queries == 0:
        return positions_QK, scores_QK, histogram_Q
    plan = plan_scan(
        history_offsets,
        windows,
        block_queries=config.block_queries,
        tile=config.tile,
        programs=config.programs or 2 * _multiprocessors(device),
        least_tiles=config.least_tiles,
    )
    segments_a_block = triton.next_power_of_2(triton.cdiv(plan.programs, plan.blocks))
    # Triton launches on the current device, whatever the tensors are on.
    with torch.cuda.device_of(history_offsets):
        best = _scan(scorer, plan, windows, k, config, histogram_Q)
        merge_kernel[(queries,)](
            best,
            plan.first_query_G,
            plan.tile_end_G,
            plan.tiles_per_program,
            plan.query_block_Q,
            positions_QK,
            scores_QK,
            k,
            K2=best.shape[-1],
            B=config.block_queries,
            # Two at least, since what is sorted must be longer than what is kept.
            SEGMENTS=min(max(segments_a_block, 2), _MOST_SEGMENTS),
        )
    return positions_QK, scores_QK, histogram_Q


def _scan(
    scorer: Scorer,
    plan: ScanPlan,
    windows: QueryWindows,
    k: int,
    config: ScanConfig,
    histogram_Q: Tensor,
) -> Tensor:
    """Best keys of every segment: int64 [segments, block_queries, K2], falling."""
    device, bins = histogram_Q.device, histogram_Q.shape[1]
    block, listed = config.block_queries, config.round_tiles * config.tile
    picks = max(triton.next_power_of_2(k), 2)
    best = torch.empty(plan.segments, block, picks, dtype=torch.int64, device=device)
    scan_kernel[(plan.programs,)](
        scorer.sources,
        plan.first_query_G,
        plan.queries_G,
        plan.base_G,
        plan.low_G,
        plan.high_G,
        plan.tile_end_G,
        plan.program_block_P,
        plan.tiles_per_program,
        windows.begin_Q,
        windows.end_Q,
        best,
        torch.empty(plan.programs, block, listed, dtype=torch.int64, device=device),
        torch.empty(plan.programs, block, dtype=torch.int32, device=device),
        torch.empty(plan.programs, block, device=device),
        histogram_Q,
        plan.blocks,
        k,
        bins,
        K2=picks,
        B=block,
        C=config.tile,
        ROUND=config.round_tiles,
        # One tier more than asked for takes what does not count.
        BINS2=triton.next_power_of_2(bins + 1) if bins else 0,
        STAGES=config.stages,
        WIDTH=scorer.width,
        WIDTH2=scorer.padded_width,
        LOAD_QUERIES=scorer.load_queries,
        SCORE=scorer.score_tile,
        num_warps=config.warps,
        **COMPILED,
    )
    return best


@lru_cache
def _multiprocessors(device: torch.device) -> int:
    return int(torch.cuda.get_device_properties(device).multi_processor_count)
