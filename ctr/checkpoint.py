"""Checkpoints: written aside by torch.distributed.checkpoint, then renamed; read without pickle.

A checkpoint is a folder `step-<n>` with the tensors' files, their index `.metadata`, and
`progress.json`, which is written last. Tensors are loaded with `weights_only`, and the index, a
pickle, through an unpickler that knows only the classes an index is made of: opening a checkpoint
from a stranger runs no code.
"""

from __future__ import annotations

import io
import json
import math
import os
import pickle
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.metadata import Metadata, StorageMeta, TensorStorageMetadata

from ctr.errors import UserError

_NAME = re.compile(r"step-(\d{9})")
_ALLOWED = {
    "torch": {"Size", "device", "float32", "float16", "bfloat16", "float64", "int64", "int32"}
    | {"int8", "uint8", "bool", "strided"},
    "torch.serialization": {"_get_layout"},
    "collections": {"OrderedDict", "deque"},
    "torch.distributed.checkpoint.filesystem": {"_StorageInfo"},
    "torch.distributed.checkpoint.metadata": {
        "ChunkStorageMetadata",
        "Metadata",
        "MetadataIndex",
        "StorageMeta",
        "TensorProperties",
        "TensorStorageMetadata",
        "_MEM_FORMAT_ENCODING",
    },
    "pathlib": {"PosixPath"},
}


class CheckpointError(UserError):
    """A checkpoint that cannot be used; names the file and says what to do."""


class _IndexUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if name not in _ALLOWED.get(module, ()):
            raise CheckpointError(
                f"the index refers to {module}.{name}, which no checkpoint of ours contains; "
                "it is damaged or not to be trusted"
            )
        return super().find_class(module, name)


class _SafeReader(dcp.FileSystemReader):
    """FileSystemReader whose index cannot run code."""

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        path = Path(self.path) / ".metadata"
        try:
            metadata = _IndexUnpickler(io.BytesIO(path.read_bytes())).load()
        except CheckpointError as error:
            raise CheckpointError(f"{path}: {error}") from None
        except Exception as error:  # a damaged pickle raises almost anything
            raise CheckpointError(f"{path}: damaged index ({type(error).__name__})") from None
        stored = getattr(metadata, "state_dict_metadata", None)
        if not isinstance(metadata, Metadata) or not isinstance(stored, dict):
            raise CheckpointError(f"{path}: not an index of a checkpoint")
        for name, entry in stored.items():
            # The other kind of entry would be unpickled with nothing forbidden.
            if not isinstance(entry, TensorStorageMetadata):
                raise CheckpointError(f"{path}: {name} is not a tensor")
        if metadata.storage_meta is None:
            metadata.storage_meta = StorageMeta()
        metadata.storage_meta.load_id = self.load_id
        return metadata


@dataclass(frozen=True)
class Checkpoint:
    """A complete checkpoint: its folder and what `progress.json` says."""

    path: Path
    progress: dict[str, Any]


def save(
    folder: Path, step: int, tensors: dict[str, Tensor], progress: dict[str, Any], keep: int
) -> Path:
    """Write a checkpoint from all processes; keep the newest `keep`.

    Args:
        folder: of all checkpoints of a run, on storage that every process sees.
        step: steps done.
        tensors: sharded or replicated, by name, the same names on all processes.
        progress: JSON values, from the first process.
        keep: newest checkpoints to keep.

    Returns:
        The checkpoint's folder.
    """
    final = folder / f"step-{step:09d}"
    aside = folder / f"{final.name}.tmp"
    first = not dist.is_initialized() or dist.get_rank() == 0
    if first:
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(parents=True)
    _barrier()
    dcp.save(tensors, storage_writer=dcp.FileSystemWriter(aside, sync_files=True))
    if first:
        _write_synced(aside / "progress.json", json.dumps({**progress, "step": step}))
        # A run that starts over may meet a folder of this name: never be without either.
        replaced = folder / f"{final.name}.old"
        if final.exists():
            os.replace(final, replaced)
        os.replace(aside, final)
        _sync_folder(folder)
        shutil.rmtree(replaced, ignore_errors=True)
        for old in _complete(folder)[:-keep]:
            shutil.rmtree(old)
    _barrier()
    return final


def newest_or_none(folder: Path) -> Checkpoint | None:
    """The newest complete checkpoint of a run, or None before the first one."""
    return newest(folder) if _complete(folder) else None


def newest(folder: Path) -> Checkpoint:
    """The newest complete checkpoint of a run.

    Raises:
        CheckpointError: there is none, or its progress file cannot be read.
    """
    complete = _complete(folder)
    if not complete:
        raise CheckpointError(f"{folder}: no complete checkpoint; train the run first")
    path = complete[-1] / "progress.json"
    try:
        progress = json.loads(path.read_text())
        progress["step"]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise CheckpointError(f"{path}: cannot be read ({error}); remove {path.parent}") from None
    return Checkpoint(complete[-1], progress)


def load(checkpoint: Checkpoint, tensors: dict[str, Tensor]) -> None:
    """Fill `tensors` in place from a checkpoint, whatever the number of processes that wrote it.

    Raises:
        CheckpointError: a tensor that is missing or of another shape (the run's configuration or
            store differs), or damaged files.
    """
    reader = _SafeReader(checkpoint.path)
    stored: dict[str, Any] = reader.read_metadata().state_dict_metadata
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


def _complete(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    found = [p for p in folder.iterdir() if _NAME.fullmatch(p.name)]
    return sorted(p for p in found if (p / "progress.json").is_file())


def _write_synced(path: Path, text: str) -> None:
    with path.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _barrier() -> None:
    if dist.is_initialized() and dist.get_world_size() > 1:
        dist.barrier()
