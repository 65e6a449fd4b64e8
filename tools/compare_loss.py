"""Compare the training losses of two runs, step by step: did a change keep them equal?

    python -m tools.compare_loss runs/before runs/after
    python -m tools.compare_loss runs/before runs/after --tolerance 1e-6

Steps are compared that both runs logged, to the last bit unless a tolerance is given. A logged loss
is the mean since the line before it, so the line before must be of the same step too; run both with
trainer.log_every=1 to see every step. Exit code: 0 equal, 1 different, 2 cannot be compared.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import NoneType
from typing import Any

METRICS = "metrics.jsonl"

# A longer list of steps is cut in the middle.
_SHOWN_STEPS = 6


# None where all steps since the line before were skipped.
Loss = float | None


class CompareError(Exception):
    """Two runs that cannot be compared; names the file, and the line and key where there is one."""


@dataclass(frozen=True)
class Comparison:
    """What two runs' losses have in common.

    Attributes:
        steps: logged by both, as the mean of the same steps.
        other_means: logged by both, as means since different steps.
        only_a, only_b: logged by one of them.
        different: of `steps`, those whose losses differ by more than the tolerance.
        loss_a, loss_b: at the first of those.
    """

    steps: list[int]
    other_means: list[int]
    only_a: list[int]
    only_b: list[int]
    different: list[int]
    loss_a: Loss
    loss_b: Loss


def main(arguments: Sequence[str] | None = None) -> int:
    """Compare and print; returns the exit code."""
    options = _parser().parse_args(arguments)
    try:
        losses_a, losses_b = read_losses(options.run_a), read_losses(options.run_b)
        found = compare(losses_a, losses_b, options.tolerance)
        if not found.steps:
            raise CompareError(
                f"{options.run_a} and {options.run_b}: no step was logged by both as the mean of "
                "the same steps; run both with the same trainer.log_every and checkpoint_every"
            )
    except CompareError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(_report(found, options))
    return 1 if found.different else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tools.compare_loss",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("run_a", metavar="RUN_A", type=Path, help=f"a run's folder or {METRICS}")
    parser.add_argument("run_b", metavar="RUN_B", type=Path, help="another")
    parser.add_argument(
        "--tolerance",
        type=_tolerance,
        default=0.0,
        metavar="SHARE",
        help="accept |a - b| up to this share of the larger of |a| and |b| (default 0: equal bits)",
    )
    return parser


def _tolerance(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0.0 <= value < 1.0:
        raise argparse.ArgumentTypeError(f"{text!r} given, must be a number in [0, 1)")
    return value


def read_losses(run: Path) -> dict[int, Loss]:
    """Training loss by step, as logged.

    Args:
        run: folder of a run, or its metrics.jsonl.

    Raises:
        CompareError: no such file, or a line that is not what a run writes.
    """
    path = run / METRICS if run.is_dir() else run
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise CompareError(f"{path}: cannot be read ({error})") from None
    losses: dict[int, Loss] = {}
    for number, line in enumerate(lines, 1):
        where = f"{path}, line {number}"
        row = _row(line, where)
        if _value(row, "kind", where, str) != "train":
            continue
        step = _value(row, "step", where, int)
        if step in losses:
            raise CompareError(f"{where}, key 'step': {step} was there before")
        loss = _value(row, "loss", where, int, float, NoneType)
        losses[step] = None if loss is None else float(loss)
    if not losses:
        raise CompareError(f"{path}: no line of kind 'train'; was the run shorter than its log?")
    return losses


def _row(line: str, where: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise CompareError(f"{where}: not JSON ({error})") from None
    if not isinstance(row, dict):
        raise CompareError(f"{where}: {type(row).__name__}, must be a JSON object")
    return row


def _value(row: dict[str, Any], key: str, where: str, *kinds: type) -> Any:
    if key not in row:
        raise CompareError(f"{where}, key {key!r}: missing")
    # In Python true is an integer; in a log it is a mistake.
    if not isinstance(row[key], kinds) or isinstance(row[key], bool):
        names = " or ".join("null" if kind is NoneType else kind.__name__ for kind in kinds)
        raise CompareError(f"{where}, key {key!r}: {row[key]!r}, must be {names}")
    return row[key]


def compare(a: dict[int, Loss], b: dict[int, Loss], tolerance: float) -> Comparison:
    """Compare the losses of two runs at the steps that both have.

    Args:
        a, b: loss by step.
        tolerance: largest accepted difference, as a share of the larger of the two; 0 for none.
    """
    since_a, since_b = _since(a), _since(b)
    common = sorted(a.keys() & b.keys())
    steps = [step for step in common if since_a[step] == since_b[step]]
    different = [step for step in steps if not _same(a[step], b[step], tolerance)]
    first = different[0] if different else None
    return Comparison(
        steps=steps,
        other_means=[step for step in common if since_a[step] != since_b[step]],
        only_a=sorted(a.keys() - b.keys()),
        only_b=sorted(b.keys() - a.keys()),
        different=different,
        loss_a=None if first is None else a[first],
        loss_b=None if first is None else b[first],
    )


def _since(losses: dict[int, Loss]) -> dict[int, int]:
    """The step logged before each step, 0 for the first."""
    steps = sorted(losses)
    return dict(zip(steps, [0, *steps[:-1]], strict=True))


def _same(a: Loss, b: Loss, tolerance: float) -> bool:
    # repr tells 0.0 from -0.0 and finds one NaN equal to another.
    if a is None or b is None or not (tolerance and math.isfinite(a) and math.isfinite(b)):
        return repr(a) == repr(b)
    return math.isclose(a, b, rel_tol=tolerance, abs_tol=0.0)


def _report(found: Comparison, options: argparse.Namespace) -> str:
    span = f"{_counted(len(found.steps))} compared ({found.steps[0]} to {found.steps[-1]})"
    exact = f"within {options.tolerance:g}" if options.tolerance else "to the last bit"
    lines = [f"A: {options.run_a}", f"B: {options.run_b}"]
    if not found.different:
        lines.append(f"equal {exact}: {span}")
    else:
        a, b = found.loss_a, found.loss_b
        lines += [
            f"first different at step {found.different[0]}: A {_shown(a)}, B {_shown(b)}",
            *_distance(a, b),
            f"{len(found.different):,} of {span} differ, not equal {exact}",
        ]
    for what, steps in (
        ("only in A", found.only_a),
        ("only in B", found.only_b),
        ("not compared, means since different steps", found.other_means),
    ):
        if steps:
            lines.append(f"{what}: {_counted(len(steps))} ({_listed(steps)})")
    return "\n".join(lines)


def _shown(loss: Loss) -> str:
    return "none (every step skipped)" if loss is None else repr(loss)


def _distance(a: Loss, b: Loss) -> list[str]:
    if a is None or b is None:
        return []
    largest = max(abs(a), abs(b))
    share = f"{abs(b - a) / largest:.3g} of the larger" if largest else "signs of zero"
    return [f"  B - A = {b - a!r} ({share})"]


def _counted(steps: int) -> str:
    return f"{steps:,} step" if steps == 1 else f"{steps:,} steps"


def _listed(steps: list[int]) -> str:
    if len(steps) <= _SHOWN_STEPS:
        return ", ".join(map(str, steps))
    half = _SHOWN_STEPS // 2
    return f"{', '.join(map(str, steps[:half]))}, ..., {', '.join(map(str, steps[-half:]))}"


if __name__ == "__main__":
    sys.exit(main())
