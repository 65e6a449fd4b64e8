"""Curves of training: loss, rate and validation metrics against the samples read.

Shape legend: N logged rows, P points drawn.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from ctr.metrics.ties import Array
from tools.report.drawing import MARKERS, SERIES, Sketch, legend, short
from tools.report.runs import Run, number

MOST_POINTS = 250
_METRICS = (
    ("auc", "AUC"),
    ("gauc", "GAUC"),
    ("log_loss", "log loss"),
)


@dataclass(frozen=True)
class Curve:
    """A line of few enough points.

    Attributes:
        x: float64 [P], samples; y: mean of the rows of a point; NaN where one of them is no number.
        low, high: float64 [P], least and greatest of the rows of a point.
        rows: that a point stands for.
    """

    x: Array
    y: Array
    low: Array
    high: Array
    rows: int


def thin(x_N: Array, y_N: Array, most: int = MOST_POINTS) -> Curve:
    """Means of runs of equally many rows: at most so many points, and no row left out.

    Args:
        x_N: float64, rising; y_N: float64.
        most: points.
    """
    rows = max(1, -(-len(x_N) // most))
    start = np.arange(0, len(x_N), rows)
    if not len(start):
        return Curve(x_N, y_N, y_N, y_N, rows)
    count = np.diff(start, append=len(x_N))
    mean = np.add.reduceat(y_N, start) / count
    low, high = np.minimum.reduceat(y_N, start), np.maximum.reduceat(y_N, start)
    return Curve(np.add.reduceat(x_N, start) / count, mean, low, high, rows)


def sketches(runs: Sequence[Run]) -> list[Sketch]:
    """Figures of whatever the runs logged; a metric that none has is left out."""
    loss = [_logged(run, "loss") for run in runs]
    rate = [_logged(run, "samples_per_s") for run in runs]
    found = [
        _sketch("loss", "Training loss", "training loss", "Mean cross-entropy of", runs, loss),
        _sketch("speed", "Training speed", "samples / s", "Samples a second within", runs, rate),
    ]
    for metric, name in _METRICS:
        curves = [_validated(run, metric) for run in runs]
        title, told = f"Validation {name}", "Of the validation split after"
        found.append(_sketch(f"validation_{metric}", title, name, told, runs, curves))
    return [sketch for sketch in found if sketch is not None]


def _sketch(
    name: str, title: str, axis: str, told: str, runs: Sequence[Run], curves: Sequence[Curve]
) -> Sketch | None:
    drawn = [(place, run.label, c) for place, (run, c) in enumerate(zip(runs, curves, strict=True))]
    drawn = [(place, label, curve) for place, label, curve in drawn if np.isfinite(curve.y).any()]
    if not drawn:
        return None
    if name.startswith("validation"):
        caption = f"{told} so many training samples."
    else:
        caption = f"{told} the samples since the last row of the log, against samples read."
    merged = {label: curve.rows for _, label, curve in drawn if curve.rows > 1}
    if merged:
        counts = "; ".join(f"{label}: {rows} rows a point" for label, rows in merged.items())
        caption += f" Points are means of neighbouring rows ({counts}), bands their range."
    gaps = {label: int((~np.isfinite(curve.y)).sum()) for _, label, curve in drawn}
    if any(gaps.values()):
        counts = "; ".join(f"{label}: {count} points" for label, count in gaps.items() if count)
        caption += f" Gaps are values that are no number ({counts})."
    return Sketch(name, title, caption, partial(_draw, axis=axis, curves=drawn))


def _draw(figure: Figure, axis: str, curves: Sequence[tuple[int, str, Curve]]) -> None:
    plot = figure.add_subplot()
    for place, label, curve in curves:
        colour = SERIES[place]
        if curve.rows > 1:
            plot.fill_between(curve.x, curve.low, curve.high, color=colour, alpha=0.18, linewidth=0)
        marker, apart = MARKERS[place], max(1, len(curve.x) // 12)
        plot.plot(curve.x, curve.y, color=colour, marker=marker, markevery=apart, label=label)
    plot.set(xlabel="training samples", ylabel=axis)
    plot.set_xlim(left=0)
    plot.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    plot.xaxis.set_major_formatter(FuncFormatter(lambda value, _: short(value)))
    if axis == "samples / s":
        plot.set_ylim(bottom=0)
        plot.yaxis.set_major_formatter(FuncFormatter(lambda value, _: short(value)))
    legend(plot)


def _logged(run: Run, name: str) -> Curve:
    rows = run.log["train"]
    x_N, y_N = (np.array([number(row, key) for row in rows]) for key in ("samples", name))
    return thin(x_N, y_N)


def _validated(run: Run, metric: str) -> Curve:
    """Rows of validations hold the step only; the log of training says how many samples it was."""
    rows, train = run.log["valid"], run.log["train"]
    if not train:
        return thin(np.zeros(0), np.zeros(0))
    steps, samples = (np.array([number(row, key) for row in train]) for key in ("step", "samples"))
    x_N = np.interp([row["step"] for row in rows], steps, samples)
    return thin(x_N, np.array([number(row, metric) for row in rows]))
