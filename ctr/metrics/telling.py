"""Comparisons in plain words."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

from ctr.metrics.comparison import Difference

_SHOWN = ("better", "worse")


def told(found: Difference, tests: int, a: str = "A", b: str = "B") -> list[str]:
    """A line on a difference, then lines on seeds and on DeLong's interval where there are any.

    Args:
        found: the difference.
        tests: intervals that were looked at, as of `Comparison`.
        a, b: what the two sides are called.
    """
    name = found.metric.replace("_", " ")
    name = {"auc": "AUC", "gauc": "GAUC", "pr auc": "PR-AUC"}.get(name, name)
    if found.verdict == "undefined":
        return [f"{name} undefined: these rows lack clicks or non-clicks"]
    mean_a, mean_b = statistics.fmean(found.a), statistics.fmean(found.b)
    line = (
        f"{name} {found.difference:+.4f}, 95% interval {found.low:+.4f} to {found.high:+.4f}: "
        f"{found.verdict} ({a} {mean_a:.4f}, {b} {mean_b:.4f})"
    )
    if found.verdict in _SHOWN and not found.holds_for_all:
        line += f"; not if all {tests} intervals shall hold"
    lines = [line]
    for side, values in ((a, found.a), (b, found.b)):
        if len(values) > 1:
            seeds = ", ".join(f"{value:.4f}" for value in values)
            lines.append(
                f"  {side}: mean {statistics.fmean(values):.4f}, standard deviation "
                f"{statistics.stdev(values):.4f} over {len(values)} seeds ({seeds})"
            )
    if len(found.a) == len(found.b) > 1:
        each = ", ".join(f"{y - x:+.4f}" for x, y in zip(found.a, found.b, strict=True))
        lines.append(f"  seed by seed: {each}")
    if found.delong_low is not None and not math.isnan(found.delong_low):
        lines.append(
            f"  DeLong, as if rows were independent: {found.delong_low:+.4f} to "
            f"{found.delong_high:+.4f}"
        )
    return lines


def caution(differences: Sequence[Difference], tests: int) -> str:
    """What many intervals mean for each of them.

    Args:
        differences: all that are shown; tests: intervals that were looked at, as of `Comparison`.
    """
    shown = [d for d in differences if d.verdict in _SHOWN]
    firm = [d for d in shown if d.holds_for_all]
    return (
        f"{tests} intervals were looked at: with no difference anywhere about {tests * 0.05:.1f} "
        f"of them would exclude 0 by chance. {len(shown)} do; {len(firm)} still do with "
        f"{1 - 0.05 / tests:.2%} intervals (Bonferroni)"
    )
