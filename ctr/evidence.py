"""Batches on disk: those that made a loss or a gradient that is not finite."""

from __future__ import annotations

import os
from pathlib import Path

import torch

from ctr.data.batch import Batch
from ctr.errors import UserError


class EvidenceError(UserError):
    """A saved batch that cannot be read; names the file."""


def write_batch(path: Path, batch: Batch) -> None:
    """Write a batch, aside and renamed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_suffix(".tmp")
    torch.save(batch.to(torch.device("cpu")).as_dict(), aside)
    os.replace(aside, path)


def read_batch(path: Path) -> Batch:
    """Read what `write_batch` wrote; runs no code of the file's.

    Raises:
        EvidenceError: no such file, or not a batch.
    """
    try:
        return Batch(**torch.load(path, weights_only=True))
    except Exception as error:  # a damaged file raises almost anything
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise EvidenceError(f"{path}: not a saved batch ({reason})") from None
