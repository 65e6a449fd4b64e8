"""Triton kernels of SimTier: counts of similarities by tier, and the derivative by the scale.

Shape legend: R rows of a block, K similarities of a block, N tiers of a block, P partial sums.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

# A block compares R x K similarities with N tiers at once: at most 56 registers a thread. 32 picks
# make a coalesced load, and a training batch of 1,000 rows is as many programs as a GPU has
# multiprocessors. More than 64 tiers are counted by several programs, each of which reads all.
ROWS, PICKS, MOST_BINS = 8, 32, 64

# Rows that a program sums at once, the most partial sums that are written, and how many of those
# are summed at once. Nothing else decides the order of a sum, so it is the same on every device.
SUM_ROWS, _MOST_PARTIALS, SUM_PARTIALS = 32, 1024, 64


@triton.jit
def _tier(similarity, BINS: tl.constexpr, TENTHS: tl.constexpr):
    if TENTHS:
        tier = tl.ceil(similarity * 10.0) + 10.0
    else:
        tier = tl.floor((similarity + 1.0) * (BINS / 2.0))
    return tl.minimum(tl.maximum(tier, 0.0), BINS - 1.0).to(tl.int32)


@triton.jit(do_not_specialize=["rows", "picks"])
def count_kernel(
    similarity_ptr,
    mask_ptr,
    scale_ptr,
    counts_ptr,
    features_ptr,
    rows,
    picks,
    BINS: tl.constexpr,
    TENTHS: tl.constexpr,
    HAS_SCALE: tl.constexpr,
    R: tl.constexpr,
    K: tl.constexpr,
    N: tl.constexpr,
):
    row_R = tl.program_id(0).to(tl.int64) * R + tl.arange(0, R)
    bin_N = tl.program_id(1) * N + tl.arange(0, N)
    count_RN = tl.zeros((R, N), dtype=tl.int32)
    for start in range(0, picks, K):
        pick_K = start + tl.arange(0, K)
        there_RK = (row_R < rows)[:, None] & (pick_K < picks)[None, :]
        at_RK = row_R[:, None] * picks + pick_K[None, :]
        similarity_RK = tl.load(similarity_ptr + at_RK, mask=there_RK, other=0.0)
        kept_RK = tl.load(mask_ptr + at_RK, mask=there_RK, other=0) != 0
        # A NaN differs from itself; -1 is no tier.
        kept_RK = kept_RK & (similarity_RK == similarity_RK)
        similarity_RK = tl.where(kept_RK, similarity_RK, 0.0)
        tier_RK = tl.where(kept_RK, _tier(similarity_RK, BINS, TENTHS), -1)
        same_RKN = tier_RK[:, :, None] == bin_N[None, None, :]
        count_RN += tl.sum(same_RKN.to(tl.int32), axis=1)
    wanted_RN = (row_R < rows)[:, None] & (bin_N < BINS)[None, :]
    at_RN = row_R[:, None] * BINS + bin_N[None, :]
    count_RN = count_RN.to(tl.float32)
    tl.store(counts_ptr + at_RN, count_RN, mask=wanted_RN)
    if HAS_SCALE:
        scale_N = tl.load(scale_ptr + bin_N, mask=bin_N < BINS, other=0.0)
        # 1 + count is exact, so log(1 + count) loses nothing against log1p.
        tl.store(features_ptr + at_RN, tl.log(1.0 + count_RN) * scale_N[None, :], mask=wanted_RN)


@triton.jit(do_not_specialize=["rows", "rows_per_program"])
def partial_kernel(
    grad_ptr,
    counts_ptr,
    partial_ptr,
    rows,
    rows_per_program,
    BINS: tl.constexpr,
    R: tl.constexpr,
    N: tl.constexpr,
):
    first = tl.program_id(0).to(tl.int64) * rows_per_program
    last = tl.minimum(first + rows_per_program, rows)
    bin_N = tl.program_id(1) * N + tl.arange(0, N)
    sum_N = tl.zeros((N,), dtype=tl.float32)
    for start in range(first, last, R):
        row_R = start + tl.arange(0, R)
        there_RN = (row_R < last)[:, None] & (bin_N < BINS)[None, :]
        at_RN = row_R[:, None] * BINS + bin_N[None, :]
        grad_RN = tl.load(grad_ptr + at_RN, mask=there_RN, other=0.0)
        count_RN = tl.load(counts_ptr + at_RN, mask=there_RN, other=0.0)
        sum_N += tl.sum(grad_RN * tl.log(1.0 + count_RN), axis=0)
    tl.store(partial_ptr + tl.program_id(0) * BINS + bin_N, sum_N, mask=bin_N < BINS)


@triton.jit(do_not_specialize=["partials"])
def total_kernel(
    partial_ptr,
    total_ptr,
    partials,
    BINS: tl.constexpr,
    P: tl.constexpr,
    N: tl.constexpr,
):
    bin_N = tl.program_id(0) * N + tl.arange(0, N)
    sum_N = tl.zeros((N,), dtype=tl.float32)
    for start in range(0, partials, P):
        part_P = start + tl.arange(0, P)
        there_PN = (part_P < partials)[:, None] & (bin_N < BINS)[None, :]
        at_PN = part_P[:, None] * BINS + bin_N[None, :]
        sum_N += tl.sum(tl.load(partial_ptr + at_PN, mask=there_PN, other=0.0), axis=0)
    tl.store(total_ptr + bin_N, sum_N, mask=bin_N < BINS)


def simtier_counts_cuda(similarity: Tensor, mask: Tensor, bins: int, tenths: bool) -> Tensor:
    """Counts float32 [..., bins] of checked arguments; see `kernels.simtier`."""
    counts = similarity.new_empty(*similarity.shape[:-1], bins)
    _launch_count(similarity, mask, None, counts, None, tenths)
    return counts


def simtier_scaled_cuda(
    similarity: Tensor, mask: Tensor, scale: Tensor, tenths: bool
) -> tuple[Tensor, Tensor]:
    """log(1 + counts) * scale and counts, float32 [..., bins] each, of checked arguments."""
    counts = similarity.new_empty(*similarity.shape[:-1], scale.numel())
    features = torch.empty_like(counts)
    _launch_count(similarity, mask, scale.contiguous(), counts, features, tenths)
    return features, counts


def _launch_count(
    similarity: Tensor,
    mask: Tensor,
    scale: Tensor | None,
    counts: Tensor,
    features: Tensor | None,
    tenths: bool,
) -> None:
    bins, picks = counts.shape[-1], similarity.shape[-1]
    rows = counts.numel() // bins
    if rows == 0:
        return
    bin_block = min(triton.next_power_of_2(bins), MOST_BINS)
    # Triton launches on the current device, whatever the tensors are on.
    with torch.cuda.device_of(counts):
        count_kernel[(triton.cdiv(rows, ROWS), triton.cdiv(bins, bin_block))](
            similarity.contiguous(),
            mask.contiguous().view(torch.uint8),
            scale,
            counts,
            features,
            rows,
            picks,
            BINS=bins,
            TENTHS=tenths,
            HAS_SCALE=scale is not None,
            R=ROWS,
            K=PICKS,
            N=bin_block,
        )


def simtier_scale_grad_cuda(grad: Tensor, counts: Tensor) -> Tensor:
    """Sum over rows of grad * log(1 + counts), float32 [bins], in an order that never changes."""
    bins = counts.shape[-1]
    rows = counts.numel() // bins
    if rows == 0:
        return counts.new_zeros(bins)
    bin_block = min(triton.next_power_of_2(bins), MOST_BINS)
    bin_blocks = triton.cdiv(bins, bin_block)
    rows_per_program = max(SUM_ROWS, triton.cdiv(rows, _MOST_PARTIALS))
    partials = triton.cdiv(rows, rows_per_program)
    partial_PN = counts.new_empty(partials, bins)
    total_N = counts.new_empty(bins)
    with torch.cuda.device_of(counts):
        partial_kernel[(partials, bin_blocks)](
            grad.contiguous(),
            counts,
            partial_PN,
            rows,
            rows_per_program,
            BINS=bins,
            R=SUM_ROWS,
            N=bin_block,
        )
        total_kernel[(bin_blocks,)](
            partial_PN, total_N, partials, BINS=bins, P=SUM_PARTIALS, N=bin_block
        )
    return total_N
