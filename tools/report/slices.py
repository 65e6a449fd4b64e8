"""Figures and tables of metrics on slices of the rows."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ctr.metrics.slice_scores import SliceScore, SliceScores
from ctr.metrics.slicing import FEW_USERS
from tools.report.drawing import LINE, MARKERS, MUTED, SERIES, Sketch, legend

# Of a range's end: more digits than anyone wants to read.
_LONG = re.compile(r"\d*\.\d{4,}")
NAMES = {"auc": "AUC", "gauc": "GAUC"}


@dataclass(frozen=True)
class SliceColumn:
    """What rows are cut by.

    Attributes:
        title: of a figure; caption: what its values are.
        missing: what it means that a file has none of it.
    """

    title: str
    caption: str
    missing: str = "the predictions were written before this column was"


COLUMNS = {
    "history_length": SliceColumn("By history length", "Behaviours that the sample may see."),
    "target_train_samples": SliceColumn(
        "By the target's popularity", "Training samples with the target item; 0 is a cold target."
    ),
    "target_has_vector": SliceColumn(
        "By whether the target has a vector",
        "A target without one cannot be searched for by content.",
        "the predictions were written before this column was, or the store has no vectors",
    ),
    "user_train_samples": SliceColumn(
        "By the user's activity", "Training samples of the user; 0 is a user never trained on."
    ),
    "best_similarity": SliceColumn(
        "By the best similarity found",
        "Highest cosine with the target of what the search found.",
        "no run has a search that compares, or the predictions were written before this column was",
    ),
}


def sketches(labels: Sequence[str], slices: Sequence[SliceScores], source: str) -> list[Sketch]:
    """A figure for each column that cuts the rows in two or more, named as `figure_name` says.

    Args:
        labels: of the runs; slices: metrics of each.
        source: label of the run that the columns are of.
    """
    found = []
    for column, about in COLUMNS.items():
        rows = [[some for some in of_run.slices if some.column == column] for of_run in slices]
        if len(rows[0]) < 2:
            continue
        caption = f"{about.caption} 95% intervals over users; the line is that of all rows."
        if any(some.users < FEW_USERS for some in rows[0]):
            caption += f" Hollow: fewer than {FEW_USERS} users, too few for a sound interval."
        if column == "best_similarity" and len(labels) > 1:
            caption += f" As found by {source}."
        whole = [of_run.slices[0] for of_run in slices]
        draw = partial(_draw, labels=labels, parts=rows, whole=whole)
        height = 1.0 + len(rows[0]) * max(0.42, 0.16 * len(labels) + 0.12)
        found.append(Sketch(figure_name(column), about.title, caption, draw, height))
    return found


def figure_name(column: str) -> str:
    """Name of the figure of a column."""
    return f"slice_{column}"


def told(values: str) -> str:
    """Values of a slice in words for a reader."""
    short = _LONG.sub(lambda found: f"{float(found[0]):.3g}", values.replace("<=", "≤"))
    return {"True": "yes", "true": "yes", "False": "no", "false": "no"}.get(short, short)


def _draw(
    figure: Figure,
    labels: Sequence[str],
    parts: Sequence[Sequence[SliceScore]],
    whole: Sequence[SliceScore],
) -> None:
    """AUC and GAUC side by side, a row of the plot for each slice."""
    plots = figure.subplots(1, len(NAMES), sharey=True)
    place = np.arange(len(parts[0]))
    # Runs lie beside each other within 0.6 of a row, the first above.
    shift = (np.arange(len(labels)) - (len(labels) - 1) / 2) * (0.6 / len(labels))
    for plot, (metric, name) in zip(plots, NAMES.items(), strict=True):
        for run, label in enumerate(labels):
            found = [some.metrics[metric] for some in parts[run]]
            value = np.array([f.value for f in found])
            reach = np.array([[f.value - f.low, f.high - f.value] for f in found]).T
            plot.axvline(whole[run].metrics[metric].value, color=SERIES[run], lw=1, alpha=0.55)
            firm = np.array([some.users >= FEW_USERS for some in parts[run]])
            for mine, fill in ((firm, "full"), (~firm, "none")):
                plot.errorbar(
                    value[mine],
                    (place + shift[run])[mine],
                    # An end beyond the value is of an interval that few users make.
                    xerr=np.maximum(0, np.nan_to_num(reach[:, mine])),
                    fmt=MARKERS[run],
                    color=SERIES[run],
                    elinewidth=1.3,
                    fillstyle=fill,
                    label=label if fill == "full" else None,
                )
        plot.set_xlabel(name)
        plot.xaxis.set_major_locator(MaxNLocator(4))
        plot.grid(axis="y", visible=False)
        plot.set_ylim(len(place) - 0.5, -0.5)
        for between in place[1:] - 0.5:
            plot.axhline(between, color=LINE, lw=0.6)
    names = [f"{told(some.values)}\n{some.rows:,} rows" for some in parts[0]]
    plots[0].set_yticks(place, names)
    plots[0].tick_params(axis="y", length=0, labelcolor=MUTED)
    plots[1].tick_params(axis="y", length=0)
    legend(plots[0])


def undefined(slices: Sequence[SliceScores]) -> int:
    """How many of the metrics are not defined: slices without clicks, or with nothing else."""
    return sum(
        math.isnan(found.value)
        for of_run in slices
        for some in of_run.slices
        for found in some.metrics.values()
    )
