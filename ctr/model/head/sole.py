"""The head of a network whose input is a logit already.

Shape legend: B samples of this process.
"""

from __future__ import annotations

from torch import Tensor, nn


class SoleLogit(nn.Module):
    """Takes the one input for the logit."""

    input_width = 1

    def forward(self, x_B1: Tensor) -> Tensor:
        """Logit float [B] of float [B, 1]."""
        return x_B1.squeeze(1)
