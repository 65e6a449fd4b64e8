"""Figures of what the runs' searches found."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, PercentFormatter

from tools.report.drawing import DASHES, MUTED, SERIES, Sketch, legend
from tools.report.searched import Histogram, SearchSummary

# Positive values that differ by more than this have a logarithmic axis.
_WIDE = 30.0


def sketches(labels: Sequence[str], found: Sequence[SearchSummary | None]) -> list[Sketch]:
    """Figures of all runs that have a summary.

    Args:
        labels: of the runs; found: of each.
    """
    there = [
        (place, label, summary)
        for place, (label, summary) in enumerate(zip(labels, found, strict=True))
        if summary is not None
    ]
    drawn = [
        _histogram_sketch(
            "similarity", "Similarity of what was found", "cosine with the target", there
        ),
        _histogram_sketch(
            "age", "Age of what was found", "events back from the end of the history", there
        ),
    ]
    if any(summary.shares for _, _, summary in there):
        drawn.append(_shares_sketch(there))
    return [sketch for sketch in drawn if sketch is not None]


_There = Sequence[tuple[int, str, SearchSummary]]


def _histogram_sketch(name: str, title: str, axis: str, found: _There) -> Sketch | None:
    drawn = [(place, label, getattr(s, name)) for place, label, s in found if getattr(s, name)]
    if not drawn:
        return None
    counts = ", ".join(f"{label}: {of.counts.sum():,.0f} picks" for _, label, of in drawn)
    caption = f"Share of the picks in each bin ({counts})."
    if name == "age":
        caption += " Each bin is about twice as wide as the one before."
    draw = partial(_draw_histograms, axis=axis, found=drawn)
    return Sketch(f"search_{name}", title, caption, draw)


def _draw_histograms(
    figure: Figure, axis: str, found: Sequence[tuple[int, str, Histogram]]
) -> None:
    plot = figure.add_subplot()
    for place, label, of in found:
        share = of.counts / max(1.0, of.counts.sum())
        dashes = DASHES[place] if len(found) > 1 else "-"
        plot.stairs(share, of.edges, color=SERIES[place], linestyle=dashes, lw=1.6, label=label)
    low, high = _occupied([of for _, _, of in found])
    if low > 0 and high > _WIDE * low:
        plot.set_xscale("log", base=2)
        plot.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    plot.yaxis.set_major_formatter(PercentFormatter(1))
    plot.set(xlabel=axis, ylabel="share of picks", xlim=(low, high))
    plot.set_ylim(bottom=0)
    legend(plot)


def _occupied(found: Sequence[Histogram]) -> tuple[float, float]:
    """Where the bins that hold anything begin and end, in any of the histograms."""
    ends = []
    for of in found:
        held = np.flatnonzero(of.counts) if of.counts.any() else np.arange(len(of.counts))
        ends.append((of.edges[held[0]], of.edges[held[-1] + 1]))
    return float(min(low for low, _ in ends)), float(max(high for _, high in ends))


def _shares_sketch(found: _There) -> Sketch:
    names = list(dict.fromkeys(name for _, _, summary in found for name in summary.shares))
    samples = ", ".join(f"{label}: {summary.samples:,} samples" for _, label, summary in found)
    height = 0.8 + len(names) * (0.32 + 0.2 * len(found))
    draw = partial(_draw_shares, names=names, found=found)
    return Sketch("search_shares", "What the search found", f"Shares of {samples}.", draw, height)


def _draw_shares(figure: Figure, names: Sequence[str], found: _There) -> None:
    plot = figure.add_subplot()
    thick = 0.62 / len(found)
    for line, (place, label, summary) in enumerate(found):
        at = np.arange(len(names)) + (line - (len(found) - 1) / 2) * thick
        share = np.array([summary.shares.get(name, math.nan) for name in names])
        plot.barh(at, np.nan_to_num(share), thick * 0.9, color=SERIES[place], label=label)
        for y, value in zip(at, share, strict=True):
            text = "not counted" if math.isnan(value) else f"{value:.1%}"
            plot.text(np.nan_to_num(value) + 0.01, y, text, va="center", fontsize=8.5, color=MUTED)
    plot.set_yticks(np.arange(len(names)), [_broken(name) for name in names])
    plot.set(xlim=(0, 1.16), ylim=(len(names) - 0.5, -0.5))
    plot.set_xticks([0, 0.25, 0.5, 0.75, 1])
    plot.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    plot.grid(axis="y", visible=False)
    plot.tick_params(axis="y", length=0)
    legend(plot)


def _broken(name: str) -> str:
    """A name on two lines of about the same length."""
    words, best = name.split(), name
    for at in range(1, len(words)):
        lines = " ".join(words[:at]), " ".join(words[at:])
        if max(map(len, lines)) < max(map(len, best.split("\n"))):
            best = "\n".join(lines)
    return best
