"""What can go wrong in a step: numbers that are none, losses that jump, a request to stop.

Every process must come to the same decision at the same step, so they vote before the backward
pass, over a CPU group of their own.
"""

from __future__ import annotations

import math
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ctr.distributed import new_group


class Votes:
    """Tells all processes what any of them has seen; made on all processes at once."""

    def __init__(self) -> None:
        self.alone = dist.get_world_size() == 1
        self.group = None if self.alone else new_group(backend="gloo")

    def any(self, *seen: bool) -> tuple[bool, ...]:
        """For each flag, whether any process has raised it."""
        if self.alone:
            return seen
        flags = torch.tensor(seen, dtype=torch.int32)
        dist.all_reduce(flags, dist.ReduceOp.MAX, group=self.group)
        return tuple(bool(flag) for flag in flags)


class StopRequest:
    """Whether this process was asked to stop (SIGTERM, as a scheduler sends before it takes it)."""

    def __init__(self) -> None:
        self.received = False

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Note a SIGTERM instead of dying from it."""

        def note(number: int, frame: FrameType | None) -> None:
            self.received = True

        before = signal.signal(signal.SIGTERM, note)
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, before)


@dataclass
class SpikeWatch:
    """Running mean and variance of the logged losses, by exponential averages.

    Attributes:
        limit: standard deviations above the mean that make a spike; None for never.
        mean, variance, seen: so far.
    """

    limit: float | None
    mean: float = 0.0
    variance: float = 0.0
    seen: int = 0

    _WEIGHT = 0.1
    # Before so many losses the variance says little.
    _PATIENCE = 10

    def add(self, loss: float) -> bool:
        """Take a loss in; returns whether it is a spike against those before."""
        gap = loss - self.mean
        spike = (
            self.limit is not None
            and self.seen >= self._PATIENCE
            and gap > self.limit * math.sqrt(self.variance)
        )
        weight = self._WEIGHT if self.seen else 1.0
        self.mean += weight * gap
        self.variance = (1.0 - weight) * (self.variance + weight * gap * gap)
        self.seen += 1
        return spike

    def state(self) -> list[float]:
        """What `restore` takes."""
        return [self.mean, self.variance, self.seen]

    def restore(self, state: list[float]) -> None:
        """Go on where `state` was taken."""
        self.mean, self.variance, self.seen = state[0], state[1], int(state[2])


def gradient_norm(parameters: Sequence[Tensor]) -> Tensor:
    """Norm of all gradients together: float32 [], not finite where one of them is not."""
    gradients = [p.grad for p in parameters if p.grad is not None]
    if not gradients:
        return torch.zeros(())
    return torch.nn.utils.get_total_norm(gradients)


class Statistics:
    """Running statistics of a model, which a step that goes wrong must not have touched.

    Args:
        model: whose persistent floating buffers they are.
    """

    def __init__(self, model: nn.Module) -> None:
        state = model.state_dict()
        self.live = [b for n, b in model.named_buffers() if n in state and b.is_floating_point()]
        self.kept: list[Tensor] = []

    def keep(self) -> None:
        """Remember them as they are before a step."""
        self.kept = [buffer.clone() for buffer in self.live]

    def put_back(self) -> None:
        """Make them what they were at `keep`."""
        for buffer, kept in zip(self.live, self.kept, strict=True):
            buffer.copy_(kept)
