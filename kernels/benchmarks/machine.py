"""What a figure was measured with: hardware, versions, commit."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import subprocess
import sys
import tomllib
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parents[2]
_PROJECT = "lifelong-ctr"

# What changes the speed of torch's threads and which device is used.
_SETTINGS = ("OMP_NUM_THREADS", "OMP_WAIT_POLICY", "MKL_NUM_THREADS", "CUDA_VISIBLE_DEVICES")

# Above this share of busy cores, figures of a CPU say little.
_QUIET_LOAD = 0.5


def describe(device: torch.device) -> dict[str, Any]:
    """Hardware, versions, commit, date and command line, ready for JSON."""
    return {
        "path": "CUDA" if device.type == "cuda" else "CPU",
        "device": device_name(device),
        "hardware": _hardware(device),
        "versions": _versions(),
        "git": _git(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": [Path(sys.executable).name, *sys.orig_argv[1:]],
        "threads": torch.get_num_threads(),
        "load_average_before": os.getloadavg()[0],
        "environment": {name: os.environ[name] for name in _SETTINGS if name in os.environ},
    }


def disturbance(report: dict[str, Any]) -> str | None:
    """A warning if the cores were busy with other work before the start, else None."""
    load, cores = report["load_average_before"], report["hardware"]["cores"] or 1
    if load <= _QUIET_LOAD * cores:
        return None
    return f"load average {load:.1f} on {cores} cores before the start: figures may be disturbed"


def device_name(device: torch.device) -> str:
    """The GPU's or the CPU's name."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return _proc("/proc/cpuinfo", "model name") or platform.processor() or platform.machine()


def slug(name: str) -> str:
    """A device's name as part of a file's name."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def _hardware(device: torch.device) -> dict[str, Any]:
    memory = _proc("/proc/meminfo", "MemTotal")
    found: dict[str, Any] = {
        "cpu": device_name(torch.device("cpu")),
        "cores": os.cpu_count(),
        "memory_gib": round(int(memory.split()[0]) / 2**20, 1) if memory else None,
    }
    if device.type == "cuda":
        gpu = torch.cuda.get_device_properties(device)
        found |= {
            "gpu": gpu.name,
            "gpu_memory_gib": round(gpu.total_memory / 2**30, 1),
            "gpu_multiprocessors": gpu.multi_processor_count,
            "gpu_capability": f"{gpu.major}.{gpu.minor}",
            "gpu_l2_mib": round(gpu.L2_cache_size / 2**20, 1),
        }
    return found


def _versions() -> dict[str, str | None]:
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "triton": _version("triton"),
        _PROJECT: _project_version(),
    }


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _project_version() -> str | None:
    # A checkout is more exact than what some installation left behind.
    try:
        return str(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"])
    except (OSError, KeyError, tomllib.TOMLDecodeError):
        return _version(_PROJECT)


def _git() -> dict[str, Any]:
    commit = _git_output("rev-parse", "HEAD")
    changes = _git_output("status", "--porcelain")
    return {"commit": commit, "dirty": None if changes is None else bool(changes)}


def _git_output(*arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def _proc(path: str, field: str) -> str | None:
    try:
        lines = Path(path).read_text().splitlines()
    except OSError:
        return None
    found = (line.partition(":")[2].strip() for line in lines if line.startswith(field))
    return next(found, None)
