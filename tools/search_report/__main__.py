"""What a run's search picks over a split: how similar, how old, and what another would have picked.

    python -m tools.search_report RUN
    python -m tools.search_report RUN --split test --against category recent --recall-samples 512

Prints a table and writes gsu_<split>.json into the folder of the run. docs/evaluation.md defines
every figure.
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from ctr.command import errors_to_exit
from ctr.model.gsu import STRATEGIES
from tools.arguments import whole_number
from tools.search_report.measure import search_report
from tools.trained_run import add_run_options, opened_run

_count = whole_number(0)


def main(arguments: Sequence[str] | None = None) -> None:
    """Look, print and write."""
    options = _parser().parse_args(arguments)
    with errors_to_exit(), opened_run(options) as run:
        against = options.against
        if against is None:
            against = [name for name in STRATEGIES if name != run.config.model.gsu]
        found, notes = search_report(run, against, options.recall_samples)
        path = run.folder.path / f"gsu_{run.split_name}.json"
        aside = path.with_suffix(".tmp")
        aside.write_text(json.dumps(found, indent=2) + "\n")
        aside.replace(path)
    for note in notes:
        print(f"note: {note}")
    print(f"{_table(found)}\n\nwritten to {path}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tools.search_report",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_run_options(parser)
    told = "searches to compare with (default: all others)"
    parser.add_argument("--against", nargs="*", choices=[*STRATEGIES], metavar="GSU", help=told)
    told = "rows on which attention over all behaviours is tried (default: 512; 0: none)"
    parser.add_argument("--recall-samples", type=_count, default=512, metavar="N", help=told)
    return parser


def _table(found: dict[str, Any]) -> str:
    lines = [f"{found['gsu']}, split {found['split']}: {found['samples']:,} rows, K = {found['k']}"]
    lines.append(f"  rows with fewer than K picks     {found['fewer_than_k']:6.1%}")
    for name, share in found["overlap"].items():
        told = "     -" if share is None else f"{share:6.1%}"
        lines.append(f"  picks that {name:10s} picks, too {told}")
    recall = found["attention_recall"]
    told = "     -" if recall is None else f"{recall['recall']:6.1%} of {recall['samples']} rows"
    lines.append(f"  recall of what attention weights {told}")
    if found["similarity"] is not None:
        edges, counts = found["similarity"]["edges"], found["similarity"]["counts"]
        fours = np.array(counts).reshape(-1, 4).sum(axis=1)
        names = [
            f"{low:4.1f} to {high:4.1f}"
            for low, high in zip(edges[:-1:4], edges[4::4], strict=True)
        ]
        lines += ["", "cosine of picks", *_shares(names, fours)]
    edges, counts = found["age"]["edges"], np.array(found["age"]["counts"])
    names = [f"{low:,} to {high - 1:,}" for low, high in itertools.pairwise(edges)]
    return "\n".join([*lines, "", "age of picks (1 = latest)", *_shares(names, counts)])


def _shares(names: Sequence[str], counts: np.ndarray) -> list[str]:
    total = max(1, int(counts.sum()))
    return [
        f"  {name:>20s} {count / total:6.1%} {'#' * round(40 * count / total)}".rstrip()
        for name, count in zip(names, counts.tolist(), strict=True)
    ]


if __name__ == "__main__":
    main()
