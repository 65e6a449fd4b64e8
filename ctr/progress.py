"""How far a run is: everything that a checkpoint keeps beside tensors, as JSON."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from ctr.distributed import Process, gather_objects
from ctr.faults import SpikeWatch


@dataclass
class Window:
    """What happened since the last metric row; `loss` is a sum, of this process alone."""

    loss: Tensor
    samples: int = 0
    steps: int = 0
    started: float = field(default_factory=time.perf_counter)


@dataclass
class Progress:
    """Counts of a run.

    Attributes:
        spikes: what was learned about the losses so far.
        window: since the last metric row.
        step, samples: taken and read; skipped: steps that changed nothing.
        seconds: of training; search_seconds: of them, those that this process spent in the search.
    """

    spikes: SpikeWatch
    window: Window
    step: int = 0
    samples: int = 0
    skipped: int = 0
    seconds: float = 0.0
    search_seconds: float = 0.0

    def stored(
        self, loader: dict[str, int], process: Process, group: dist.ProcessGroup
    ) -> dict[str, Any]:
        """JSON values for the checkpoint; called on all processes at once.

        Args:
            loader: where reading stands; process: this one; group: of CPU collectives.
        """
        window = self.window
        # Not their sum: added up in another order it would differ in its last bits.
        losses = gather_objects(float(window.loss), process, group)
        return {
            "loader": loader,
            "samples": self.samples,
            "seconds": self.seconds,
            "search_seconds": self.search_seconds,
            "skipped": self.skipped,
            "spikes": self.spikes.state(),
            "window": {"losses": losses, "samples": window.samples, "steps": window.steps},
            "world_size": process.world_size,
        }

    def restore(self, stored: dict[str, Any], process: Process) -> None:
        """Go on where `stored` was taken, on as many processes or on others."""
        self.step, self.samples = stored["step"], stored["samples"]
        self.skipped, self.seconds = stored["skipped"], stored["seconds"]
        # Checkpoints of before it was counted have none.
        self.search_seconds = stored.get("search_seconds", 0.0)
        self.spikes.restore(stored["spikes"])
        window = stored["window"]
        losses = window["losses"]
        if len(losses) != process.world_size:
            # The first process takes over the sum of all.
            losses = [sum(losses)] + [0.0] * (process.world_size - 1)
        loss = torch.tensor(losses[process.rank], device=process.device)
        self.window = Window(loss, window["samples"], window["steps"])


class Stopwatch:
    """Adds the time of training to a run's progress; what lies between stop and start is left out.

    Args:
        searched: seconds that this process has spent in the search since it was started.
    """

    def __init__(self, searched: Callable[[], float]) -> None:
        self.searched = searched
        self.started = self.searched_before = 0.0

    def start(self) -> float:
        """Begin to count; returns the time."""
        self.searched_before = self.searched()
        self.started = time.perf_counter()
        return self.started

    def stop(self, progress: Progress) -> None:
        """Add what has passed since `start`."""
        # First, since a GPU is waited for: what it had to do is training, too.
        searched = self.searched()
        progress.seconds += time.perf_counter() - self.started
        progress.search_seconds += searched - self.searched_before
