"""Starts processes for `tools.chaos`: commands as a user types them, some under `worker`."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tools.chaos.points import Point

ROOT = Path(__file__).resolve().parents[2]
# Seconds: of a start that hangs, and for torchrun to end its processes.
_LONGEST, _GRACE = 240.0, 60.0


@dataclass(frozen=True)
class Case:
    """A run, or a preparation (0 processes), and the moments at which it is killed.

    Attributes:
        processes: of the run; points: one of each start but the last.
        damage: spoil the newest checkpoint after the last kill.
    """

    processes: int
    points: tuple[Point, ...]
    damage: bool = False


@dataclass
class Result:
    """What became of a case.

    Attributes:
        kills, resumes: that happened.
        equal: whether the ending is that of a run that was never killed.
        twice, missed: readings of samples; damaged: loads of checkpoints that were not as written.
        resumed_from: steps of the checkpoints that were loaded.
        problems: in words; seconds: that it took.
    """

    kills: int = 0
    resumes: int = 0
    equal: bool = False
    twice: int = 0
    missed: int = 0
    damaged: int = 0
    resumed_from: list[int] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    seconds: float = 0.0


def mark_of(notes: Path, key: str) -> Path:
    """The file that a start leaves behind as it kills itself."""
    return notes / f"killed-{key}"


def worker(notes: Path, key: str, point: Point | None, program: Sequence[str]) -> list[str]:
    """Arguments of python for a program under `tools.chaos.worker`.

    Args:
        notes: folder of the case; key: of this start; point: at which it dies.
        program: a script or a module, and its arguments.
    """
    asked = point.as_json() if point else "null"
    return ["-m", "tools.chaos.worker", str(notes), key, asked, *program]


def start(log: Path, arguments: Sequence[str]) -> int:
    """Run python to its end, which must come; returns its exit code.

    Args:
        log: of everything that it says; arguments: of python.
    """
    # ctr sets its own number of threads; without this torchrun warns about it at every start.
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    with log.open("w") as output:
        process = subprocess.Popen(
            [sys.executable, "-W", "ignore", *arguments],
            cwd=ROOT,
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        try:
            return process.wait(_LONGEST)
        except subprocess.TimeoutExpired:
            # torchrun ends its processes when it is asked to end.
            process.send_signal(signal.SIGTERM)
        try:
            return process.wait(_GRACE)
        except subprocess.TimeoutExpired:
            process.kill()
            return process.wait()


def processes_of(folder: Path) -> list[int]:
    """Ids of the processes that have the folder as a word of their command line."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            words = (path / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if str(folder).encode() in words:
            found.append(int(path.name))
    return found
