"""SimTier: how many behaviours are how similar to the target (MUSE, section 3.2).

Shape legend: K behaviours of a sample.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from kernels import simtier


class SimTier(nn.Module):
    """Histogram of similarities, tier by tier (MUSE, section 3.2; arXiv 2407.19467, 3.3).

    Args:
        form: "paper": `bins` equal tiers of [-1, 1], plain counts. "code": tier ceil(10 r) + 10 of
            22, log(count + 1) times a learnable scalar per tier.
        bins: tiers.
    """

    def __init__(self, form: str, bins: int) -> None:
        super().__init__()
        self.bins = bins
        self.scale = nn.Parameter(torch.rand(bins)) if form == "code" else None

    def forward(self, similarity: Tensor, mask: Tensor) -> Tensor:
        """Tier features of each row.

        Args:
            similarity: float32 [..., K] in [-1, 1], without gradient; mask: bool, same shape.

        Returns:
            float32 [..., bins].
        """
        tiers = "equal" if self.scale is None else "tenths"
        return simtier(similarity, mask, self.bins, tiers=tiers, scale=self.scale)
