"""Exact metrics of a Parquet file of click predictions, of this or any other system.

    python -m tools.score runs/muse/predictions_test.parquet --group user --unknown 0
    python -m tools.score FILE --label click --score p --group request --k 5 10 --json
    python -m tools.score runs/muse/predictions_test.parquet --unknown 0 --slice all

Rows are streamed: 100 million take less than 4 GB. With --slice they are held in memory, to give
every metric an interval. docs/evaluation.md defines every metric.
"""

from __future__ import annotations

import argparse
import json
import math
import resource
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ctr.command import errors_to_exit
from ctr.metrics.approximate import batch_gauc, binned_auc
from ctr.metrics.differences import check_metric
from ctr.metrics.files import PredictionFile
from ctr.metrics.grouped import group_metrics
from ctr.metrics.paired import Columns, read_aligned
from ctr.metrics.plain import without_nan
from ctr.metrics.slice_scores import Estimate, SliceScore, SliceScores, score_slices
from ctr.metrics.whole import BINS, whole_metrics
from ctr.slices import ALL, wanted_slices
from tools.arguments import whole_number

_positive = whole_number(1)


def main(arguments: Sequence[str] | None = None) -> None:
    """Read, compute and print."""
    options = _parser().parse_args(arguments)
    started = time.perf_counter()
    with errors_to_exit():
        for metric in options.metrics:
            check_metric(metric)
        columns = _slice_columns(options) if options.slices else None
        found = score(options)
        sliced = None if columns is None else _sliced(options, columns)
    if sliced is not None:
        found["slices"] = [asdict(some) for some in sliced.slices]
        for warning in sliced.warnings:
            print(f"warning: {warning}", file=sys.stderr)
    found["seconds"] = round(time.perf_counter() - started, 3)
    found["peak_memory_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps(without_nan(found), indent=2) if options.json else _table(found, sliced))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tools.score",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("file", metavar="FILE", type=Path, help="Parquet, a row for a prediction")
    parser.add_argument("--label", default="label", help="column of 0 and 1 (default: label)")
    parser.add_argument("--score", default="score", help="column in [0, 1] (default: score)")
    parser.add_argument(
        *("--group", "--groups"),
        dest="groups",
        metavar="COLUMN",
        nargs="+",
        default=[],
        help="columns to group by, one after the other: user, request, category",
    )
    parser.add_argument(
        *("--k", "-k"),
        dest="ks",
        metavar="K",
        type=_positive,
        nargs="+",
        default=[],
        help="NDCG@k and hit rate@k within each group",
    )
    parser.add_argument(
        "--unknown",
        metavar="VALUE",
        help="of the group columns, that stands for no group (in this project's files: user 0)",
    )
    parser.add_argument("--bins", type=_positive, default=BINS, help="of the calibration error")
    parser.add_argument(
        "--shortcuts",
        metavar="ROWS",
        type=_positive,
        help="also what public codes compute: AUC of 200 thresholds, GAUC within batches of so "
        "many rows (takes more memory)",
    )
    parser.add_argument("--json", action="store_true", help="print JSON; undefined is null")
    _add_slices(parser)
    return parser


def _add_slices(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group(
        "slices, with intervals from a bootstrap over users"
    ).add_argument
    columns = f"also on each value of these; {ALL}: whatever ctr/evaluate.py wrote to slice by"
    add("--slice", dest="slices", nargs="+", default=[], metavar="COLUMN", help=columns)
    add("--user", default="user", metavar="COLUMN", help="resampled; GAUC is by user, too")
    metrics = "auc, gauc, gauc_unweighted, log_loss, pr_auc, ndcg@K, hit_rate@K"
    add("--metrics", nargs="+", default=["auc", "gauc", "log_loss"], metavar="METRIC", help=metrics)
    add("--resamples", type=_positive, default=10_000, help="default: 10000")
    add("--seed", type=int, default=0, help="of the resamples")


def score(options: argparse.Namespace) -> dict[str, Any]:
    """Metrics over all rows by name, and those of each group column under `groups`.

    Args:
        options: of the command line.

    Raises:
        PredictionError: the file, a column or a value is not what it must be.
    """
    file = PredictionFile(options.file)
    file.require([options.label, options.score, *options.groups])
    keys = file.read_keys(options.label, options.score)
    groups = {}
    ks = sorted(set(options.ks))
    for column in options.groups:
        codes, unknown = file.read_codes(column, options.unknown)
        groups[column] = _flat(asdict(group_metrics(keys, codes, unknown, ks)))
        if options.shortcuts:
            value, coverage = batch_gauc(keys, codes, options.shortcuts, unknown)
            groups[column] |= {"batch_gauc": value, "batch_gauc_coverage": coverage}
        # A column of codes is as large as the keys.
        del codes
    shortcuts = {"auc_200_thresholds": binned_auc(keys)} if options.shortcuts else {}
    keys.sort()
    whole = {**asdict(whole_metrics(keys, options.bins)), **shortcuts}
    return {"file": str(options.file), **whole, "groups": groups}


def _slice_columns(options: argparse.Namespace) -> Columns:
    """Columns of the slices; says what is missing before all rows are read for the rest."""
    file = PredictionFile(options.file)
    slices = wanted_slices(options.slices, file.types, options.file)
    file.require([options.label, options.score, options.user, *slices])
    return Columns(
        key=(),
        label=options.label,
        score=options.score,
        user=options.user,
        slices=slices,
        unknown=options.unknown,
    )


def _sliced(options: argparse.Namespace, columns: Columns) -> SliceScores:
    rows = read_aligned([options.file], columns)
    metrics = list(dict.fromkeys(options.metrics))
    return score_slices(rows, metrics, options.resamples, options.seed)


def _flat(found: dict[str, Any]) -> dict[str, Any]:
    flat = {name: value for name, value in found.items() if not isinstance(value, dict)}
    for name in ("ndcg", "hit_rate"):
        flat |= {f"{name}@{k}": value for k, value in found[name].items()}
    if not found["ndcg"]:
        del flat["clicked_groups"]
    return flat


def _table(found: dict[str, Any], sliced: SliceScores | None) -> str:
    lines = [found["file"]]
    for name, value in found.items():
        if name not in ("file", "groups", "slices", "seconds", "peak_memory_mib"):
            lines.append(_line(name, value))
    for column, metrics in found["groups"].items():
        lines += ["", f"by {column}", *(_line(name, value) for name, value in metrics.items())]
        if metrics["one_class_groups"]:
            lines.append(
                f"  {metrics['one_class_groups']:,} of {metrics['groups']:,} groups have one class "
                f"and no AUC; GAUC covers {metrics['coverage']:.1%} of the rows"
            )
    if sliced is not None:
        lines += ["", *_slice_lines(sliced)]
    seconds, memory = found["seconds"], found["peak_memory_mib"]
    lines += ["", f"{found['rows']:,} rows in {seconds:.1f} s, peak memory {memory:,.0f} MiB"]
    return "\n".join(lines)


def _slice_lines(sliced: SliceScores) -> list[str]:
    metrics = list(sliced.slices[0].metrics)
    names = [some.slice or "all rows" for some in sliced.slices]
    width = max(map(len, names))
    head = "".join(f"  {metric:26s}" for metric in metrics).rstrip()
    return [
        f"slices, with 95% intervals from {sliced.resamples:,} resamples of users",
        f"  {'':{width}s} {'rows':>13s}  share{head}",
        *(_slice_line(name, width, some) for name, some in zip(names, sliced.slices, strict=True)),
        f"  {sliced.intervals} intervals: about {sliced.intervals * 0.05:.1f} of them do not hold "
        "the true value, by chance",
    ]


def _slice_line(name: str, width: int, found: SliceScore) -> str:
    metrics = "".join(f"  {_interval(of_metric):26s}" for of_metric in found.metrics.values())
    return f"  {name:{width}s} {found.rows:13,d} {found.share:6.1%}{metrics}".rstrip()


def _interval(found: Estimate) -> str:
    if math.isnan(found.value):
        return "undefined"
    return f"{found.value:.4f} ({found.low:.4f} to {found.high:.4f})"


def _line(name: str, value: float) -> str:
    shown = f"{value:,}" if isinstance(value, int) else f"{value:.6f}"
    return f"  {name:20s} {'undefined' if shown == 'nan' else shown:>14s}"


if __name__ == "__main__":
    main()
