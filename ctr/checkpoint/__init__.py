"""Checkpoints: complete or not there, checked before they are used, read without free pickle."""

from ctr.checkpoint.folder import Checkpoint, best, newest, newest_or_none, read, verify
from ctr.checkpoint.index import CheckpointError
from ctr.checkpoint.keeper import Checkpointer
from ctr.checkpoint.tensors import Writer, load, names, save

__all__ = [
    "Checkpoint",
    "CheckpointError",
    "Checkpointer",
    "Writer",
    "best",
    "load",
    "names",
    "newest",
    "newest_or_none",
    "read",
    "save",
    "verify",
]
