"""What a training run leaves behind, and in what two runs differ: to the bit, seconds aside."""

from __future__ import annotations

import json
import warnings
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor

from ctr import checkpoint
from ctr.checkpoint.index import SafeReader

# What a clock or the system says, not the run.
_TIMED = {"seconds", "search_seconds", "samples_per_s", "peak_memory_mib"}


@dataclass
class Ending:
    """What is compared of a run.

    Attributes:
        tensors: by name, of every checkpoint that is kept, by its folder.
        progress: what is stored beside the tensors, by the same folders.
        rows: of the metrics.
        samples: ids of every step, by rank: a list of (step, ids), in the file's order.
        left: files and folders beside the checkpoints.
    """

    tensors: dict[str, dict[str, Tensor]]
    progress: dict[str, dict[str, Any]]
    rows: list[dict[str, Any]]
    samples: dict[int, list[tuple[int, list[int]]]]
    left: list[str]


def read_ending(run: Path) -> Ending:
    """Read a finished run's folder."""
    tensors, progress, left = {}, {}, []
    for path in sorted((run / "checkpoints").iterdir()):
        if path.suffix:
            left.append(path.name)
            continue
        found = checkpoint.verify(checkpoint.read(path))
        tensors[path.name], progress[path.name] = read_tensors(found), _untimed(found.progress)
    rows = [_untimed(row) for row in _lines(run / "metrics.jsonl")]
    return Ending(tensors, progress, rows, read_samples(run), left)


def read_tensors(found: checkpoint.Checkpoint) -> dict[str, Tensor]:
    """All tensors of a checkpoint, whole, in one process."""
    stored: dict[str, Any] = SafeReader(found.path).read_metadata().state_dict_metadata
    tensors = {
        name: torch.empty(tuple(entry.size), dtype=entry.properties.dtype)
        for name, entry in stored.items()
    }
    with warnings.catch_warnings():
        # torch warns that this is one process.
        warnings.simplefilter("ignore", UserWarning)
        dcp.load(tensors, storage_reader=SafeReader(found.path), no_dist=True)
    return tensors


def read_samples(run: Path) -> dict[int, list[tuple[int, list[int]]]]:
    """Sample ids as logged: (step, ids) of every row, by rank."""
    return {
        int(path.stem.removeprefix("rank-")): [(r["step"], r["samples"]) for r in _lines(path)]
        for path in sorted((run / "samples").glob("rank-*.jsonl"))
    }


def differences(found: Ending, expected: Ending) -> list[str]:
    """Each thing in which an ending is not the expected one, in words; at most a line each."""
    problems = [f"left behind: {name}" for name in found.left]
    if found.tensors.keys() != expected.tensors.keys():
        problems.append(f"checkpoints {sorted(found.tensors)}, not {sorted(expected.tensors)}")
    for name in sorted(found.tensors.keys() & expected.tensors.keys()):
        problems += _tensor_differences(name, found.tensors[name], expected.tensors[name])
        if found.progress[name] != expected.progress[name]:
            problems.append(f"{name}: progress {found.progress[name]}, not as expected")
    if found.rows != expected.rows:
        pairs = zip(found.rows, expected.rows, strict=False)
        first = next((a for a, b in pairs if a != b), "their number")
        problems.append(f"metrics differ, first: {first}")
    if found.samples != expected.samples:
        problems.append("samples of the steps differ")
    return problems


def count_samples(
    samples: dict[int, list[tuple[int, list[int]]]], size: int, epochs: int
) -> tuple[int, int]:
    """How many readings of a sample in an epoch were one too many, and how many are missing.

    Args:
        samples: as of `read_samples`; size: samples of the split; epochs: that were to be read.
    """
    rows = sorted((step, ids) for ranks in samples.values() for step, ids in ranks)
    steps: dict[int, list[int]] = {}
    for step, ids in rows:
        steps.setdefault(step, []).extend(ids)
    twice = missed = read = 0
    counts = [Counter[int]() for _ in range(epochs)]
    for ids in steps.values():
        # No step crosses the end of an epoch; one that a bug adds counts for the last.
        counts[min(read // size, epochs - 1)].update(ids)
        read += len(ids)
    for count in counts:
        twice += sum(n - 1 for n in count.values())
        missed += size - sum(0 <= sample < size for sample in count)
    return twice, missed


def damaged_loads(notes: Path) -> int:
    """Checkpoints that were loaded though their files were not what had been written."""
    written = _lines(notes / "written.jsonl")
    return sum(row not in written for row in _lines(notes / "loaded.jsonl"))


def loaded_steps(notes: Path) -> list[int]:
    """Steps of the checkpoints that the resumes of a run have read, in their order."""
    return [row["step"] for row in _lines(notes / "loaded.jsonl")]


def _tensor_differences(
    folder: str, found: dict[str, Tensor], expected: dict[str, Tensor]
) -> list[str]:
    if found.keys() != expected.keys():
        return [f"{folder}: tensors {sorted(found.keys() ^ expected.keys())} in one run only"]
    return [
        f"{folder}: {name} differs"
        for name, tensor in found.items()
        if tensor.dtype != expected[name].dtype or not _same_bits(tensor, expected[name])
    ]


def _same_bits(a: Tensor, b: Tensor) -> bool:
    # As bytes, since NaN differs from itself and -0.0 equals 0.0.
    if a.shape != b.shape:
        return False
    flat = (t.contiguous().reshape(-1).view(torch.uint8) for t in (a, b))
    return torch.equal(*flat)


def _untimed(row: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name not in _TIMED}


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
