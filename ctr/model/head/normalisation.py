"""Standardising over the samples of a step, wherever they are, and activations that do so.

Shape legend: B samples of this process, W width of a layer.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn


class _SumOverProcesses(torch.autograd.Function):
    """Sum of a tensor over all processes; its gradient is summed likewise."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        total = tensor.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        total = grads[0].clone()
        dist.all_reduce(total)
        return total


def _over_processes(tensor: Tensor) -> Tensor:
    if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
        return _SumOverProcesses.apply(tensor)
    return tensor


class Dice(nn.Module):
    """x (p + alpha (1 - p)), p = sigmoid of x standardised over the batch (arXiv 1706.06978, 4.3).

    Statistics are those of the step's samples on all processes, so that the result does not depend
    on how they are shared out, and an empty or one-sample share is no special case.

    Args:
        width: W; momentum: of the running statistics that evaluation uses.
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, width: int, momentum: float = 0.1) -> None:
        super().__init__()
        self.momentum, self.eps = momentum, 1e-8
        self.alpha = nn.Parameter(torch.zeros(width))
        self.register_buffer("running_mean", torch.zeros(width))
        self.register_buffer("running_var", torch.ones(width))

    def forward(self, x_BW: Tensor) -> Tensor:
        """Activate float [B, W]."""
        if self.training:
            mean, var = self._step_statistics(x_BW.to(self.running_mean.dtype))
        else:
            mean, var = self.running_mean, self.running_var
        p_BW = torch.sigmoid((x_BW - mean) * torch.rsqrt(var + self.eps))
        return x_BW * (p_BW + self.alpha * (1.0 - p_BW))

    def _step_statistics(self, x_BW: Tensor) -> tuple[Tensor, Tensor]:
        # Sums of the values and of their squares let one exchange do; taken about the running
        # mean, which is the same on all processes, they lose no digits to a large mean.
        shifted_BW = x_BW - self.running_mean
        width = x_BW.shape[1]
        count = x_BW.new_full((1,), float(x_BW.shape[0]))
        sums = [shifted_BW.sum(0), shifted_BW.square().sum(0), count]
        totals = _over_processes(torch.cat(sums))
        samples = totals[-1:].detach().clamp(min=1.0)
        offset = totals[:width] / samples
        var = (totals[width : 2 * width] / samples - offset.square()).clamp(min=0.0)
        mean = self.running_mean + offset
        with torch.no_grad():
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(var, self.momentum)
        return mean, var
