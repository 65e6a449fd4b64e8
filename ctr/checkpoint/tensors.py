"""Tensors of a checkpoint, sharded or not, written and read by torch.distributed.checkpoint."""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException

from ctr.checkpoint import folder as folders
from ctr.checkpoint.folder import Checkpoint
from ctr.checkpoint.growth import Growth, first_rows, grown_tables, is_table
from ctr.checkpoint.index import CheckpointError, SafeReader

_WIDTH = (
    ". Where a table has grown past embedding.narrow_below, which decides its width, raise that so "
    "that it stays as narrow as it was"
)


class Writer(dcp.FileSystemWriter):
    """Writes into a folder aside, which the first process seals and renames at the end.

    Args:
        folder: of all checkpoints of a run, on storage that every process sees.
        step: steps done.
        progress: JSON values, of the first process.
        keep: newest checkpoints to keep; keep_step: one more to keep.
        drop_later: remove checkpoints of later steps; a run has some that went on from before them.
    """

    def __init__(
        self,
        folder: Path,
        step: int,
        progress: dict[str, Any],
        keep: int,
        keep_step: int | None = None,
        drop_later: bool = True,
    ) -> None:
        self.final = folder / folders.name_of(step)
        self.aside = folder / f"{self.final.name}.tmp"
        self.step, self.progress = step, progress
        self.keep, self.keep_step, self.drop_later = keep, keep_step, drop_later
        super().__init__(self.aside, sync_files=True)

    def set_up_storage_writer(self, is_coordinator: bool, *args: Any, **kwargs: Any) -> None:
        """Clear what an attempt before left; none writes before the first process has answered."""
        if is_coordinator and self.aside.is_dir():
            for left in self.aside.iterdir():
                left.unlink()
        super().set_up_storage_writer(is_coordinator, *args, **kwargs)

    def finish(self, metadata: Any, results: list[Any]) -> None:
        """On the first process, when all have written."""
        super().finish(metadata, results)
        folders.complete(self.aside, self.final, self.step, self.progress)
        folder = self.final.parent
        if self.drop_later:
            folders.drop_later(folder, self.step)
        folders.prune(folder, self.keep, self.keep_step)

    def clear(self) -> None:
        """Remove what a failed attempt left."""
        shutil.rmtree(self.aside, ignore_errors=True)


def save(
    tensors: dict[str, Tensor], writer: Writer, group: dist.ProcessGroup | None = None
) -> None:
    """Write a checkpoint from all processes and wait until it is complete.

    Args:
        tensors: sharded or replicated, by name; what several processes hold under one name is
            written once.
        writer: where to; group: of CPU collectives.

    Raises:
        CheckpointError: on all processes, if one could not write; nothing half-written stays.
    """
    with _cleanly(writer):
        dcp.save(tensors, storage_writer=writer, process_group=group)


def begin_save(tensors: dict[str, Tensor], writer: Writer, group: dist.ProcessGroup) -> Future[Any]:
    """Copy the tensors and write the copies in a thread; hand the result to `end_save`.

    Args:
        tensors, writer: as for `save`; group: used by nothing else.
    """
    with _cleanly(writer):
        future = dcp.async_save(tensors, storage_writer=writer, process_group=group)
        assert isinstance(future, Future)
        return future


def end_save(future: Future[Any], writer: Writer) -> None:
    """Wait for `begin_save`.

    Raises:
        CheckpointError: as `save`.
    """
    with _cleanly(writer):
        future.result()


@contextmanager
def _cleanly(writer: Writer) -> Iterator[None]:
    try:
        yield
    except (Exception, CheckpointException) as error:  # the latter is a BaseException
        writer.clear()
        reason = str(error).splitlines()[-1] if str(error) else type(error).__name__
        raise CheckpointError(f"{writer.final}: cannot be written ({reason})") from error


def names(checkpoint: Checkpoint) -> set[str]:
    """Names of the tensors of a checkpoint.

    Raises:
        CheckpointError: its index is damaged.
    """
    return set(SafeReader(checkpoint.path).read_metadata().state_dict_metadata)


def load(
    checkpoint: Checkpoint, tensors: dict[str, Tensor], *, may_have_grown: bool = False
) -> dict[str, Growth]:
    """Fill `tensors` in place from a checkpoint, whatever the number of processes that wrote it.

    Args:
        checkpoint: a sound one; tensors: sharded or not, by name.
        may_have_grown: embedding tables may have more rows than the checkpoint, which stay as they
            are; the weights of these tables must be among `tensors`.

    Returns:
        The tables that have more rows.

    Raises:
        CheckpointError: a tensor that is missing or of another shape (the run's configuration or
            store differs), or damaged files.
    """
    reader = SafeReader(checkpoint.path)
    stored: dict[str, Any] = reader.read_metadata().state_dict_metadata
    grown = grown_tables(tensors, stored) if may_have_grown else {}
    tensors = first_rows(tensors, grown)
    try:
        for name, tensor in tensors.items():
            if name not in stored:
                raise CheckpointError(
                    f"{checkpoint.path}: no tensor {name}; it belongs to another model "
                    "configuration"
                )
            size = tuple(stored[name].size)
            if size != tuple(tensor.size()):
                raise CheckpointError(
                    f"{checkpoint.path}: {name} is {size}, this model needs "
                    f"{tuple(tensor.size())}; it belongs to another configuration or store"
                    + (_WIDTH if may_have_grown and is_table(name) else "")
                )
            # Rows that no chunk holds would keep the values that the model was built with.
            if sum(math.prod(chunk.sizes) for chunk in stored[name].chunks) != math.prod(size):
                raise CheckpointError(
                    f"{checkpoint.path}: {name} is incomplete; remove it to use the one before"
                )
        dcp.load(tensors, storage_reader=reader)
    except CheckpointError:
        raise
    except (Exception, CheckpointException) as error:  # the latter is a BaseException
        reason = str(error).splitlines()[-1] if str(error) else type(error).__name__
        raise CheckpointError(
            f"{checkpoint.path}: cannot be loaded ({reason}); remove it to use the one before"
        ) from error
    return grown
