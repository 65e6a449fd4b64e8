"""Plots of a comparison: metrics with their spread a row, or curves along what was swept."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tools.compare.plan import Sweep
from tools.compare.spread import spread
from tools.compare.table import Row

_METRICS = {"auc": "AUC", "gauc": "GAUC", "log_loss": "log loss"}
# Log axes for costs, which span orders of magnitude; metrics do not.
_CURVES = {
    "auc": ("AUC", False),
    "gauc": ("GAUC", False),
    "samples_per_s": ("training samples/s", True),
    "search_ms_per_step": ("ms of search a step", True),
}


def draw(rows: Sequence[Row], sweep: Sweep | None, title: str, path: Path) -> None:
    """Write a PNG: a panel for each metric, or for each curve of a sweep.

    Error bars are 95% intervals of the mean over seeds; grey dots are single seeds.

    Raises:
        ImportError: matplotlib is not installed.
    """
    figure_type = _figure_type()
    if sweep is None:
        height = 1.5 + 0.4 * len(rows)
        figure = figure_type(figsize=(4.0 * len(_METRICS), height), layout="constrained")
        _draw_rows(figure, rows)
    else:
        figure = figure_type(figsize=(9.0, 6.5), layout="constrained")
        _draw_curves(figure, rows, sweep)
    figure.suptitle(title, fontsize=9)
    figure.savefig(path, dpi=150)


def _figure_type() -> Any:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(f"plots need matplotlib ({error}): pip install matplotlib") from None
    return Figure


def _draw_rows(figure: Any, rows: Sequence[Row]) -> None:
    panels = figure.subplots(1, len(_METRICS), sharey=True)
    for panel, (name, label) in zip(panels, _METRICS.items(), strict=True):
        for place, row in enumerate(rows):
            found = row.metrics[name]
            if found.mean is None:
                continue
            panel.plot(found.values, [place] * len(found.values), ".", color="0.7")
            half = None if found.high is None else found.high - found.mean
            panel.errorbar(found.mean, place, xerr=half, fmt="o", capsize=4, color="C0")
        panel.set(xlabel=label, ylim=(len(rows) - 0.5, -0.5))
        panel.set_yticks(range(len(rows)), [row.variant.label for row in rows])
        panel.grid(alpha=0.3)


def _draw_curves(figure: Any, rows: Sequence[Row], sweep: Sweep) -> None:
    panels = figure.subplots(2, 2, sharex=True).flat
    for panel, (name, (label, logarithmic)) in zip(panels, _CURVES.items(), strict=True):
        for variant in dict.fromkeys(row.variant.label for row in rows):
            points = curve(rows, variant, name)
            if points:
                x, mean, half = zip(*points, strict=True)
                panel.errorbar(x, mean, yerr=half, fmt="o-", capsize=3, label=variant)
        panel.set(ylabel=label, xscale="log")
        if logarithmic and panel.has_data():
            panel.set_yscale("log")
        panel.grid(which="both", alpha=0.3)
        if panel.has_data():
            panel.legend(fontsize=8)
    for panel in figure.axes[2:]:
        panel.set_xlabel(sweep.key)


def curve(rows: Sequence[Row], label: str, name: str) -> list[tuple[float, float, float]]:
    """Points of a variant along the sweep: swept value, mean over seeds, half of its interval.

    Args:
        rows: of the table; label: of the variant; name: of the figure.

    Returns:
        by rising value; half an interval is 0 for a single seed; a point without the figure, or
        with no search at all, is left out.
    """
    points = []
    for row in rows:
        if row.variant.label != label or row.variant.point is None:
            continue
        found = spread([run[name] for run in row.runs])
        if found.mean is not None and found.mean > 0:
            half = 0.0 if found.high is None else found.high - found.mean
            points.append((float(row.variant.point), found.mean, half))
    return sorted(points)
