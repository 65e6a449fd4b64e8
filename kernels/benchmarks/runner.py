"""From an op and its cases to results: tests, checks, times."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from kernels.benchmarks.cases import SEQUENCE_SETS, Case, SearchCase
from kernels.benchmarks.check import CheckError, PassedTests, check_outputs, run_tests
from kernels.benchmarks.inputs import fit, forget_tables
from kernels.benchmarks.timing import (
    Effort,
    Rates,
    free_memory,
    input_sets,
    measure_rates,
    peak_memory,
    percentile,
    times,
)
from kernels.benchmarks.workloads import Workload, build, op_of

_REPEATS = {"cuda": 50, "cpu": 20}
_LEAST_REPEATS = 5
_SECONDS = 4.0

# The reference sequence is slow where it matters: one call after the warm-up tells enough.
_REFERENCE_LEAST = 1
_REFERENCE_SECONDS = 2.0

# Of the free memory, what the reference sequence may take. A CPU's is shared with others.
_REFERENCE_SHARE = {"cuda": 0.8, "cpu": 0.5}


@dataclass(frozen=True)
class Timing:
    """Seconds of single calls."""

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    @property
    def p90(self) -> float:
        return percentile(self.seconds, 0.9)


@dataclass(frozen=True)
class CaseResult:
    """What was measured of a case.

    Attributes:
        case: as it was run; note: how it differs from the registered one, empty if it does not.
        timing: of the op; reference: of the reference sequence, None where it does not fit.
        peak_bytes: held by one call beside its arguments, None where it cannot be measured.
        sets: input sets in rotation.
        distinct_share: distinct rows among the behaviours of an input set, None where none are.
    """

    case: Case
    note: str
    timing: Timing
    reference: Timing | None
    peak_bytes: int | None
    sets: int
    distinct_share: float | None


@dataclass(frozen=True)
class OpResult:
    """All cases of an op, with the rates of the device and the tests that passed before."""

    op: str
    device: torch.device
    rates: Rates
    tests: PassedTests | None
    cases: list[CaseResult]


def run_op(
    op: str,
    cases: Sequence[Case],
    device: torch.device,
    repeats: int | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> OpResult:
    """Test the op, then check and time its cases.

    Args:
        op: name of the op; cases: to run; device: to run on.
        repeats: timed calls of a case; None for up to 50 (GPU) or 20 (CPU) within a few seconds.
        say: told about progress; never a speed.

    Raises:
        LookupError: kernels exports no such op.
        CheckError: a test failed, a result is wrong, or a case could not be run.
    """
    op_of(op)
    # Before the tests: it also hands back what torch kept of an earlier op, which they may need.
    free = free_memory(device)
    say(f"{op}: tests")
    tests = run_tests(op, device)
    say(f"{op}: {tests.summary if tests else 'no tests found beside the package'}")
    results = []
    try:
        for case in cases:
            say(f"{op}: {case.name}")
            try:
                results.append(_run_case(op, case, device, free, repeats))
            except RuntimeError as error:
                raise CheckError(f"{op}, case {case.name}: {error}") from error
            if results[-1].note:
                say(f"{op}: {case.name} scaled down: {results[-1].note}")
    finally:
        forget_tables()
    return OpResult(op, device, measure_rates(device), tests, results)


def _run_case(
    op: str, case: Case, device: torch.device, free: int, repeats: int | None
) -> CaseResult:
    sets, note = input_sets(device, case.bytes_moved), ""
    if isinstance(case, SearchCase):
        case, note = fit(case, free, sets)
    workload = build(op, case, device, sets)
    check_outputs(workload)
    return CaseResult(
        case=case,
        note=note,
        timing=Timing(tuple(times(workload.call, sets, device, _effort(device, repeats)))),
        reference=_time_reference(workload, repeats),
        peak_bytes=peak_memory(lambda: workload.call(0), device),
        sets=sets,
        distinct_share=workload.distinct_share(),
    )


def _effort(device: torch.device, repeats: int | None) -> Effort:
    if repeats is not None:
        return Effort(most=repeats, least=repeats, seconds=math.inf)
    return Effort(most=_REPEATS[device.type], least=_LEAST_REPEATS, seconds=_SECONDS)


def _time_reference(workload: Workload, repeats: int | None) -> Timing | None:
    device = workload.device
    if workload.case.sequence_bytes > _REFERENCE_SHARE[device.type] * free_memory(device):
        return None
    most = repeats or _REPEATS[device.type]
    effort = Effort(most=most, least=min(most, _REFERENCE_LEAST), seconds=_REFERENCE_SECONDS)
    try:
        return Timing(tuple(times(workload.sequence(), SEQUENCE_SETS, device, effort)))
    except torch.OutOfMemoryError:
        return None
