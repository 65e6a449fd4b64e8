"""Learning rates over a run: a function of how much was read and of what validations have shown."""

from __future__ import annotations

import math

import torch
from torchrec.distributed import DistributedModelParallel

from ctr.config import TrainerConfig


def rate_factor(done: float, config: TrainerConfig) -> float:
    """What the learning rates are multiplied with.

    Args:
        done: share of the run's samples that were read before this step, in [0, 1].
        config: of the loop.
    """
    if done < config.warmup:
        return done / config.warmup
    rest = (done - config.warmup) / (1.0 - config.warmup)
    if config.schedule == "linear":
        return 1.0 - rest
    if config.schedule == "cosine":
        return 0.5 * (1.0 + math.cos(math.pi * rest))
    return 1.0


class RateSchedule:
    """Sets the learning rates of the dense optimizer and of the fused ones.

    Args:
        model: whose embedding tables update themselves; optimizer: of the rest.
        config: of the loop; samples: of the whole run, all epochs.
    """

    def __init__(
        self,
        model: DistributedModelParallel,
        optimizer: torch.optim.Optimizer,
        config: TrainerConfig,
        samples: int,
    ) -> None:
        self.config, self.samples = config, samples
        self.optimizers = (optimizer, model.fused_optimizer)
        self.rates = [[group["lr"] for group in o.param_groups] for o in self.optimizers]
        self.factor = 1.0

    def set(self, samples_done: int, scale: float) -> None:
        """Set the rates for the next step.

        Args:
            samples_done: that the run has read before it.
            scale: on top of the schedule: what plateaus have left of the rates.
        """
        factor = scale * rate_factor(min(samples_done / self.samples, 1.0), self.config)
        if factor == self.factor:
            return
        self.factor = factor
        for optimizer, rates in zip(self.optimizers, self.rates, strict=True):
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * factor
        # A fused optimizer hands its rate to the kernels when it is asked to step; the update
        # itself is part of the backward pass.
        self.optimizers[1].step()
