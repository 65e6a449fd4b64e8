"""Which process holds a job up: judged by what all of them say of themselves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ctr.stages import CHECKPOINT, START, VALIDATION

# How many times the timeout a stage may take that is no step, or the first step, which compiles.
LONG = 3
DONE = "done"
_LONG_STAGES = (START, VALIDATION, CHECKPOINT)


@dataclass(frozen=True)
class Report:
    """What a process says of itself.

    Attributes:
        beat: how often it has said so; moves: stages that it has entered or left.
        step: that it has done; None before there is any; first: none since it was started.
        stage: that its main thread is in, and for how many seconds (`standing`).
        waits: whether that thread is in a call that waits for others; where: that call.
        ended: "" while it runs, else why it has left.
    """

    beat: int = 0
    moves: int = -1
    step: int | None = None
    first: bool = True
    stage: str = START
    standing: float = 0.0
    waits: bool = False
    where: str = ""
    ended: str = ""


@dataclass(frozen=True)
class Seen:
    """The last report of a process; age: seconds since it changed; silent: too many of them."""

    report: Report
    age: float
    silent: bool

    @property
    def standing(self) -> float:
        """Seconds for which the process has not moved, as far as is known."""
        return self.report.standing + self.age

    @property
    def failed(self) -> bool:
        """Whether it has left, or is about to, and was not done."""
        return self.report.ended not in ("", DONE)


def culprits(seen: Mapping[int, Seen]) -> list[int]:
    """The ranks for which the others wait.

    Those that are silent, since others fail for them; else those that failed; else, of those that
    are in no call that waits for others, or of all, those that are behind.
    """
    there = {rank: some for rank, some in seen.items() if some.report.ended != DONE}
    for found in (
        [rank for rank, some in there.items() if some.silent],
        [rank for rank, some in there.items() if some.report.ended],
    ):
        if found:
            return found
    asked = {rank: some for rank, some in there.items() if not some.report.waits} or there
    least = min((some.report.moves for some in asked.values()), default=0)
    return [rank for rank, some in asked.items() if some.report.moves == least]


def verdict(seen: Mapping[int, Seen], timeout: float, grace: float) -> str | None:
    """Why the job must end, or None.

    Args:
        seen: of all ranks; timeout: seconds that a step's stage may take; grace: seconds that the
            others have to fail themselves where one has failed.
    """
    guilty = culprits(seen)
    for rank in guilty:
        some = seen[rank]
        if some.report.ended:
            if some.age <= grace:
                return None
            continue
        long = some.report.first or some.report.stage in _LONG_STAGES
        if some.standing <= timeout * (LONG if long else 1):
            return None
    return "; ".join(says(rank, seen[rank]) for rank in guilty) or None


def says(rank: int, some: Seen) -> str:
    """What is known of a process that holds the job up."""
    report = some.report
    step = "before its first step" if report.step is None else f"after step {report.step}"
    place = f"{step}, in stage '{report.stage}'"
    if report.ended:
        return f"rank {rank} failed {place}: {report.ended}"
    if some.silent:
        return (
            f"rank {rank} has not been heard of for {some.age:.0f} s: its process is dead or "
            f"stopped, or its host is gone; it was last seen {place}"
        )
    where = f", at {report.where}" if report.where else ""
    return f"rank {rank} stands still {place}, for {some.standing:.0f} s{where}"
