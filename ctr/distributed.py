"""Processes and devices: how many of us there are, and what we tell each other."""

from __future__ import annotations

import ctypes
import logging
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar, cast

import numpy as np
import torch
import torch.distributed as dist

from ctr.config import ConfigError

# After which collectives of this job give up; None for what torch takes.
_timeout: timedelta | None = None

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4


@dataclass(frozen=True)
class Process:
    """This process among all: rank, world size, processes on this host, device."""

    rank: int
    world_size: int
    local_world_size: int
    device: torch.device

    @property
    def is_first(self) -> bool:
        """Whether this process writes what only one must write."""
        return self.rank == 0


def keep_freed_memory() -> None:
    """Tell glibc to keep freed memory instead of returning it to the system.

    Training frees and allocates the same megabytes at every step; by default each round trip
    costs a system call and a fault per page. Does nothing where there is no glibc.
    """
    try:
        libc = ctypes.CDLL("libc.so.6")
    except OSError:
        return
    libc.mallopt(_M_MMAP_MAX, 0)
    libc.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
    libc.mallopt(_M_TOP_PAD, 64 << 20)


def quiet_libraries() -> None:
    """Silence what TorchRec and torch.fx say at every start about their own internals."""
    for name in ("torchrec", "torch.fx._symbolic_trace"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"torchrec\.")
    # TorchRec's state is made of ShardedTensor, whatever torch thinks of it.
    warnings.filterwarnings("ignore", category=FutureWarning, message=".*ShardedTensor")


def make_deterministic(wanted: bool) -> None:
    """Refuse operations whose result may change from run to run, or allow them."""
    if wanted:
        # cuBLAS reads it at its first use.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        # Nothing here reads memory before it is written, which this would hide at a price.
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.use_deterministic_algorithms(wanted)


@contextmanager
def process_group(device: str, timeout: float | None = None) -> Iterator[Process]:
    """Join the processes that torchrun started, or be the only one where none did.

    Args:
        device: auto, cpu or cuda; auto takes CUDA where there is a GPU for each local process.
        timeout: seconds after which a collective gives up; None for what torch takes.

    Raises:
        ConfigError: no GPU for this process where `device` asks for one.
    """
    quiet_libraries()
    rank = int(os.environ.get("RANK", "0"))
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    local_world_size = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    use_cuda = device == "cuda" or (
        device == "auto" and torch.cuda.device_count() >= local_world_size
    )
    if use_cuda and torch.cuda.device_count() <= local_rank:
        raise ConfigError(
            f"device={device}: local process {local_rank} has no GPU "
            f"({torch.cuda.device_count()} visible); set device=cpu, or start fewer processes"
        )
    chosen = torch.device("cuda", local_rank) if use_cuda else torch.device("cpu")
    if use_cuda:
        torch.cuda.set_device(chosen)
    else:
        keep_freed_memory()
        # torchrun sets OMP_NUM_THREADS=1 for several processes, however many cores there are.
        torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // local_world_size))
    backend = "nccl" if use_cuda else "gloo"
    global _timeout
    _timeout = None if timeout is None else timedelta(seconds=timeout)
    if "RANK" in os.environ:
        _join_started(backend, _timeout)
    else:
        dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)
    try:
        yield Process(rank, world_size, local_world_size, chosen)
    finally:
        dist.destroy_process_group()


def new_group(backend: str | None = None) -> dist.ProcessGroup:
    """A group of all processes, whose collectives give up when those of the default group do.

    Args:
        backend: nccl or gloo; None for that of the default group.
    """
    return dist.new_group(backend=backend, timeout=_timeout)


def _join_started(backend: str, timeout: timedelta | None) -> None:
    """Join the processes of this start of torchrun.

    It hands the processes of every start the same store, where those of the start before have left
    their addresses; torch 2.13 would connect to them and wait.
    """
    restarts = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))
    if restarts == 0 or os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        dist.init_process_group(backend, timeout=timeout)
        return
    store, rank, world_size = next(dist.rendezvous("env://"))
    own = dist.PrefixStore(f"start-{restarts}", store)
    dist.init_process_group(backend, store=own, rank=rank, world_size=world_size, timeout=timeout)


T = TypeVar("T")


def from_first(ask: Callable[[], T], process: Process) -> T:
    """What `ask` answers on the first process, on all processes; the others do not ask.

    Args:
        ask: its answer must be picklable.
        process: this process.
    """
    return broadcast_first(ask() if process.is_first else None, process)


def broadcast_first(mine: T | None, process: Process) -> T:
    """What the first process has, on all processes.

    Args:
        mine: picklable; looked at on the first process only.
        process: this process.
    """
    answer: list[T | None] = [mine]
    if process.world_size > 1:
        dist.broadcast_object_list(answer, src=0)
    return cast(T, answer[0])


def gather_objects(mine: T, process: Process, group: dist.ProcessGroup | None = None) -> list[T]:
    """What every process has, in the order of their ranks, on all processes.

    Args:
        mine: picklable; process: this process; group: of all processes.
    """
    if process.world_size == 1:
        return [mine]
    found: list[T | None] = [None] * process.world_size
    dist.all_gather_object(found, mine, group=group)
    return cast(list[T], found)


def gather_rows(columns: dict[str, np.ndarray], process: Process) -> dict[str, np.ndarray] | None:
    """Columns of all processes, one after another, on the first process; None elsewhere.

    Args:
        columns: arrays of one length, the same names and dtypes everywhere.
    """
    if process.world_size == 1:
        return columns
    length = torch.tensor([len(next(iter(columns.values())))], device=process.device)
    lengths = [torch.zeros_like(length) for _ in range(process.world_size)]
    dist.all_gather(lengths, length)
    sizes = [int(n) for n in lengths]
    gathered: dict[str, np.ndarray] = {}
    for name, column in columns.items():
        padded = np.zeros(max(sizes), dtype=column.dtype)
        padded[: len(column)] = column
        tensor = torch.from_numpy(padded).to(process.device)
        parts = [torch.empty_like(tensor) for _ in sizes] if process.is_first else None
        dist.gather(tensor, parts)
        if parts is not None:
            gathered[name] = np.concatenate(
                [part[:size].cpu().numpy() for part, size in zip(parts, sizes, strict=True)]
            )
    return gathered if process.is_first else None
