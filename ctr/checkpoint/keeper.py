"""How a run's checkpoints are written: beside training or not, and what a failure means."""

from __future__ import annotations

import logging
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from torch import Tensor

from ctr.checkpoint.folder import prune
from ctr.checkpoint.index import CheckpointError
from ctr.checkpoint.tensors import Writer, begin_save, end_save, save
from ctr.config import TrainerConfig
from ctr.distributed import new_group

_log = logging.getLogger(__name__)


class Checkpointer:
    """Writes the checkpoints of a run; made on all processes at once.

    Args:
        folder: of the checkpoints; config: of the loop.
    """

    def __init__(self, folder: Path, config: TrainerConfig) -> None:
        self.folder, self.config = folder, config
        # Of its own, on the CPU: a checkpoint that is written beside training must not take its
        # turn among training's collectives.
        self.group = new_group(backend="gloo")
        self.pending: tuple[Future[Any], Writer] | None = None
        self.failures = 0

    def save(self, step: int, tensors: dict[str, Tensor], progress: dict[str, Any]) -> None:
        """Write a checkpoint, in a thread if so configured; the one before is waited for.

        Args:
            step: steps done; tensors: by name; progress: JSON values, `best` among them.

        Raises:
            CheckpointError: this one or the one before could not be written, and
                trainer.on_save_failure is stop.
        """
        self.wait()
        best = progress.get("best")
        keep_step = best["step"] if best else None
        writer = Writer(self.folder, step, progress, self.config.keep_checkpoints, keep_step)
        try:
            if self.config.async_checkpoints:
                self.pending = begin_save(tensors, writer, self.group), writer
            else:
                save(tensors, writer, self.group)
        except CheckpointError as error:
            self._failed(error)

    def wait(self) -> None:
        """Wait for the checkpoint that is being written, if any.

        Raises:
            CheckpointError: it could not be written, and trainer.on_save_failure is stop.
        """
        if self.pending is None:
            return
        future, writer = self.pending
        self.pending = None
        try:
            end_save(future, writer)
        except CheckpointError as error:
            self._failed(error)

    def prune(self, best: dict[str, float] | None) -> None:
        """Remove what is not to be kept, on one process, when the run is done.

        Every checkpoint does so; after the last one, a kill may have come first.
        """
        prune(self.folder, self.config.keep_checkpoints, int(best["step"]) if best else None)

    def _failed(self, error: CheckpointError) -> None:
        if self.config.on_save_failure == "stop":
            raise error
        self.failures += 1
        _log.error("%s; training goes on with the last checkpoint before it", error)
