"""Ends a job in which a process died or hangs, and says which one, in which step and stage.

Every process tells the others through the store of torch.distributed what it does, from a thread
that no collective can hold up, and reads what they do. Who waits for another is not to blame: of
those that stand still it is the one that is behind, or that is no longer heard of.
"""

from __future__ import annotations

import itertools
import json
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from types import TracebackType
from typing import Any

import torch.distributed as dist

from ctr.distributed import Process
from ctr.errors import UserError
from ctr.stages import SEARCHED, Stages
from ctr.verdict import DONE, LONG, Report, Seen, says, verdict

_log = logging.getLogger(__name__)

# What a scheduler may take for a failure that another start can mend (EX_TEMPFAIL).
EXIT_CODE = 75
# Beats that a process must miss to count as silent.
_SILENT = 6
# Files in which a main thread is that waits for other processes, and those among them that do work
# of their own; where a checkpoint is agreed on, the innermost call is one of the former.
_WAITS = ("torch/distributed/", "torchrec/distributed/", "torch/autograd/")
_WORKS = ("torch/distributed/checkpoint/", "torchrec/distributed/planner/")


def group_timeout(timeout: float) -> float:
    """Seconds after which a collective gives up: a little more than the watchdog grants anything.

    Args:
        timeout: of the watchdog, seconds.
    """
    return LONG * timeout + 60.0


class Watchdog:
    """Watches all processes of a job while it is open; with one process it does nothing.

    Where the job stands still every process ends with one message and exit code 75, whatever its
    main thread is doing. Where this process fails since another one died, the message says so.

    Args:
        stages: of this process; made by its main thread.
        process: this one; timeout: seconds that a stage of a step may take.
        orderly: exceptions with which all processes leave alike without having failed.
    """

    # One after the other in a process, each with keys of its own in the store.
    _opened = itertools.count()

    def __init__(
        self,
        stages: Stages,
        process: Process,
        timeout: float,
        orderly: tuple[type[Exception], ...] = (),
    ) -> None:
        self.stages, self.process, self.timeout = stages, process, timeout
        self.orderly = orderly
        # Seconds between beats: all read what all say, which the store has to bear.
        self.interval = min(max(0.25, process.world_size / 256), timeout / 10)
        self._main = threading.get_ident()
        self._own = Report()
        self._step: Callable[[], int | None] = lambda: None
        self._first: int | None = None
        self._seen: dict[int, tuple[Report, float]] = {}
        self._exchanged = time.monotonic()
        self._lost, self._failure = False, ""
        self._closed = threading.Event()
        self._threads: list[threading.Thread] = []

    def count(self, step: Callable[[], int]) -> None:
        """Ask for the steps that this process has done from now on; the next one is its first."""
        self._first, self._step = step(), step

    def __enter__(self) -> Watchdog:
        if self.process.world_size > 1:
            # A connection of its own: the main thread may wait for a key with the other one.
            store: Any = dist.distributed_c10d._get_default_store()
            self._store = dist.PrefixStore(f"watchdog-{next(self._opened)}", store.clone())
            for work in (self._exchange, self._guard):
                thread = threading.Thread(target=work, name="watchdog", daemon=True)
                self._threads.append(thread)
                thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if not self._threads:
            return
        # A process that is interrupted (no Exception) has not failed either.
        if isinstance(error, Exception) and not isinstance(error, self.orderly):
            self._failure = f"{type(error).__name__}: {error}".splitlines()[0]
            if not isinstance(error, UserError):
                # torchrun stops all others as soon as one has died, and waits longer than this.
                before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
                self._print(self._explained())
                signal.signal(signal.SIGTERM, before)
        self._closed.set()
        self._threads[0].join(timeout=_SILENT * self.interval)
        self._failure = self._failure or DONE
        with suppress(RuntimeError):
            # If the store is gone, nobody is there to be told.
            self._publish()

    def _explained(self) -> str:
        """Where this process has failed, or which other one had failed or died before."""
        end = time.monotonic() + 2 * _SILENT * self.interval
        found: list[int] = []
        while not found and time.monotonic() < end and not self._lost:
            time.sleep(self.interval)
            seen = self._look()
            found = [rank for rank, some in seen.items() if some.silent]
        if self._lost:
            return "the store of the job is gone with its process, that of rank 0 without torchrun"
        seen = self._look()
        own = self.process.rank
        found = found or [rank for rank, some in seen.items() if rank != own and some.failed]
        if not found:
            return says(own, Seen(self._report(), 0.0, False))
        return "; ".join(says(rank, seen[rank]) for rank in found)

    def _exchange(self) -> None:
        """In a thread: publish, read, judge."""
        try:
            while not self._closed.wait(self.interval):
                self._publish()
                self._read()
                self._exchanged = time.monotonic()
                if self._store.check(["verdict"]):
                    self._end(self._store.get("verdict").decode())
                text = verdict(self._look(), self.timeout, grace=2 * _SILENT * self.interval)
                if text is not None:
                    # All end with the message of the first.
                    self._end(self._store.compare_set("verdict", "", text).decode())
        except RuntimeError as error:
            # The guard decides when that is the end.
            _log.warning("watchdog: the store of the job is gone (%s)", error)
            self._lost = True

    def _guard(self) -> None:
        """In a thread that calls nobody: end where the store does not answer."""
        while not self._closed.wait(self.interval):
            silence = time.monotonic() - self._exchanged
            if silence > self.timeout + 2 * _SILENT * self.interval:
                self._end(
                    f"the store of the job has not answered for {silence:.0f} s: the host of "
                    "rank 0 is gone"
                )

    def _end(self, text: str) -> None:
        self._print(
            f"the job ends, since it stands still (trainer.timeout={self.timeout:g}): {text}"
        )
        # The others read the verdict from a store that may live in this process.
        time.sleep(3 * self.interval)
        if not self._closed.is_set():
            os._exit(EXIT_CODE)

    def _print(self, text: str) -> None:
        sys.stdout.flush()
        # In one piece: the lines of all processes may end in one file.
        sys.stderr.write(f"error on rank {self.process.rank}: {text}\n")
        sys.stderr.flush()

    def _report(self) -> Report:
        now, step = self.stages.now, self._step()
        standing = time.monotonic() - now.since
        waits, where = _call(self._main) if standing > 2 * self.interval else (False, "")
        # The search in the other thread may wait for the vectors of other processes.
        waits = waits or now.name == SEARCHED
        return Report(
            beat=self._own.beat + 1,
            moves=now.moves,
            step=step,
            first=step == self._first,
            stage=now.name,
            standing=standing,
            waits=waits,
            where=where,
            ended=self._failure,
        )

    def _publish(self) -> None:
        self._own = self._report()
        self._store.set(str(self.process.rank), json.dumps(asdict(self._own)))

    def _read(self) -> None:
        """Take in what the others have published."""
        now = time.monotonic()
        keys = [str(rank) for rank in range(self.process.world_size)]
        if not self._store.check(keys):
            # One that has never said anything stands as long as this one watches.
            keys = [key for key in keys if self._store.check([key])]
        for key, text in zip(keys, self._store.multi_get(keys), strict=True):
            report = Report(**json.loads(text))
            before = self._seen.get(int(key))
            if before is None or before[0] != report:
                self._seen[int(key)] = report, now
        for rank in range(self.process.world_size):
            self._seen.setdefault(rank, (Report(), now))

    def _look(self) -> dict[int, Seen]:
        now = time.monotonic()
        ages = {rank: (report, now - at) for rank, (report, at) in [*self._seen.items()]}
        return {
            rank: Seen(report, age, age > _SILENT * self.interval and not report.ended)
            for rank, (report, age) in ages.items()
        }


def _call(thread: int) -> tuple[bool, str]:
    """Whether a thread is in a call that waits for other processes, and which call."""
    frame = sys._current_frames().get(thread)
    if frame is None:
        return False, ""
    code = frame.f_code
    file = code.co_filename.replace(os.sep, "/")
    name = "/".join(file.split("/")[-2:])
    return waits_in(file), f"{name}:{frame.f_lineno} ({code.co_name})"


def waits_in(file: str) -> bool:
    """Whether a thread whose innermost call is in this source file waits for other processes."""
    return any(part in file for part in _WAITS) and not any(part in file for part in _WORKS)
