"""The tensors of a checkpoint on disk, whole, for tests to compare."""

from pathlib import Path

import torch
from torch import Tensor

from ctr import checkpoint
from ctr.checkpoint.index import SafeReader
from ctr.config import RunConfig
from ctr.run_folder import RunFolder


def tensors_in(path: Path) -> dict[str, Tensor]:
    """Every tensor of the checkpoint in a folder, by name."""
    entries = SafeReader(path).read_metadata().state_dict_metadata
    found = {n: torch.zeros(e.size, dtype=e.properties.dtype) for n, e in entries.items()}
    checkpoint.load(checkpoint.read(path), found)
    return found


def tensors_of(config: RunConfig, step: int) -> dict[str, Tensor]:
    """Every tensor of a run's checkpoint, by name."""
    return tensors_in(RunFolder(config.run_path).checkpoints / f"step-{step:09d}")


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    assert len(expected) > 0
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor), name
