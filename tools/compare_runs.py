"""Is the difference real? Metrics of two models on the same rows, with 95% intervals.

    python -m tools.compare_runs runs/din runs/muse
    python -m tools.compare_runs --seeds-a runs/din-1 runs/din-2 --seeds-b runs/muse-1 runs/muse-2
    python -m tools.compare_runs --a old.parquet --b new.parquet --key request item --label click \\
        --score p --user user_id --metrics auc gauc ndcg@10 --slice country

Differences are B minus A. Intervals come from a bootstrap over users (10,000 resamples); that of
several seeds holds the spread of the seeds too. docs/evaluation.md says how to read them.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from ctr.command import errors_to_exit
from ctr.metrics.comparison import Comparison, compare
from ctr.metrics.differences import check_metric
from ctr.metrics.files import PredictionFile
from ctr.metrics.paired import Columns, read_aligned
from ctr.metrics.plain import without_nan
from ctr.metrics.telling import caution, told
from ctr.metrics.ties import PredictionError
from ctr.run_folder import RunFolder
from ctr.slices import ALL, wanted_slices
from tools.arguments import whole_number

# Of resamples; fewer tell nothing of where an interval ends.
count = whole_number(100)


def main(arguments: Sequence[str] | None = None) -> None:
    """Read, compare and print."""
    options = _parser().parse_args(arguments)
    with errors_to_exit():
        for metric in options.metrics:
            check_metric(metric)
        a, b = _sides(options)
        paths = [predictions_of(path, options.split) for path in (*a, *b)]
        columns = _columns(options, (*a, *b), paths[0])
        rows = read_aligned(paths, columns, options.common_rows, options.slices_from)
        found = compare(rows, len(a), options.metrics, options.resamples, options.seed)
    for warning in found.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    if options.json:
        sides = {"a": [str(path) for path in a], "b": [str(path) for path in b]}
        print(json.dumps(without_nan({**sides, **asdict(found)}), indent=2))
    else:
        print(report(found, a, b))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tools.compare_runs",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    runs = "folders of runs, or Parquet files of predictions"
    add("runs", metavar="RUN", type=Path, nargs="*", help=f"A and B: {runs}")
    for side in ("a", "b"):
        names, told = (f"--{side}", f"--seeds-{side}"), f"{side.upper()}, one for each seed: {runs}"
        add(*names, dest=side, metavar="RUN", type=Path, nargs="+", default=[], help=told)
    add("--split", default="test", help="of the runs (default: test)")
    metrics = "auc, gauc, gauc_unweighted, log_loss, pr_auc, ndcg@K, hit_rate@K"
    add("--metrics", nargs="+", default=["auc", "gauc", "log_loss"], metavar="METRIC", help=metrics)
    told = f"and on each value; {ALL}: whatever ctr/evaluate.py wrote to slice by"
    add("--slice", dest="slices", nargs="+", default=[], metavar="COLUMN", help=told)
    add("--slices-from", type=Path, metavar="FILE", help="Parquet with the key and those columns")
    add("--key", nargs="+", default=["sample"], metavar="COLUMN", help="names a row together")
    for name in ("label", "score", "user"):
        add(f"--{name}", default=name, metavar="COLUMN", help=f"default: {name}")
    add("--group", metavar="COLUMN", help="of gauc, ndcg and hit_rate, within users; default: user")
    add("--unknown", metavar="VALUE", help="the user that is no one (of run folders: 0)")
    add("--common-rows", action="store_true", help="compare the rows that all have, leave the rest")
    add("--resamples", type=count, default=10_000, help="of the bootstrap (default: 10000)")
    add("--seed", type=int, default=0, help="of the bootstrap")
    add("--json", action="store_true", help="print JSON; undefined is null")
    return parser


def _sides(options: argparse.Namespace) -> tuple[list[Path], list[Path]]:
    if options.runs and not options.a and not options.b and len(options.runs) == 2:
        return [options.runs[0]], [options.runs[1]]
    if options.a and options.b and not options.runs:
        return options.a, options.b
    raise PredictionError("give RUN_A RUN_B, or --a RUN... --b RUN... (--seeds-a, --seeds-b)")


def predictions_of(path: Path, split: str) -> Path:
    """The file of a run's predictions, or the file itself."""
    if not path.is_dir():
        return path
    file = RunFolder(path).predictions(split)
    if not file.is_file():
        there = sorted(
            p.stem.removeprefix("predictions_") for p in path.glob("predictions_*.parquet")
        )
        raise PredictionError(
            f"{path}: has no {file.name} (splits there: {', '.join(there) or 'none'}); "
            f"python ctr/evaluate.py run={path} split={split} writes it"
        )
    return file


def _columns(options: argparse.Namespace, paths: Sequence[Path], first: Path) -> Columns:
    slices = options.slices
    if ALL in slices:
        file = PredictionFile(options.slices_from or first)
        slices = wanted_slices(slices, file.types, file.path)
    # In the files of this project's runs user 0 is the unknown one.
    unknown = "0" if all(path.is_dir() for path in paths) else None
    return Columns(
        key=tuple(options.key),
        label=options.label,
        score=options.score,
        user=options.user,
        group=options.group,
        slices=tuple(slices),
        unknown=unknown if options.unknown is None else options.unknown,
    )


def report(found: Comparison, a: Sequence[Path], b: Sequence[Path]) -> str:
    """The comparison in words."""
    lines = [f"A: {', '.join(map(str, a))}", f"B: {', '.join(map(str, b))}"]
    lines.append(
        f"{found.rows:,} rows of {found.users:,} users; B minus A, 95% intervals from "
        f"{found.resamples:,} resamples of users"
    )
    if len(a) + len(b) > 2:
        lines.append("intervals hold the spread of training seeds as well")
    else:
        lines.append("one seed a side: the intervals say nothing about other seeds")
    part = ""
    for difference in found.differences:
        if difference.slice != part:
            part = difference.slice
            lines += ["", f"where {part}: {difference.rows:,} rows of {difference.users:,} users"]
        words = told(difference, found.intervals)
        lines += words[:1] if part else ["", *words]
    if found.intervals > len({d.metric for d in found.differences}):
        lines += ["", caution(found.differences, found.intervals)]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
