"""Statistics of a step's samples, on whatever process they are, and normalisation by them.

Shape legend: B samples of this process, W width of a layer.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, library, nn


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


@library.custom_op("ctr::as_it_is", mutates_args=())
def _as_it_is(buffer: Tensor) -> Tensor:
    """A copy of a buffer that a step reads before it changes it.

    torch.compile may compute a plain copy anew in the backward pass, when the buffer has changed;
    what an operator of our own returned, it keeps.
    """
    return buffer.clone()


@_as_it_is.register_fake
def _(buffer: Tensor) -> Tensor:
    return torch.empty_like(buffer)


def _over_processes(tensor: Tensor) -> Tensor:
    if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
        return _SumOverProcesses.apply(tensor)
    return tensor


class StepStatistics(nn.Module):
    """Mean and variance by column: of the step in training, running ones in evaluation.

    They are those of the step's samples on all processes, so that the result does not depend on
    how samples are shared out, and an empty or one-sample share is no special case.

    Args:
        width: W.
        momentum: weight of the newest step in the running statistics.
        unbiased: divide the running variance by one sample less, as torch's BatchNorm1d does; the
            variance of the step itself is always divided by all.
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, width: int, momentum: float = 0.1, unbiased: bool = False) -> None:
        super().__init__()
        self.momentum, self.unbiased = momentum, unbiased
        self.register_buffer("running_mean", torch.zeros(width))
        self.register_buffer("running_var", torch.ones(width))

    def statistics(self, x_BW: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and variance [W] to standardise float [B, W] by; in training, notes them, too."""
        if not self.training:
            return self.running_mean, self.running_var
        x_BW = x_BW.to(self.running_mean.dtype)
        # Sums of the values and of their squares let one exchange do; taken about the running
        # mean, which is the same on all processes, they lose no digits to a large mean.
        about = _as_it_is(self.running_mean)
        shifted_BW = x_BW - about
        width = x_BW.shape[1]
        count = x_BW.new_full((1,), float(x_BW.shape[0]))
        sums = [shifted_BW.sum(0), shifted_BW.square().sum(0), count]
        totals = _over_processes(torch.cat(sums))
        samples = totals[-1:].detach().clamp(min=1.0)
        offset = totals[:width] / samples
        var = (totals[width : 2 * width] / samples - offset.square()).clamp(min=0.0)
        mean = about + offset
        with torch.no_grad():
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(self._noted(var, samples), self.momentum)
        return mean, var

    def _noted(self, var: Tensor, samples: Tensor) -> Tensor:
        """The variance to take into the running one."""
        if not self.unbiased:
            return var
        unbiased = var * (samples / (samples - 1.0).clamp(min=1.0))
        # One sample alone tells nothing of a variance.
        return torch.where(samples > 1.0, unbiased, self.running_var)


class BatchNorm(StepStatistics):
    """Batch normalisation over the samples of all processes (arXiv 1502.03167, algorithm 1).

    On one process it is torch's BatchNorm1d, and accepts one sample, too. torch's SyncBatchNorm
    wants a GPU and more than one sample in a step.

    Args:
        width: W.
    """

    def __init__(self, width: int) -> None:
        super().__init__(width, unbiased=True)
        self.eps = 1e-5
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, x_BW: Tensor) -> Tensor:
        """Normalise float [B, W]; float32 out, unless the module was cast."""
        mean, var = self.statistics(x_BW)
        return torch.addcmul(self.bias, x_BW - mean, self.weight * torch.rsqrt(var + self.eps))

    def running_map(self) -> tuple[Tensor, Tensor]:
        """Scale and shift [W] that evaluation amounts to: x * scale + shift."""
        scale = self.weight * torch.rsqrt(self.running_var + self.eps)
        return scale, self.bias - self.running_mean * scale
