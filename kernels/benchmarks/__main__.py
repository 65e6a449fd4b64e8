"""Check and time the ops on this machine's GPU, or on its CPU.

    python -m kernels.benchmarks                                  every op
    python -m kernels.benchmarks cosine_topk --list               its cases
    python -m kernels.benchmarks cosine_topk --cases u1_q1_l100k  one of them

An op's tests run first and its results are compared with a dense computation; an op that fails
shows no speed, and the exit code is 1. JSON and plots go to the folder that --out names.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from kernels.benchmarks.cases import CASES, Case
from kernels.benchmarks.check import CheckError
from kernels.benchmarks.machine import describe
from kernels.benchmarks.plots import check_matplotlib, write_plots
from kernels.benchmarks.report import as_json, table, write_json
from kernels.benchmarks.runner import run_op


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what the arguments ask for; returns the exit code: 0, 1 (a check failed), 2 (usage)."""
    options = _parser().parse_args(arguments)
    try:
        device = _device(options.device)
        chosen = _choose(options.op, options.cases, device)
        if options.list:
            print("\n".join(f"{op} {case.name}" for op, cases in chosen for case in cases))
            return 0
        if options.plots:
            check_matplotlib()
    except (LookupError, ImportError) as error:
        print(f"error: {error.args[0]}", file=sys.stderr)
        return 2
    if device.type == "cpu":
        print("Measuring the CPU path (plain torch); no figure below is a GPU's.", flush=True)
    failed = [op for op, cases in chosen if not _measure(op, cases, device, options)]
    if failed:
        print(f"error: no speed for {', '.join(failed)}: see above", file=sys.stderr)
    return 1 if failed else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m kernels.benchmarks",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("op", nargs="?", choices=list(CASES), help="default: every op")
    parser.add_argument("--cases", nargs="+", metavar="NAME", help="default: all of the device")
    parser.add_argument(
        "--out", type=Path, default=Path("runs/benchmarks"), help="folder of JSON and plots"
    )
    parser.add_argument("--repeats", type=_positive, help="timed calls of a case")
    parser.add_argument("--list", action="store_true", help="name the cases and stop")
    parser.add_argument("--device", choices=("cuda", "cpu"), help="default: cuda if there is one")
    parser.add_argument(
        "--no-plots", dest="plots", action="store_false", help="no PNGs, so no matplotlib"
    )
    return parser


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} given, must be a number from 1")
    return int(text)


def _device(name: str | None) -> torch.device:
    if name == "cuda" and not torch.cuda.is_available():
        raise LookupError("--device cuda: torch finds no CUDA device here")
    return torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))


def _choose(
    op: str | None, names: list[str] | None, device: torch.device
) -> list[tuple[str, list[Case]]]:
    """Ops with their cases, all or the named ones; LookupError for a name that none has."""
    found = {name: CASES[name][device.type] for name in ([op] if op else CASES)}
    known = {case.name for cases in found.values() for case in cases}
    unknown = [name for name in names or [] if name not in known]
    if unknown:
        raise LookupError(f"--cases {' '.join(unknown)}: not among those that --list names")
    chosen = {
        name: [case for case in cases if names is None or case.name in names]
        for name, cases in found.items()
    }
    return [(name, cases) for name, cases in chosen.items() if cases]


def _measure(op: str, cases: list[Case], device: torch.device, options: argparse.Namespace) -> bool:
    # Ahead of the work, which changes the load.
    machine = describe(device)
    try:
        result = run_op(op, cases, device, options.repeats, say=_say)
    except (CheckError, LookupError) as error:
        print(f"error: {error.args[0]}", file=sys.stderr)
        return False
    report = as_json(result, machine)
    print(f"\n{table(report)}\n")
    written = [write_json(report, options.out)]
    if options.plots:
        written += write_plots(report, cases[0].axes, options.out)
    print("\n".join(f"written: {path}" for path in written) + "\n", flush=True)
    return True


def _say(line: str) -> None:
    print(f"... {line}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
