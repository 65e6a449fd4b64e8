"""What a process is doing, by name: for traces, for profiles and for whoever watches it."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from torch.profiler import record_function

# Stages that are no part of a step, which the watchdog gives more time.
START, VALIDATION, CHECKPOINT = "start", "validation", "checkpoint"
# Waiting for a search ahead to end.
SEARCHED = "wait for the search"


@dataclass(frozen=True)
class Span:
    """A stage that ran: in which thread, and from when to when, by `time.perf_counter`."""

    name: str
    thread: str
    begin: float
    end: float


@dataclass(frozen=True)
class Now:
    """What a thread is doing, since when by `time.monotonic`; moves: stages entered or left."""

    name: str
    moves: int
    since: float


class Stages:
    """Names the stages of a step while they run.

    Args:
        recorded: keep every span; for profiles, since they are never forgotten.

    Attributes:
        spans: that have ended, of all threads.
        now: what the thread that made this is doing. An exception leaves it at the stage in which
            it was raised.
    """

    def __init__(self, recorded: bool = False) -> None:
        self.recorded = recorded
        self.spans: list[Span] = []
        self.now = Now(START, 0, time.monotonic())
        self._thread = threading.get_ident()

    @contextmanager
    def running(self, name: str) -> Iterator[None]:
        """Call what is done inside `name`: in PyTorch's traces, too."""
        outer = self.now.name
        self._move(name)
        begin = time.perf_counter()
        with record_function(name):
            yield
        self._move("between stages" if outer == START else outer)
        if self.recorded:
            thread = threading.current_thread().name
            self.spans.append(Span(name, thread, begin, time.perf_counter()))

    def _move(self, name: str) -> None:
        if threading.get_ident() == self._thread:
            self.now = Now(name, self.now.moves + 1, time.monotonic())
