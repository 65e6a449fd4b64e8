"""The index of a checkpoint, a pickle, read in a way that can run no code."""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any

import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.metadata import Metadata, StorageMeta, TensorStorageMetadata

from ctr.errors import UserError

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


class SafeReader(dcp.FileSystemReader):
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
