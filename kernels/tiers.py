"""Tiers of equal width over [-1, 1], in which cosines are counted (MUSE, arXiv 2512.07216, 3.2)."""

from __future__ import annotations

import torch
from torch import Tensor


def equal_tier(scores: Tensor, bins: int) -> Tensor:
    """int32 tier in [0, bins) of each float32 score: clamp(floor((score + 1) * (bins / 2)))."""
    return ((scores + 1.0) * (bins / 2)).floor_().clamp_(0, bins - 1).to(torch.int32)
