"""SimHash: signs of fixed random projections.

Shape legend: N vectors, D width of a vector, m bits.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

# Numbers of a block of projections, so that a step's hashing takes 64 MiB, whatever its behaviours.
_BLOCK_NUMBERS = 1 << 24


class SimHash(nn.Module):
    """m bits of a vector: on which side of m random hyperplanes it lies (ETA, arXiv 2108.04468).

    A bit of two vectors is the same with probability 1 - angle / pi. The hyperplanes never change:
    they are the same in every run and travel with its checkpoints. Drawing them leaves torch's
    random state as it is. Hashing has no gradient and is done in float32 under autocast, too.

    Args:
        width: D; bits: m.
    """

    directions: Tensor

    def __init__(self, width: int, bits: int) -> None:
        super().__init__()
        own = torch.Generator().manual_seed(0)
        self.register_buffer("directions", torch.randn(width, bits, generator=own, device="cpu"))

    @torch.no_grad()
    def forward(self, vectors_ND: Tensor) -> Tensor:
        """Bool [N, m] of float vectors [N, D]."""
        with torch.autocast(vectors_ND.device.type, enabled=False):
            blocks = vectors_ND.split(max(_BLOCK_NUMBERS // self.directions.shape[1], 1))
            return torch.cat(
                [block.to(self.directions.dtype) @ self.directions > 0 for block in blocks]
            )
