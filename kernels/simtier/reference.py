"""Histogram of similarities, slow and obvious: the oracle.

Shape legend: R rows (all leading dimensions), K similarities of a row, N tiers.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def simtier_reference(
    similarity: Tensor,
    mask: Tensor,
    bins: int,
    *,
    tiers: str = "equal",
    scale: Tensor | None = None,
) -> Tensor:
    """The same as `kernels.simtier`, one similarity at a time."""
    counts = torch.zeros(*similarity.shape[:-1], bins)
    # float32 all the way: a similarity on the edge of two tiers must round as it does elsewhere.
    tier = torch.floor((similarity + 1) * (bins / 2))
    if tiers == "tenths":
        tier = torch.ceil(similarity * 10) + 10
    picks = similarity.shape[-1]
    tier_RK, mask_RK = tier.reshape(-1, max(picks, 1)), mask.reshape(-1, max(picks, 1))
    counts_RN = counts.view(-1, bins)
    for row, (numbers, kept) in enumerate(zip(tier_RK.tolist(), mask_RK.tolist(), strict=True)):
        for number, keep in zip(numbers, kept, strict=True):
            if keep and not math.isnan(number):
                counts_RN[row, int(min(max(number, 0), bins - 1))] += 1
    return counts if scale is None else torch.log1p(counts) * scale
