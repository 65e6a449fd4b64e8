"""Histogram of similarities: argument checks, plain torch, and the derivative by the scale.

Two custom operators, so that a compiled or exported model sees one call instead of a graph break:
plain counts, and scaled log counts with the counts that their backward needs.

Shape legend: R rows (all leading dimensions), K similarities of a row, N tiers.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, library

from kernels.tiers import equal_tier

TIERS = ("equal", "tenths")


def simtier(
    similarity: Tensor,
    mask: Tensor,
    bins: int,
    *,
    tiers: str = "equal",
    scale: Tensor | None = None,
) -> Tensor:
    """How many similarities of each row fall in each tier (SimTier: MUSE, arXiv 2512.07216, 3.2).

    Tier of a similarity r, clamped to [0, bins - 1]: "equal" is floor((r + 1) * bins / 2), equal
    parts of [-1, 1] (arXiv 2407.19467, 3.3); "tenths" is ceil(10 r) + 10, the 22 tiers of MUSE's
    reference code.

    Args:
        similarity: float32 [..., K]; a constant, no gradient flows into it.
        mask: bool, same shape; what it hides counts nowhere, and neither does a NaN.
        bins: tiers, at least 1.
        tiers: "equal" or "tenths".
        scale: float32 [bins], or None for plain counts.

    Returns:
        float32 [..., bins]: counts, or log(1 + counts) * scale, differentiable in `scale`.

    Raises:
        ValueError: names the argument, what was given and what is accepted.
    """
    _check(similarity, mask, bins, tiers, scale)
    similarity = similarity.detach()
    if similarity.device.type == "cpu" and not torch.compiler.is_compiling():
        # The operators below do the same; on a small batch, calling one costs as much as its work.
        counts = _count_on_cpu(similarity, mask, bins, tiers)
        return counts if scale is None else torch.log1p(counts) * scale
    if scale is None:
        return _counts(similarity, mask, bins, tiers)
    return _scaled(similarity, mask, scale, tiers)[0]


def _check(similarity: Tensor, mask: Tensor, bins: int, tiers: str, scale: Tensor | None) -> None:
    if similarity.dtype != torch.float32 or similarity.ndim < 1:
        raise ValueError(
            f"similarity: {similarity.dtype} {tuple(similarity.shape)}, must be float32 [..., K]"
        )
    if mask.dtype != torch.bool or mask.shape != similarity.shape:
        raise ValueError(
            f"mask: {mask.dtype} {tuple(mask.shape)}, must be torch.bool "
            f"{tuple(similarity.shape)} like similarity"
        )
    if mask.device != similarity.device:
        raise ValueError(f"mask: on {mask.device}, must be on {similarity.device} like similarity")
    if bins < 1:
        raise ValueError(f"bins: {bins} given, must be at least 1")
    if tiers not in TIERS:
        raise ValueError(f"tiers: {tiers!r} given, must be one of {', '.join(TIERS)}")
    if scale is None:
        return
    if scale.dtype != torch.float32 or tuple(scale.shape) != (bins,):
        raise ValueError(
            f"scale: {scale.dtype} {tuple(scale.shape)}, must be torch.float32 ({bins},), "
            "one entry per tier"
        )
    if scale.device != similarity.device:
        raise ValueError(
            f"scale: on {scale.device}, must be on {similarity.device} like similarity"
        )


def _count_on_cpu(similarity: Tensor, mask: Tensor, bins: int, tiers: str) -> Tensor:
    if tiers == "tenths":
        tier = (similarity * 10.0).ceil_().add_(10.0).clamp_(0, bins - 1)
    else:
        tier = equal_tier(similarity, bins)
    lead, picks = similarity.shape[:-1], similarity.shape[-1]
    rows = math.prod(lead)
    # A NaN becomes the lowest integer, which must not reach the scatter even with no weight.
    tier_RK = tier.long().clamp_(min=0).reshape(rows, picks)
    weight_RK = (mask & (similarity == similarity)).reshape(rows, picks).float()
    # Floats count exactly up to 2^24, and a row has fewer similarities.
    return similarity.new_zeros(rows, bins).scatter_add_(1, tier_RK, weight_RK).view(*lead, bins)


@library.custom_op("lifelong_kernels::simtier_counts", mutates_args=())
def _counts(similarity: Tensor, mask: Tensor, bins: int, tiers: str) -> Tensor:
    if similarity.is_cuda:
        from kernels.simtier.kernel import simtier_counts_cuda

        return simtier_counts_cuda(similarity, mask, bins, tiers == "tenths")
    return _count_on_cpu(similarity, mask, bins, tiers)


@_counts.register_fake
def _(similarity: Tensor, mask: Tensor, bins: int, tiers: str) -> Tensor:
    return similarity.new_empty(*similarity.shape[:-1], bins)


@library.custom_op("lifelong_kernels::simtier_scaled", mutates_args=())
def _scaled(similarity: Tensor, mask: Tensor, scale: Tensor, tiers: str) -> tuple[Tensor, Tensor]:
    """Features [..., bins] and the counts they come from."""
    if similarity.is_cuda:
        from kernels.simtier.kernel import simtier_scaled_cuda

        return simtier_scaled_cuda(similarity, mask, scale, tiers == "tenths")
    counts = _count_on_cpu(similarity, mask, scale.numel(), tiers)
    return torch.log1p(counts) * scale, counts


@_scaled.register_fake
def _(similarity: Tensor, mask: Tensor, scale: Tensor, tiers: str) -> tuple[Tensor, Tensor]:
    shape = (*similarity.shape[:-1], scale.shape[0])
    return similarity.new_empty(shape), similarity.new_empty(shape)


@library.custom_op("lifelong_kernels::simtier_scale_grad", mutates_args=())
def _scale_grad(grad: Tensor, counts: Tensor) -> Tensor:
    """Sum over rows of grad * log(1 + counts): float32 [bins]."""
    if grad.is_cuda:
        from kernels.simtier.kernel import simtier_scale_grad_cuda

        return simtier_scale_grad_cuda(grad, counts)
    return (grad * torch.log1p(counts)).sum_to_size(counts.shape[-1])


@_scale_grad.register_fake
def _(grad: Tensor, counts: Tensor) -> Tensor:
    return counts.new_empty(counts.shape[-1])


def _keep_counts(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(output[1])


def _scaled_backward(
    ctx: Any, grad: Tensor, grad_of_counts: Tensor
) -> tuple[None, None, Tensor | None, None]:
    (counts,) = ctx.saved_tensors
    return None, None, _scale_grad(grad, counts) if ctx.needs_input_grad[2] else None, None


_scaled.register_autograd(_scaled_backward, setup_context=_keep_counts)
