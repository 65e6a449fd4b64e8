"""DCN-V2: crosses of the input with itself beside a tower.

Shape legend: B samples of this process, W width of the input, H width of the last hidden layer.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ctr.model.head.tower import hidden_layers


class CrossHead(nn.Module):
    """DCN-V2, full rank, cross and deep network in parallel (arXiv 2008.13535, eq. 1 and 3.4).

    x_{l+1} = x_0 * (W_l x_l + b_l) + x_l; the logit is linear in the last x and the last hidden
    layer side by side.

    Args:
        width: W; layers: of the cross network.
        hidden: widths of the deep network; activation: dice, prelu or relu, of the deep network.
    """

    def __init__(self, width: int, layers: int, hidden: list[int], activation: str) -> None:
        super().__init__()
        self.input_width = width
        self.cross = nn.ModuleList(nn.Linear(width, width) for _ in range(layers))
        self.deep = nn.Sequential(*hidden_layers(width, hidden, activation))
        self.logit = nn.Linear(width + [width, *hidden][-1], 1)

    def forward(self, x_BW: Tensor) -> Tensor:
        """Logit float [B] of float [B, W]."""
        crossed_BW = x_BW
        for linear in self.cross:
            crossed_BW = x_BW * linear(crossed_BW) + crossed_BW
        both_BX = torch.cat([crossed_BW, self.deep(x_BW)], dim=1)
        return self.logit(both_BX).squeeze(1)
