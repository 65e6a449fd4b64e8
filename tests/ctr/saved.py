"""What runs leave on disk, read back for tests to compare: tensors of checkpoints, metrics."""

import json
from pathlib import Path
from typing import Any

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


def rows_of(config: RunConfig, kind: str) -> list[dict[str, Any]]:
    """Rows of one kind of a run's metrics."""
    lines = (RunFolder(config.run_path).metrics).read_text().splitlines()
    return [row for row in map(json.loads, lines) if row["kind"] == kind]


def elsewhere(config: RunConfig, tmp_path: Path, **changes: Any) -> RunConfig:
    """The configuration again, in another run folder."""
    config.run = str(tmp_path / "other")
    for key, value in changes.items():
        setattr(config.trainer, key, value)
    return config
