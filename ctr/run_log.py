"""The logs of a run: JSON lines and TensorBoard scalars, and the samples of every step."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter

from ctr.run_folder import RunFolder

_log = logging.getLogger(__name__)


class RunLog:
    """Writes rows as they come; a resumed run drops the rows that it is about to repeat.

    Args:
        folder: of the run.
        enabled: whether this process writes.
        step: steps done so far; rows past it are dropped.
    """

    def __init__(self, folder: RunFolder, enabled: bool, step: int) -> None:
        self.enabled = enabled
        if not enabled:
            return
        _drop_rows(folder.metrics, lambda row: row["step"] > step or row["kind"] == "summary")
        self.rows = folder.metrics.open("a")
        self.board = SummaryWriter(str(folder.tensorboard), purge_step=step + 1)

    def write(self, kind: str, step: int, values: dict[str, Any]) -> None:
        """Add a row: `kind` is train, valid, skipped, spike or summary."""
        if not self.enabled:
            return
        self.rows.write(json.dumps({"kind": kind, "step": step, **values}) + "\n")
        self.rows.flush()
        for name, value in values.items():
            if not isinstance(value, int | float):
                continue
            self.board.add_scalar(f"{kind}/{name}", value, step)

    def close(self) -> None:
        """Close the files."""
        if self.enabled:
            self.rows.close()
            self.board.close()


class SampleLog:
    """Sample ids of every step of this process: a JSON line a step in `rank-<r>.jsonl`.

    Args:
        folder: for the files of all processes; rank: of this one, among world_size.
        step: steps done so far; rows past it are dropped.
    """

    def __init__(self, folder: Path, rank: int, world_size: int, step: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"rank-{rank:04d}.jsonl"
        # The first process also cleans up after those that the run no longer has.
        gone = [p for p in folder.glob("rank-*.jsonl") if _rank(p) >= world_size]
        for file in [path, *(gone if rank == 0 else [])]:
            _drop_rows(file, lambda row: row["step"] > step)
        self.rows = path.open("a")

    def write(self, step: int, samples: list[int]) -> None:
        """Add the samples of a step that was taken."""
        self.rows.write(json.dumps({"step": step, "samples": samples}) + "\n")
        self.rows.flush()

    def close(self) -> None:
        """Close the file."""
        self.rows.close()


def _rank(path: Path) -> int:
    return int(path.stem.removeprefix("rank-"))


def _drop_rows(path: Path, drop: Callable[[dict[str, Any]], bool]) -> None:
    """Remove what a resumed run is about to repeat, and a last line that a kill cut short."""
    if not path.exists():
        return
    lines = path.read_bytes().split(b"\n")[:-1]
    rows = [(line, _row(line)) for line in lines]
    damaged = sum(row is None for _, row in rows)
    if damaged:
        # What stood there was not synced when the power went; checkpoints are.
        _log.warning("%s: %d damaged lines are dropped", path, damaged)
    kept = [line for line, row in rows if row is not None and not drop(row)]
    aside = path.with_suffix(".tmp")
    aside.write_bytes(b"".join(line + b"\n" for line in kept))
    os.replace(aside, path)


def _row(line: bytes) -> dict[str, Any] | None:
    """What a line says, or None of one that no run wrote."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    whole = isinstance(row, dict) and isinstance(row.get("step"), int)
    return {"kind": None, **row} if whole else None
