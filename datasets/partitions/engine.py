"""Engines: they run one pure function on many tasks. A pool of local processes; Ray is another.

Tasks and results are small: what is large goes through files.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import threading
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from typing import Any, Protocol, TypeVar

import pyarrow as pa
from tqdm import tqdm

log = logging.getLogger(__name__)

Task = TypeVar("Task")
Result = TypeVar("Result")
# Environment of a worker: there are as many workers as cores are wanted.
ONE_THREAD = {"POLARS_MAX_THREADS": "1", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


class Engine(Protocol):
    """Runs steps; a context manager that ends its processes."""

    def __enter__(self) -> Engine:
        """Start."""

    def __exit__(self, *_: object) -> None:
        """End all processes."""

    def map(
        self, step: str, function: Callable[[Task], Result], tasks: Sequence[Task]
    ) -> list[Result]:
        """Results of a function, in the order of the tasks.

        Args:
            step: its name, for messages.
            function: of a module, or a `functools.partial` of one; it may run twice on a task.
            tasks: what it is called with.

        Raises:
            ChildProcessError: a process died; names the step and the partition.
            Exception: of the first task, in their order, that raised one.
        """


def died(step: str, place: int, count: int, how: str) -> ChildProcessError:
    """The error of a worker that ended in the middle of a task."""
    return ChildProcessError(
        f"step '{step}', partition {place} of {count}: the worker process {how}. "
        "If the machine ran out of memory, give fewer --workers or a smaller --memory"
    )


def run_task(function: Callable[[Task], Result], task: Task) -> Result:
    """Run a task in a worker, on one core and without keeping the memory that it needed.

    Args:
        function: what to call.
        task: its argument.
    """
    pa.set_cpu_count(1)
    try:
        return function(task)
    finally:
        pa.default_memory_pool().release_unused()


class Inline:
    """Runs tasks in this process, one after another."""

    def __enter__(self) -> Inline:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def map(
        self, step: str, function: Callable[[Task], Result], tasks: Sequence[Task]
    ) -> list[Result]:
        """See `Engine.map`."""
        return [function(task) for task in tqdm(tasks, desc=step, disable=None)]


def _end_with_parent() -> None:
    """Wait for the end of the process that started this one, and end at once."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)


def _serve(connection: Connection) -> None:
    """Run tasks until the other end is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # A task that went on would write into a folder that the next preparation is about to remove.
    threading.Thread(target=_end_with_parent, daemon=True).start()
    while True:
        try:
            function, task = connection.recv()
        except EOFError:
            return
        answer: tuple[bool, Any]
        try:
            answer = (True, run_task(function, task))
        except Exception as error:
            error.add_note(traceback.format_exc())
            answer = (False, error)
        connection.send(answer)


class _Worker:
    """A process and the task that it has."""

    def __init__(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs,), daemon=True)
        self.process.start()
        theirs.close()
        self.place: int | None = None

    def end(self) -> None:
        self.connection.close()
        self.process.terminate()
        self.process.join()

    def how_it_ended(self) -> str:
        self.process.join()
        code = self.process.exitcode or 0
        return f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with {code}"


class Pool:
    """Runs tasks in processes of this machine.

    Args:
        workers: how many; they start with the first step.
    """

    def __init__(self, workers: int) -> None:
        self._count = workers
        self._workers: list[_Worker] = []

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self._workers:
            worker.end()
        self._workers = []

    def _start(self) -> None:
        before = {name: os.environ.get(name) for name in ONE_THREAD}
        os.environ.update(ONE_THREAD)
        try:
            self._workers = [_Worker() for _ in range(self._count)]
        finally:
            for name, value in before.items():
                if value is None:
                    del os.environ[name]
                else:
                    os.environ[name] = value

    def map(
        self, step: str, function: Callable[[Task], Result], tasks: Sequence[Task]
    ) -> list[Result]:
        """See `Engine.map`."""
        if not self._workers:
            self._start()
        results: dict[int, Result] = {}
        failed: dict[int, Exception] = {}
        waiting = list(enumerate(tasks))[::-1]
        with tqdm(total=len(tasks), desc=step, disable=None) as bar:
            while True:
                for worker in self._workers:
                    if worker.place is None and waiting and not failed:
                        worker.place, task = waiting.pop()
                        # A dead worker is noticed below, where its end of the pipe is read.
                        with suppress(BrokenPipeError):
                            worker.connection.send((function, task))
                busy = {w.connection: w for w in self._workers if w.place is not None}
                if not busy:
                    break
                for connection in wait(list(busy)):
                    worker = busy[connection]  # type: ignore[index]  # only connections were given
                    place, worker.place = worker.place, None
                    assert place is not None
                    try:
                        done, answer = worker.connection.recv()
                    except (EOFError, ConnectionResetError):
                        raise died(step, place, len(tasks), worker.how_it_ended()) from None
                    (results if done else failed)[place] = answer
                    bar.update()
        # Tasks are given out in order: whatever came before the first failure has been done too.
        if failed:
            raise failed[min(failed)]
        return [results[place] for place in range(len(tasks))]
