"""Why one sample got its score: what the model looked at, and what moves the prediction.

    python -m tools.explain RUN --sample 1234
    python -m tools.explain RUN --user 17 --item 1193 --top 20 --titles movies.parquet \\
        --title-key movie_id --title-column title
    python -m tools.explain run=RUN user=17 item=1193

User and item are raw ids, as the source of the store had them. docs/evaluation.md says how to read
the output.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from ctr.command import errors_to_exit
from tools.arguments import whole_number
from tools.explain.choose import ExplainError, by_ids, by_number
from tools.explain.look import look
from tools.explain.show import Names, Titles, show
from tools.trained_run import add_run_options, opened_run, with_dashes

_KEYS = ("user", "item", "sample", "split", "top")

_positive = whole_number(1)


def main(arguments: Sequence[str] | None = None) -> None:
    """Choose, look and print."""
    given = sys.argv[1:] if arguments is None else arguments
    options = _parser().parse_args(with_dashes(given, _KEYS))
    with errors_to_exit():
        by_raw = options.user is not None and options.item is not None
        if by_raw == (options.sample is not None):
            raise ExplainError("give --user and --item, or --sample")
        with opened_run(options) as run:
            if by_raw:
                chosen = by_ids(run.store, run.split, run.split_name, options.user, options.item)
            else:
                chosen = by_number(run.split, run.split_name, options.sample)
            titles = None
            if options.titles is not None:
                titles = Titles(options.titles, options.title_key, options.title_column)
            names = Names(run.store, titles)
            print(show(run, chosen, look(run, chosen.split, options.reference), names, options.top))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tools.explain",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_run_options(parser)
    add = parser.add_argument
    add("--user", metavar="RAW", help="raw id")
    add("--item", metavar="RAW", help="raw id of the target")
    add("--sample", type=int, metavar="N", help="of the split, as in its predictions")
    add("--top", type=_positive, default=10, metavar="N", help="behaviours shown (default: 10)")
    told = "samples whose mean stands for a part that is taken out (default: 512)"
    add("--reference", type=_positive, default=512, metavar="N", help=told)
    add("--titles", type=Path, metavar="FILE", help="Parquet with a text for each item")
    add("--title-key", default="item", metavar="COLUMN", help="raw id there (default: item)")
    add("--title-column", default="title", metavar="COLUMN", help="text there (default: title)")
    return parser


if __name__ == "__main__":
    main()
