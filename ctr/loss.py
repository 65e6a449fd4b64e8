"""Training loss."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F


def click_loss(logit_B: Tensor, label_B: Tensor, step_samples: int, world_size: int) -> Tensor:
    """Binary cross-entropy, scaled so that averaging gradients over processes gives the step mean.

    Processes may hold different numbers of samples, none included; a plain mean on each would
    weigh their samples differently.

    Args:
        logit_B: float [B]; label_B: float32 [B], 0 or 1.
        step_samples: samples of the step on all processes.
        world_size: number of processes.

    Returns:
        Scalar; its mean over processes is the mean loss of the step.
    """
    total = F.binary_cross_entropy_with_logits(logit_B.float(), label_B, reduction="sum")
    return total * (world_size / step_samples)
