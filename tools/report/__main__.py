"""One HTML file on a run, or on how several runs compare, with a PNG of every plot beside it.

    python -m tools.report runs/muse
    python -m tools.report runs/din runs/muse --split test --out reports/muse.html

Runs are compared with the first. The file needs nothing else and no network. Predictions must be
there (python ctr/evaluate.py run=RUN); what else is missing is named in the report, with the
command that makes it. docs/evaluation.md says how to read it.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from ctr.command import errors_to_exit
from tools.compare_runs import count
from tools.report.document import Wanted, build
from tools.report.runs import read_runs
from tools.report.writing import check_writable, write


def main(arguments: Sequence[str] | None = None) -> None:
    """Read, measure, draw and write."""
    options = _parser().parse_args(arguments)
    out: Path = options.out
    png = options.png or out.with_name(f"{out.stem}_png")
    folder = png if options.pictures else None
    wanted = Wanted(
        split=options.split,
        common_rows=options.common_rows,
        resamples=options.resamples,
        seed=options.seed,
        pictures=options.pictures,
        progress=options.progress,
    )
    with errors_to_exit():
        check_writable(out, folder)
        page, plots = build(read_runs(options.runs, options.split), wanted)
        write(page, out, plots, folder)
    print(f"{out}: {len(page.encode()) / 1e6:.2f} MB, {len(plots)} plots")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tools.report",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("runs", metavar="RUN", type=Path, nargs="+", help="folders of evaluated runs")
    add("--split", default="test", help="of the runs (default: test)")
    add("--out", type=Path, default=Path("report.html"), metavar="FILE", help="the page")
    add("--png", type=Path, metavar="FOLDER", help="of the PNGs (default: <name of --out>_png)")
    add("--no-png", dest="pictures", action="store_false", help="the page only")
    add("--common-rows", action="store_true", help="report the rows that all have, leave the rest")
    add("--resamples", type=count, default=10_000, help="of the bootstrap (default: 10000)")
    add("--seed", type=int, default=0, help="of the bootstrap")
    add("--no-progress", dest="progress", action="store_false", help="no progress bars")
    return parser


if __name__ == "__main__":
    main()
