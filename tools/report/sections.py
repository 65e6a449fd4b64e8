"""The sections of a report: what is said of results, training, scores, slices and the search."""

from __future__ import annotations

import math
import shlex
from collections.abc import Sequence

from ctr.metrics.comparison import Comparison, Difference
from ctr.metrics.slice_scores import Estimate, SliceScores
from ctr.metrics.telling import caution, told
from tools.report import slices
from tools.report.drawing import Plot
from tools.report.measures import SLICED, Measures
from tools.report.page import Cell, Fold, Missing, Row, Section, Table
from tools.report.runs import Run, number

_NAMES = {
    "auc": "AUC",
    "gauc": "GAUC",
    "log_loss": "log loss",
    "pr_auc": "PR-AUC",
    "calibration": "calibration",
}
_PLAIN = {
    "normalised_entropy": "normalised entropy",
    "ece_equal_rows": "ECE",
}
# How far a file of metrics may be from those of the predictions beside it.
_SAME = 1e-9


def results(runs: Sequence[Run], found: Measures, split: str, warnings: Sequence[str]) -> Section:
    """Metrics of all rows, and how the runs differ from the first."""
    rows = []
    for place, run in enumerate(runs):
        metrics = found.headline[place].slices[0].metrics
        plain = found.plain[place].as_dict()
        cells = [_estimate(metrics[name]) for name in _NAMES]
        cells += [Cell(_figure(plain[name])) for name in _PLAIN]
        rows.append(Row(run.label, cells, place + 1))
    caption = "Metrics of all rows; below them 95% intervals over users"
    tables = [Table(caption, ["run", *_NAMES.values(), *_PLAIN.values()], rows)]
    sentences, pair = [], len(runs) == 2
    for run, comparison in zip(runs[1:], found.differences, strict=True):
        tables.append(_differences(runs[0], run, comparison))
        for difference in comparison.differences:
            words = told(difference, comparison.intervals, runs[0].label, run.label)[0]
            sentences.append(words if pair else f"{run.label}: {words}")
    texts = [
        f"GAUC covers {found.plain[0].gauc_coverage:.1%} of the rows; the others are of users with "
        "clicks only or without any. ECE and normalised entropy have no interval: "
        "resampling inflates the gaps that ECE adds up, and normalised entropy is log loss divided "
        "by a constant of these rows.",
    ]
    if len(runs) > 1:
        texts.append(
            "The intervals are of these trained models: they say nothing of another training seed."
        )
    notes = [*warnings, *_stale(runs, found, split)]
    return Section(
        "results",
        "Results",
        texts=texts,
        notes=notes,
        tables=tables,
        told=sentences if pair else [],
        folds=[Fold("The differences in words", lines=sentences)] if sentences and not pair else [],
    )


def _differences(first: Run, other: Run, found: Comparison) -> Table:
    rows = []
    for difference in found.differences:
        name = _NAMES[difference.metric]
        sides = [Cell(_figure(values[0])) for values in (difference.a, difference.b)]
        rows.append(Row(name, [*_difference(difference), *sides]))
    return Table(
        f"{other.label} against {first.label}, on the same resamples of users",
        ["metric", "difference", "verdict", first.label, other.label],
        rows,
    )


def _difference(found: Difference) -> list[Cell]:
    if found.verdict == "undefined":
        return [Cell("–"), Cell("undefined")]
    kind = found.verdict if found.verdict in ("better", "worse") else ""
    below = "" if found.holds_for_all or not kind else "not if all intervals shall hold"
    reach = f"{found.low:+.4f} to {found.high:+.4f}"
    return [Cell(f"{found.difference:+.4f}", reach), Cell(found.verdict, below, kind)]


def _stale(runs: Sequence[Run], found: Measures, split: str) -> list[str]:
    """Runs whose file of metrics is not of the predictions beside it."""
    notes = []
    for run, plain in zip(runs, found.plain, strict=True):
        written = (run.evaluation or {}).get("auc")
        rows = (run.evaluation or {}).get("samples")
        # Common rows only: the file is of all.
        if rows != plain.samples or not isinstance(written, float):
            continue
        if abs(written - plain.auc) > _SAME:
            notes.append(
                f"{run.label}: evaluation_{split}.json says AUC {written:.6f}, its predictions "
                f"{plain.auc:.6f}; this report is of the predictions. Evaluate the run again."
            )
    return notes


def training(runs: Sequence[Run], plots: Sequence[Plot]) -> Section:
    """What training took, and its curves."""
    rows, notes = [], []
    for place, run in enumerate(runs):
        if not run.log["summary"]:
            notes.append(f"{run.label}: no summary in its log; its training did not come to an end")
            continue
        last = run.log["summary"][-1]
        cells = [_count(number(last, name)) for name in ("samples", "steps")]
        cells.append(Cell(f"{number(last, 'seconds'):,.1f}"))
        cells += [_count(number(last, name)) for name in ("samples_per_s", "peak_memory_mib")]
        cells += [_count(number(last, "skipped_steps")), Cell(str(len(run.log["spike"])))]
        rows.append(Row(run.label, cells, place + 1))
    head = ["run", "samples", "steps", "seconds", "samples/s", "peak MiB", "skipped steps"]
    tables = [Table("Whole training", [*head, "jumps of the loss"], rows)] if rows else []
    missing = []
    if not any(run.log["valid"] for run in runs):
        missing.append(
            Missing(
                "No run was validated while it trained; to have such curves, train with",
                "data.valid_split=<a split of the store>",
            )
        )
    return Section("training", "Training", notes=notes, missing=missing, tables=tables, plots=plots)


def scores(plots: Sequence[Plot]) -> Section:
    """Calibration and the spread of the scores."""
    return Section("scores", "Calibration and scores", plots=plots)


def sliced(
    runs: Sequence[Run], found: Measures, split: str, plots: Sequence[Plot], source: Run
) -> Section:
    """Metrics on slices of the rows."""
    there = {some.column for some in found.slices[0].slices} if found.slices else set()
    drawn = {plot.name for plot in plots}
    cut = [column for column in slices.COLUMNS if slices.figure_name(column) in drawn]
    texts, missing, folds = [], [], []
    evaluate = f"python ctr/evaluate.py run={shlex.quote(str(source.folder.path))} split={split}"
    for column, about in slices.COLUMNS.items():
        if column not in there:
            what = f"{about.title}: {source.label} has none of it; {about.missing}. "
            missing.append(Missing(f"{what}It is written by", evaluate))
        elif column not in cut:
            (only,) = (s for s in found.slices[0].slices if s.column == column)
            texts.append(f"{about.title}: all rows are alike ({slices.told(only.values)}).")
    notes = [_many(runs, found)] if found.slices else []
    undefined = slices.undefined(found.slices)
    if undefined:
        notes.append(f"{undefined} metrics are undefined: their rows lack clicks or non-clicks.")
    if plots:
        tables = [_slice_table(runs, found, column) for column in cut]
        folds.append(Fold("The same as tables", tables))
    if found.slices:
        doubts = distinct_warnings(found.slices, found.slice_differences)
        folds += [Fold("What to know of single slices", lines=doubts)] if doubts else []
    return Section(
        "slices",
        "Slices",
        texts=texts,
        notes=notes,
        missing=missing,
        plots=plots,
        folds=folds,
    )


def distinct_warnings(scored: Sequence[SliceScores], compared: Sequence[Comparison]) -> list[str]:
    """Warnings of all, each once."""
    every = [of.warnings for of in scored] + [of.warnings for of in compared]
    return list(dict.fromkeys(warning for warnings in every for warning in warnings))


def _many(runs: Sequence[Run], found: Measures) -> str:
    """What so many intervals mean."""
    if len(runs) > 1:
        differences = [d for pair in found.slice_differences for d in pair.differences]
        return f"{caution(differences, found.slice_differences[0].intervals)}."
    shown = sum(of_run.intervals for of_run in found.slices)
    return (
        f"{shown} intervals are shown: about {shown * 0.05:.1f} of them do not hold the true "
        "value, by chance."
    )


def _slice_table(runs: Sequence[Run], found: Measures, column: str) -> Table:
    head = ["slice", "rows", "users"]
    head += [f"{_NAMES[metric]} {run.label}" for run in runs for metric in SLICED]
    pairs = zip(runs[1:], found.slice_differences, strict=True)
    head += [f"{_NAMES[m]} {run.label} − {runs[0].label}" for run in runs[1:] for m in SLICED]
    by_slice = [{(d.slice, d.metric): d for d in comparison.differences} for _, comparison in pairs]
    rows = []
    for place, some in enumerate(found.slices[0].slices):
        if some.column != column:
            continue
        cells = [Cell(f"{some.rows:,}", f"{some.share:.1%}"), Cell(f"{some.users:,}")]
        for of_run in found.slices:
            cells += [_estimate(of_run.slices[place].metrics[metric]) for metric in SLICED]
        for differences in by_slice:
            cells += [_short(differences[some.slice, metric]) for metric in SLICED]
        rows.append(Row(slices.told(some.values), cells))
    return Table(slices.COLUMNS[column].title, head, rows)


def _short(found: Difference) -> Cell:
    """A difference and its verdict in one cell."""
    value, verdict = _difference(found)
    return Cell(value.text, f"{value.below} {verdict.below}".strip(), verdict.kind)


def search(runs: Sequence[Run], split: str, plots: Sequence[Plot]) -> Section:
    """What the searches found."""
    missing = [
        Missing(
            f"What the search of {run.label} picks was not looked at yet:",
            f"python -m tools.search_report {shlex.quote(str(run.folder.path))} --split {split}",
        )
        for run in runs
        if run.searches and run.search is None
    ]
    without = [run.label for run in runs if not run.searches]
    texts = [f"Without a search (model.gsu=none): {', '.join(without)}."] if without else []
    return Section("search", "Search", texts=texts, missing=missing, plots=plots)


def _estimate(found: Estimate) -> Cell:
    if math.isnan(found.value):
        return Cell("–", "undefined")
    return Cell(_figure(found.value), f"{found.low:.4f} to {found.high:.4f}")


def _figure(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.4f}"


def _count(value: float) -> Cell:
    return Cell("–" if math.isnan(value) else f"{value:,.0f}")
