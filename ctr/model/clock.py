"""Time that a stage of the forward pass takes, without making a GPU wait for the CPU."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch


class StageClock:
    """Adds up the time of a stage over all steps: CPU time by the clock, GPU time by events.

    A search ahead runs in a thread of its own while another one asks for the sum.
    """

    # Pairs of events that are open before the oldest is read, which by then has long happened.
    _OPEN = 64

    def __init__(self) -> None:
        self._seconds = 0.0
        self._events: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []
        self._lock = threading.Lock()

    @contextmanager
    def running(self, device: torch.device) -> Iterator[None]:
        """Count what is done inside, on the CPU or on the device's current stream."""
        if device.type != "cuda":
            started = time.perf_counter()
            yield
            with self._lock:
                self._seconds += time.perf_counter() - started
            return
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        yield
        end.record()
        with self._lock:
            self._events.append((begin, end))
            if len(self._events) > self._OPEN:
                self._read(self._events.pop(0))

    def seconds(self) -> float:
        """All that was counted so far."""
        with self._lock:
            while self._events:
                self._read(self._events.pop(0))
            return self._seconds

    def _read(self, pair: tuple[torch.cuda.Event, torch.cuda.Event]) -> None:
        begin, end = pair
        end.synchronize()
        self._seconds += begin.elapsed_time(end) / 1000.0
