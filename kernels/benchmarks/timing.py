"""Clocks, rates and memory: how long calls take, and what the machine could do at best."""

from __future__ import annotations

import ctypes
import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

_COPY_BYTES = {"cuda": 1 << 30, "cpu": 1 << 28}
_MATRIX_SIZE = {"cuda": 8192, "cpu": 2048}
_RATE_REPEATS = 9

# What input sets in rotation must exceed together, so that none is found in a cache. On a GPU the
# cache is emptied besides.
_CPU_CACHE_BYTES = 64 << 20
_LEAST_SETS, _MOST_SETS = 3, 8

_STATUS, _CLEAR_PEAK = Path("/proc/self/status"), Path("/proc/self/clear_refs")


# Of a GPU before a timed call: about a millisecond.
_LEAD_CYCLES = 2_000_000


@dataclass(frozen=True)
class Effort:
    """How often to time: `most` calls, but no more once `seconds` are over and `least` are done."""

    most: int
    least: int
    seconds: float


@dataclass(frozen=True)
class Rates:
    """The device at its best, measured in this run.

    Attributes:
        copy: bytes a second, read and written counted, of a copy far larger than any cache.
        matrix: operations a second of a square int8 matrix product; 0 where there is none.
    """

    copy: float
    matrix: float

    def floor(self, bytes_moved: int, operations: int) -> tuple[float, float]:
        """Seconds that the bytes and the operations take at these rates."""
        return bytes_moved / self.copy, operations / self.matrix if self.matrix else 0.0


def input_sets(device: torch.device, case_bytes: int) -> int:
    """Sets of inputs whose bytes together exceed a CPU's cache; three on a GPU."""
    if device.type == "cuda":
        return _LEAST_SETS
    return max(_LEAST_SETS, min(_MOST_SETS, math.ceil(_CPU_CACHE_BYTES / max(case_bytes, 1))))


def times(
    call: Callable[[int], Any], sets: int, device: torch.device, effort: Effort
) -> list[float]:
    """Seconds of single calls, input sets in turn, after a warm-up.

    On a GPU the time runs from one event to another around the call, with the L2 cache overwritten
    before the first; the host has a millisecond of lead, so that its own work does not show.
    """
    clock = _cuda_clock(device) if device.type == "cuda" else _cpu_seconds
    call(0)
    seconds: list[float] = []
    started = time.perf_counter()
    while len(seconds) < effort.most:
        late = time.perf_counter() - started > effort.seconds
        if late and len(seconds) >= effort.least:
            break
        seconds.append(clock(partial(call, len(seconds) % sets)))
    return seconds


def _cpu_seconds(call: Callable[[], Any]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def _cuda_clock(device: torch.device) -> Callable[[Callable[[], Any]], float]:
    cache = torch.cuda.get_device_properties(device).L2_cache_size
    overwrite = torch.empty(max(2 * cache, 256 << 20), dtype=torch.uint8, device=device)

    def clock(call: Callable[[], Any]) -> float:
        start = torch.cuda.Event(enable_timing=True)
        end = torch.cuda.Event(enable_timing=True)
        overwrite.zero_()
        # Meanwhile the host launches what the call is made of: what is timed is the GPU.
        torch.cuda._sleep(_LEAD_CYCLES)
        start.record()
        call()
        end.record()
        end.synchronize()
        return start.elapsed_time(end) / 1e3

    return clock


def measure_rates(device: torch.device) -> Rates:
    """Copy bandwidth and int8 matrix rate of the device: medians of several."""
    kind = device.type
    source = torch.ones(_COPY_BYTES[kind], dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    effort = Effort(most=_RATE_REPEATS, least=_RATE_REPEATS, seconds=0.0)
    copy = statistics.median(times(lambda _: target.copy_(source), 1, device, effort))
    size = _MATRIX_SIZE[kind]
    # Random, since a GPU multiplies constants at a higher clock than real data.
    square = torch.randint(-127, 128, (size, size), dtype=torch.int8, device=device)
    # The integer matrix units want the second factor by columns.
    product = statistics.median(
        times(lambda _: torch._int_mm(square, square.t()), 1, device, effort)
    )
    return Rates(copy=2 * source.numel() / copy, matrix=2 * size**3 / product)


def peak_memory(call: Callable[[], Any], device: torch.device) -> int | None:
    """Bytes that one call holds at most beside what was there before it, results included.

    On a GPU by the allocator's count; on Linux's CPU by the peak of the process's resident set;
    None where neither can be had.
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        call()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    try:
        # What earlier calls freed but malloc kept would hide what this one takes.
        ctypes.CDLL("libc.so.6").malloc_trim(0)
        _CLEAR_PEAK.write_text("5")
        before = _resident("VmRSS")
        call()
        return max(_resident("VmHWM") - before, 0)
    except (OSError, AttributeError, KeyError):
        return None


def _resident(field: str) -> int:
    lines = dict(line.split(":", 1) for line in _STATUS.read_text().splitlines())
    return int(lines[field].split()[0]) * 1024


def memory_method(device: torch.device) -> str:
    """How `peak_memory` counts on the device."""
    if device.type == "cuda":
        return "torch.cuda.max_memory_allocated during a call, less memory_allocated before it"
    return "peak of the resident set (VmHWM) during a call, less the resident set before it"


def free_memory(device: torch.device) -> int:
    """Bytes that can still be allocated on the device."""
    if device.type == "cuda":
        # What torch keeps of freed tensors is free to it.
        torch.cuda.empty_cache()
        return int(torch.cuda.mem_get_info(device)[0])
    lines = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
    return int(lines["MemAvailable"].split()[0]) * 1024


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that `share` of the values do not exceed."""
    return sorted(values)[max(math.ceil(share * len(values)) - 1, 0)]
