"""A report put together: rows read, metrics measured, figures drawn, sections in order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tqdm import tqdm

from tools.report import scores, search, sections, slices, training
from tools.report.configuration import configuration
from tools.report.drawing import Plot, Sketch, render
from tools.report.measures import Draws, Measures, Rows, intervals, measure, read_rows
from tools.report.page import Page, html
from tools.report.runs import Run


@dataclass(frozen=True)
class Wanted:
    """What is to be reported.

    Attributes:
        split: of the runs' store.
        common_rows: rows that not all runs have are left out, rather than an error.
        resamples: of the bootstrap; seed: of its weights.
        pictures: draw PNGs too; progress: show bars.
    """

    split: str = "test"
    common_rows: bool = False
    resamples: int = 10_000
    seed: int = 0
    pictures: bool = True
    progress: bool = True


def build(runs: Sequence[Run], wanted: Wanted) -> tuple[str, list[Plot]]:
    """The page as HTML, and its plots.

    Raises:
        PredictionError: rows of the runs that do not match, or a damaged file.
    """
    rows = read_rows(runs, wanted.common_rows)
    # Each interval is made of all resamples.
    total = intervals(rows) * wanted.resamples
    hidden = not wanted.progress
    with tqdm(
        total=total, unit="resample", unit_scale=True, desc="bootstrap", disable=hidden
    ) as bar:
        found = measure(rows, Draws(wanted.resamples, wanted.seed, bar.update))
    sketched = _sketches(runs, rows, found)
    every = [sketch for group in sketched.values() for sketch in group]
    plots: dict[str, Plot] = {}
    for sketch in tqdm(every, unit="figure", desc="drawing", disable=hidden):
        plots[sketch.name] = render(sketch, wanted.pictures)
    drawn = {name: [plots[sketch.name] for sketch in group] for name, group in sketched.items()}
    return html(_page(runs, rows, found, drawn, wanted)), list(plots.values())


def _sketches(runs: Sequence[Run], rows: Rows, found: Measures) -> dict[str, list[Sketch]]:
    labels = [run.label for run in runs]
    calibration = scores.calibration_sketch(labels, found.calibration)
    cut = slices.sketches(labels, found.slices, labels[rows.source]) if found.slices else []
    return {
        "training": training.sketches(runs),
        "scores": [calibration, *scores.spread_sketches(labels, rows.aligned)],
        "slices": cut,
        "search": search.sketches(labels, [run.search for run in runs]),
    }


def _page(
    runs: Sequence[Run],
    rows: Rows,
    found: Measures,
    plots: dict[str, list[Plot]],
    wanted: Wanted,
) -> Page:
    first = found.plain[0]
    unknown = int((~rows.aligned.known).sum())
    users = f"{first.users:,}"
    facts = [
        ("store", str(runs[0].environment["store"])),
        ("split", wanted.split),
        ("rows", f"{first.samples:,}"),
        ("users", f"{users} and {unknown:,} rows of unknown ones" if unknown else users),
        ("click rate", f"{first.ctr:.3%}"),
    ]
    source = runs[rows.source]
    labels = [run.label for run in runs]
    title = f"{', '.join(labels[1:])} against {labels[0]}" if len(runs) > 1 else labels[0]
    doubts = sections.distinct_warnings(found.headline, found.differences)
    return Page(
        kind="Comparison of runs" if len(runs) > 1 else "Report of a run",
        title=title,
        facts=facts,
        sections=[
            sections.results(runs, found, wanted.split, doubts),
            sections.training(runs, plots["training"]),
            sections.scores(plots["scores"]),
            sections.sliced(runs, found, wanted.split, plots["slices"], source),
            sections.search(runs, wanted.split, plots["search"]),
            configuration(runs),
        ],
        foot=[
            f"95% intervals: {wanted.resamples:,} resamples of users with Poisson(1) weights, seed "
            f"{wanted.seed}. docs/evaluation.md defines every metric and interval.",
        ],
    )
