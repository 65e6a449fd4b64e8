"""What a process is doing, by name: for traces, for profiles and for whoever watches it."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from torch.profiler import record_function


@dataclass(frozen=True)
class Span:
    """A stage that ran: in which thread, and from when to when, by `time.perf_counter`."""

    name: str
    thread: str
    begin: float
    end: float


class Stages:
    """Names the stages of a step while they run.

    Args:
        recorded: keep every span; for profiles, since they are never forgotten.

    Attributes:
        spans: that have ended, of all threads.
    """

    def __init__(self, recorded: bool = False) -> None:
        self.recorded = recorded
        self.spans: list[Span] = []

    @contextmanager
    def running(self, name: str) -> Iterator[None]:
        """Call what is done inside `name`: in PyTorch's traces, too."""
        begin = time.perf_counter()
        with record_function(name):
            yield
        if self.recorded:
            thread = threading.current_thread().name
            self.spans.append(Span(name, thread, begin, time.perf_counter()))
