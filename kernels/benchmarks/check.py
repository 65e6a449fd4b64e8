"""What must hold before a speed is shown: the op's tests pass, and its results are right."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import torch

from kernels.benchmarks.machine import ROOT
from kernels.benchmarks.workloads import Workload

_MOST_SECONDS = 1800

# The project's own options ask for plugins that a machine to measure on need not have.
_OPTIONS = ("-q", "-p", "no:cacheprovider", "-o", "addopts=--import-mode=importlib")
_SHOWN_LINES = 25


class CheckError(Exception):
    """An op that failed its check; no speed of it may be shown."""


@dataclass(frozen=True)
class PassedTests:
    """Tests that passed: their paths, and pytest's last line."""

    paths: list[str]
    summary: str


def paths_of_tests(op: str, root: Path = ROOT) -> list[Path]:
    """Where the op's tests lie, empty if the package was installed without them."""
    below = root / "tests" / "kernels"
    return [path for path in (below / op, below / f"test_{op}.py") if path.exists()]


def run_tests(op: str, device: torch.device, root: Path = ROOT) -> PassedTests | None:
    """Run the op's tests in a process of their own, on the same device; None if there are none.

    Raises:
        CheckError: a test failed, none passed, or they took too long.
    """
    paths = [str(path.relative_to(root)) for path in paths_of_tests(op, root)]
    if not paths:
        return None
    environment = dict(os.environ)
    if device.type == "cpu":
        environment["CUDA_VISIBLE_DEVICES"] = ""
    try:
        done = subprocess.run(
            [sys.executable, "-m", "pytest", *_OPTIONS, *paths],
            cwd=root,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=_MOST_SECONDS,
        )
    except subprocess.TimeoutExpired:
        raise CheckError(f"{op}: its tests did not end within {_MOST_SECONDS} s") from None
    lines = done.stdout.strip().splitlines() or ["no output"]
    if done.returncode or not re.search(r"\d+ passed", lines[-1]):
        shown = "\n".join(lines[-_SHOWN_LINES:])
        raise CheckError(f"{op}: its tests did not pass ({' '.join(paths)})\n{shown}")
    return PassedTests(paths, lines[-1].strip("= "))


def check_outputs(workload: Workload) -> None:
    """Compare the op's results on every input set with its semantics, computed densely.

    Raises:
        CheckError: says which case differs and where.
    """
    for index in range(workload.sets):
        found = workload.mismatch(index)
        if found:
            raise CheckError(f"{workload.op}, case {workload.case.name}: {found}")
