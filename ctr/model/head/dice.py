"""DIN's activation.

Shape legend: B samples of this process, W width of a layer.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ctr.model.head.normalisation import StepStatistics


class Dice(StepStatistics):
    """x (p + alpha (1 - p)), p = sigmoid of x standardised over the batch (arXiv 1706.06978, 4.3).

    Args:
        width: W; momentum: of the running statistics that evaluation uses.
    """

    def __init__(self, width: int, momentum: float = 0.1) -> None:
        super().__init__(width, momentum)
        self.eps = 1e-8
        self.alpha = nn.Parameter(torch.zeros(width))

    def forward(self, x_BW: Tensor) -> Tensor:
        """Activate float [B, W]."""
        mean, var = self.statistics(x_BW)
        p_BW = torch.sigmoid((x_BW - mean) * torch.rsqrt(var + self.eps))
        return x_BW * (p_BW + self.alpha * (1.0 - p_BW))
