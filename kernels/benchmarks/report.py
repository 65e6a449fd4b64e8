"""Results as a table and as JSON."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

from kernels.benchmarks.machine import disturbance, slug
from kernels.benchmarks.runner import CaseResult, OpResult, Timing
from kernels.benchmarks.timing import Rates, memory_method

_COLUMNS = (
    "case",
    "ms",
    "MB to move",
    "floor ms",
    "bound by",
    "of floor",
    "reference ms",
    "speed-up",
    "extra MiB",
)

_MEANING = """\
ms: median of a call. MB to move: arguments read once a user, and results written; a row of the
table counts as often as a history names it, so popular rows found in a cache can lift 'of floor'
above 100%. floor ms: those bytes at copy bandwidth, or the operations at the rate of an int8 matrix
product where that takes longer. reference ms: the separate torch ops of MUSE's public code on a
copy of the history per sample; empty where that copy does not fit in memory."""


def numbers(result: CaseResult, rates: Rates) -> dict[str, Any]:
    """All figures of a case, ready for JSON; times in milliseconds."""
    case, median = result.case, result.timing.median
    byte_floor, operation_floor = rates.floor(case.bytes_moved, case.operations)
    floor = max(byte_floor, operation_floor)
    reference = result.reference
    return {
        "name": case.name,
        "shapes": asdict(case),
        "note": result.note,
        "input_sets": result.sets,
        "distinct_row_share": result.distinct_share,
        "ms": _spread(result.timing),
        "bytes_moved": case.bytes_moved,
        "operations": case.operations,
        "byte_floor_ms": byte_floor * 1e3,
        "operation_floor_ms": operation_floor * 1e3,
        "bound_by": "operations" if operation_floor > byte_floor else "bytes",
        "bytes_per_s": case.bytes_moved / median,
        "operations_per_s": case.operations / median,
        "share_of_byte_floor": byte_floor / median,
        "share_of_floor": floor / median,
        "reference_ms": _spread(reference) if reference else None,
        "speed_up": reference.median / median if reference else None,
        "peak_extra_bytes": result.peak_bytes,
    }


def _spread(timing: Timing) -> dict[str, Any]:
    all_ms = [seconds * 1e3 for seconds in timing.seconds]
    return {
        "min": min(all_ms),
        "median": timing.median * 1e3,
        "p90": timing.p90 * 1e3,
        "repeats": len(all_ms),
        "all": all_ms,
    }


def as_json(result: OpResult, machine: dict[str, Any]) -> dict[str, Any]:
    """The whole result of an op.

    Args:
        result: of `run_op`; machine: of `machine.describe`.
    """
    return {
        "op": result.op,
        **machine,
        "tests": asdict(result.tests) if result.tests else None,
        "copy_bytes_per_s": result.rates.copy,
        "int8_matrix_operations_per_s": result.rates.matrix,
        "peak_extra_bytes_method": memory_method(result.device),
        "cases": [numbers(case, result.rates) for case in result.cases],
    }


def write_json(report: dict[str, Any], folder: Path) -> Path:
    """Write `<op>_<device>.json` below the folder; returns its path."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{stem(report)}.json"
    path.write_text(json.dumps(report, indent=2) + "\n")
    return path


def stem(report: dict[str, Any]) -> str:
    """What the names of a report's files begin with."""
    return f"{report['op']}_{slug(report['device'])}"


def table(report: dict[str, Any]) -> str:
    """The report as text: where it was measured, then a line a case."""
    rows = [_COLUMNS, *(_row(case) for case in report["cases"])]
    widths = [max(len(row[i]) for row in rows) for i in range(len(_COLUMNS))]
    lines = [
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    meaning = f"{_MEANING}\nextra MiB: {report['peak_extra_bytes_method']}."
    return "\n".join([*_heading(report), "", *lines, "", meaning])


def _heading(report: dict[str, Any]) -> list[str]:
    versions = ", ".join(f"{name} {v}" for name, v in report["versions"].items() if v)
    git = report["git"]
    state = {True: " with changes", False: "", None: ""}[git["dirty"]]
    tests = report["tests"]["summary"] if report["tests"] else "not found; results were checked"
    warning = disturbance(report)
    return [
        f"{report['op']} on {report['device']} ({report['path']} path)",
        f"{versions}; commit {(git['commit'] or 'unknown')[:12]}{state}; {report['date']}",
        f"tests: {tests}",
        f"copy {report['copy_bytes_per_s'] / 1e9:,.1f} GB/s, int8 matrix product "
        f"{report['int8_matrix_operations_per_s'] / 1e12:,.2f} T operations/s",
        *([f"warning: {warning}"] if warning else []),
    ]


def _row(case: dict[str, Any]) -> tuple[str, ...]:
    reference, peak = case["reference_ms"], case["peak_extra_bytes"]
    return (
        case["name"],
        figure(case["ms"]["median"]),
        figure(case["bytes_moved"] / 1e6),
        figure(max(case["byte_floor_ms"], case["operation_floor_ms"])),
        case["bound_by"],
        f"{case['share_of_floor']:.1%}",
        figure(reference["median"]) if reference else "",
        f"{figure(case['speed_up'])}x" if reference else "",
        "" if peak is None else f"{peak / 2**20:,.1f}",
    )


def figure(value: float) -> str:
    """A positive number with three significant digits or all of its whole ones, no exponent."""
    decimals = 2 - math.floor(math.log10(value)) if value > 0 else 0
    return f"{value:,.{max(decimals, 0)}f}"
