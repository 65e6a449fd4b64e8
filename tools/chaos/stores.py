"""Preparations that are killed: what they leave is no store, and the next one is as if alone."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from tools.chaos.points import Point
from tools.chaos.start import Case, Result, mark_of, start, worker

WORLD = (
    *("--users=120", "--samples-per-user=6", "--history-length=60"),
    *("--items=800", "--categories=16", "--styles=5", "--seed=3"),
)


def prepare(store: Path, notes: Path, key: str, point: Point | None) -> int:
    """Prepare the world in which everything happens; returns the exit code.

    Args:
        store: its folder, replaced if there is one; notes: folder of the case.
        key: of this start; point: at which it is killed.
    """
    program = ["datasets.world", "--out", str(store), "--overwrite", *WORLD]
    return start(notes / f"{key}.log", worker(notes, key, point, program))


def sound(store: Path, notes: Path) -> bool:
    """Whether the store passes the check that a user can make."""
    return start(notes / "verify.log", ["-m", "datasets.store", "verify", str(store)]) == 0


def kill_preparation(folder: Path, case: Case, whole: Path) -> Result:
    """Kill a preparation at its points, look at what it left, prepare again.

    Args:
        folder: for the case; whole: the store of a preparation that was not killed.
    """
    started, result, store = time.perf_counter(), Result(), folder / "world"
    folder.mkdir(parents=True)
    for place, point in enumerate(case.points):
        code = prepare(store, folder, str(place), point)
        if not mark_of(folder, str(place)).exists():
            result.problems.append(f"{point}: was not reached, ended with {code}")
            continue
        result.kills += 1
        if store.exists() and not sound(store, folder):
            result.problems.append(f"{point}: left something that is taken for a store")
    code = prepare(store, folder, "last", None)
    if code:
        result.problems.append(f"preparing again ended with {code}: see {folder}/last.log")
    else:
        result.resumes = result.kills
        result.equal = sound(store, folder) and _manifest(store) == _manifest(whole)
    left = sorted(path.name for path in folder.glob("world.*"))
    result.problems += [f"left behind: {name}" for name in left]
    result.seconds = time.perf_counter() - started
    return result


def _manifest(store: Path) -> dict[str, Any]:
    """With the digest of every file."""
    manifest: dict[str, Any] = json.loads((store / "manifest.json").read_text())
    return manifest
