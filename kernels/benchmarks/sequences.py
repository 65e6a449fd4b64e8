"""The same results by separate torch ops on a copy of the history per sample.

These are the steps of MUSE's public code (github.com/alimama-tech/MUSE): what a reader who starts
from there has now, and what the speed-up is measured against. No padding is masked, as there.

Shape legend: B samples, L behaviours, M width, W words of a code, K picks, N tiers.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def cosine_sequence(table: Tensor, rows_BL: Tensor, target_B: Tensor, k: int) -> Tensor:
    """Gather, float, normalise, bmm, topk: positions int64 [B, K]."""
    gathered_BLM = table[rows_BL]
    history_BLM = gathered_BLM.float()
    unit_BLM = F.normalize(history_BLM, dim=-1)
    target_BM = F.normalize(table[target_B].float(), dim=-1)
    scores_BL = torch.bmm(unit_BLM, target_BM[:, :, None]).squeeze(-1)
    return scores_BL.topk(k, dim=1).indices


def category_sequence(category_BL: Tensor, target_B: Tensor, k: int) -> Tensor:
    """Compare, positions of what is equal, topk of them: int64 [B, K], -1 where fewer exist."""
    match_BL = category_BL == target_B[:, None]
    position_L = torch.arange(category_BL.shape[1], device=category_BL.device)
    return torch.where(match_BL, position_L, -1).topk(k, dim=1).values


def hamming_sequence(codes: Tensor, rows_BL: Tensor, target_B: Tensor, k: int) -> Tensor:
    """Gather, exclusive or, count bits, topk: positions int64 [B, K]."""
    different_BLW = codes[rows_BL] ^ codes[target_B][:, None]
    distance_BL = _count_bits(different_BLW).sum(dim=-1)
    return distance_BL.topk(k, dim=1, largest=False).indices


def simtier_sequence(
    similarity_BK: Tensor, mask_BK: Tensor, bins: int, tiers: str, scale: Tensor | None
) -> Tensor:
    """Compare every similarity's tier with every tier, float, sum: float32 [B, N]."""
    if tiers == "tenths":
        tier_BK = torch.ceil(similarity_BK * 10.0) + 10.0
    else:
        tier_BK = torch.floor((similarity_BK + 1.0) * (bins / 2.0))
    tier_BK = tier_BK.clamp(0, bins - 1).masked_fill(~mask_BK, -1.0)
    tier_N = torch.arange(bins, device=tier_BK.device)
    counts_BN = (tier_BK[:, None, :] == tier_N[None, :, None]).float().sum(dim=2)
    return counts_BN if scale is None else torch.log(counts_BN + 1.0) * scale


def _count_bits(words: Tensor) -> Tensor:
    """Set bits of each int64: sums of neighbouring bits, pairs, nibbles, then of all bytes."""
    pairs = words - ((words >> 1) & 0x5555555555555555)
    nibbles = (pairs & 0x3333333333333333) + ((pairs >> 2) & 0x3333333333333333)
    octets = (nibbles + (nibbles >> 4)) & 0x0F0F0F0F0F0F0F0F
    return (octets * 0x0101010101010101) >> 56
