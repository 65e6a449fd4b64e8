"""Starts processes that have imported torch, torchrec and most of ctr before they begin.

Imports are most of what a small start takes: 4 s of processor time in each process. A server, one
for all tests of a pytest process, imports them once, and what is started is a fork of it. The
server imports nothing that starts threads, since a fork would lack them: pyarrow and polars are
left to the processes.

Start python or torchrun itself where the test is about what these forks have not: an agent that
starts them again, an interpreter of their own that ends (functions of atexit are not called), and a
seed of hashes of their own (sets of strings have the same order in all of them).
"""

from __future__ import annotations

import itertools
import os
import runpy
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.multiprocessing.spawn import ProcessContext, ProcessExitedException

ROOT = Path(__file__).resolve().parents[1]
# `ctr` before torch: it sets what OpenMP reads when it is loaded.
PRELOADED = (
    *("ctr", "torchrec", "hydra", "torch.utils.tensorboard"),
    *("ctr.model.build", "ctr.sharding", "ctr.trainer"),
)


@dataclass(frozen=True)
class Ended:
    """What processes that have ended left, each in the order of their ranks.

    Attributes:
        codes: exit codes; negative for a signal.
        outs, errors: all that they wrote to stdout and stderr.
    """

    codes: list[int]
    outs: list[str]
    errors: list[str]

    @property
    def returncode(self) -> int:
        """The first exit code that is not 0; 0 where all are."""
        return next((code for code in self.codes if code), 0)

    @property
    def stdout(self) -> str:
        """Of all processes, one after another."""
        return "".join(self.outs)

    @property
    def stderr(self) -> str:
        """Of all processes, one after another."""
        return "".join(self.errors)


def spawn(function: Callable[..., None], args: tuple[Any, ...], nprocs: int) -> None:
    """`torch.multiprocessing.spawn` by forks of the server, in the caller's environment.

    Args:
        function: of a module, called as function(rank, *args); args: picklable.
        nprocs: number of processes.

    Raises:
        ProcessRaisedException: with what one of them raised; the others were ended.
        TimeoutError: they did not end within four minutes; they were killed.
    """
    with _started(function, args, nprocs) as context:
        _join(context, timeout=240.0)


def run(
    processes: int | None,
    program: str,
    *arguments: str,
    folder: Path = ROOT,
    timeout: float = 240.0,
) -> Ended:
    """Run a program as torchrun does, in the environment of the caller.

    Args:
        processes: their number; None to start one without torchrun's variables, as python does.
        program: a script, relative to the root, or the name of a module.
        arguments: of its command line; folder: to be in; timeout: seconds.

    Raises:
        TimeoutError: a process did not end in time; all were killed.
    """
    count = processes or 1
    with tempfile.TemporaryDirectory() as place:
        # One that is ended at once has said nothing.
        said = [
            [Path(place) / f"{stream}-{rank}" for rank in range(count)] for stream in ("out", "err")
        ]
        for path in itertools.chain(*said):
            path.touch()
        # As the agent of torchrun has it: nobody else can take its port.
        store = dist.TCPStore("localhost", 0, is_master=True, wait_for_workers=False)
        group = None if processes is None else (processes, store.port)
        args = (said, group, program, arguments, folder)
        with _started(_program, args, count) as context:
            with suppress(ProcessExitedException):
                _join(context, timeout)
            codes = [process.exitcode for process in context.processes]
        return Ended(codes, *([path.read_text() for path in paths] for paths in said))


@contextmanager
def _started(
    function: Callable[..., None], args: tuple[Any, ...], nprocs: int
) -> Iterator[ProcessContext]:
    """Processes of the server; none is alive afterwards."""
    mp.set_forkserver_preload(list(PRELOADED))
    wrapped = (dict(os.environ), os.getcwd(), function, args)
    context = mp.start_processes(_begin, wrapped, nprocs, join=False, start_method="forkserver")
    try:
        yield context
    finally:
        for process in context.processes:
            process.kill()
            process.join()


def _join(context: ProcessContext, timeout: float) -> None:
    """Wait for all; where one fails, end the others and raise."""
    end = time.monotonic() + timeout
    while not context.join(max(0.0, end - time.monotonic())):
        if time.monotonic() >= end:
            raise TimeoutError(f"processes that have not ended after {timeout:g} s")


def _begin(
    rank: int,
    environment: dict[str, str],
    folder: str,
    function: Callable[..., None],
    args: tuple[Any, ...],
) -> None:
    """Give a fork the state that a process of the caller would have; then call the function."""
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    # Python's own generator does so by itself; torch's begins alike in every process.
    np.random.seed()
    function(rank, *args)


def _program(
    rank: int,
    said: list[list[Path]],
    group: tuple[int, int] | None,
    program: str,
    arguments: tuple[str, ...],
    folder: Path,
) -> None:
    """Become `python program arguments`, with what it says in the files of its rank."""
    for number, paths in enumerate(said, 1):
        with paths[rank].open("ab") as file:
            os.dup2(file.fileno(), number)
    os.chdir(folder)
    if group is not None:
        os.environ |= _variables(rank, *group)
    sys.argv = [program, *arguments]
    try:
        if program.endswith(".py"):
            script = ROOT / program
            sys.path.insert(0, str(script.parent))
            runpy.run_path(str(script), run_name="__main__")
        else:
            runpy.run_module(program, run_name="__main__", alter_sys=True)
    except Exception:
        traceback.print_exc()
        sys.exit(1)


def _variables(rank: int, processes: int, port: int) -> dict[str, str]:
    """What torchrun sets that torch.distributed, torchrec or ctr read, on one host."""
    return {
        **dict.fromkeys(("RANK", "LOCAL_RANK"), str(rank)),
        **dict.fromkeys(("WORLD_SIZE", "LOCAL_WORLD_SIZE"), str(processes)),
        **{"MASTER_ADDR": "localhost", "MASTER_PORT": str(port)},
        **{"TORCHELASTIC_USE_AGENT_STORE": "True", "TORCHELASTIC_RESTART_COUNT": "0"},
        "TORCHELASTIC_RUN_ID": "test",
    }
