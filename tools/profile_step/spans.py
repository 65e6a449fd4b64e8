"""Arithmetic over the spans of stages: how long they take, and what runs beside what."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from ctr.stages import Span

# Stages in which the main thread computes; it waits or copies in the others.
COMPUTE = ("forward", "backward", "update")
WAITING = ("wait for the loader", "wait for the search")
Interval = tuple[float, float]


@dataclass(frozen=True)
class StageTime:
    """What a stage takes of a step.

    Attributes:
        name: of the stage; thread: "main" or that of the search.
        seconds: median over the steps, of all its spans in a step together.
        beside: share of it during which the main thread computes; None for its own stages.
    """

    name: str
    thread: str
    seconds: float
    beside: float | None


def stage_times(spans: Sequence[Span], steps: Sequence[Interval]) -> list[StageTime]:
    """Every stage in the order in which it first ran, the main thread's first.

    Args:
        spans: of all threads; steps: from when to when, of which medians are taken; not empty.
    """
    by_stage: dict[tuple[str, str], list[Span]] = defaultdict(list)
    for span in spans:
        by_stage[span.thread, span.name].append(span)
    computing = [(s.begin, s.end) for s in spans if s.name in COMPUTE]
    main = next(span.thread for span in spans if span.name in COMPUTE)
    found = []
    for (thread, name), mine in sorted(by_stage.items(), key=lambda entry: entry[0][0] != main):
        intervals = [(span.begin, span.end) for span in mine]
        seconds = statistics.median(overlap([step], intervals) for step in steps)
        beside = None
        if thread != main:
            whole = sum(end - begin for begin, end in intervals)
            beside = overlap(computing, intervals) / whole if whole else 0.0
        found.append(StageTime(name, "main" if thread == main else "search", seconds, beside))
    return found


def overlap(some: Sequence[Interval], others: Sequence[Interval]) -> float:
    """Seconds that lie in an interval of both; each side's intervals do not overlap."""
    return sum(
        max(0.0, min(end, other_end) - max(begin, other_begin))
        for begin, end in some
        for other_begin, other_end in others
    )
