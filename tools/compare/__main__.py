"""Train variants on a prepared store over several seeds and write one table and one plot.

    python -m tools.compare --store stores/world --models muse sim_hard din --seeds 1 2 3 \\
        --out runs/compare [--processes 2] [key=value ...]
    python -m tools.compare --experiments world_muse world_din --out runs/two
    python -m tools.compare --store stores/world --out runs/heads \\
        --variants tower:model=muse qnn:model=muse,model.head=qnn
    python -m tools.compare --sweep sweep_length --store stores/long --models muse --out runs/length

Every run is a `torchrun ctr/train.py` and a `ctr/evaluate.py` of its own, so the figures are those
of the commands that a user types; a run with trainer.keep_best is evaluated at its best checkpoint.
Finished runs are kept: the same command again goes on. A run that fails is named, the others go on,
and the exit code is 1.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ctr.command import errors_to_exit
from ctr.metrics.plain import without_nan
from tools.compare.plan import Run, Sweep, plan_runs, read_sweep, store_setting, variants_of
from tools.compare.plots import draw
from tools.compare.runs import Failure, Runner
from tools.compare.table import Row, as_json, as_markdown, make_rows

_SETTING = re.compile(r"[+~]*[A-Za-z_][\w./@]*=")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what is missing and write table.md, table.json and plot.png; returns the exit code."""
    given = sys.argv[1:] if arguments is None else arguments
    # Taken out first, since an option of several values would take them for its own.
    overrides = [argument for argument in given if _SETTING.match(argument)]
    options = _parser().parse_args([a for a in given if a not in overrides])
    with errors_to_exit():
        sweep = read_sweep(options.sweep) if options.sweep else None
        variants = variants_of(options.models, options.experiments, options.variants, sweep)
        common = [*overrides, *store_setting(options.store)]
        runs = plan_runs(variants, options.seeds, options.out, common, options.split)
        failures = _make(Runner(options.processes, _machine), runs)
    asked = {
        "store": options.store,
        "overrides": overrides,
        "processes": options.processes,
    }
    rows = make_rows(runs)
    table = {**asked, **as_json(rows, runs, sweep, failures)}
    _write(rows, table, sweep, options.out)
    for failure in failures:
        print(f"failed: {failure}", file=sys.stderr)
    return 1 if failures else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tools.compare",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    told = "prepared store, or its URL; by default the one that is configured"
    add("--store", metavar="PATH", help=told)
    add("--models", nargs="+", default=[], metavar="NAME", help="names under conf/model")
    add("--experiments", nargs="+", default=[], metavar="NAME", help="names under conf/experiment")
    add("--variants", nargs="+", default=[], metavar="LABEL:KEY=VALUE,...", help="settings of each")
    add("--sweep", metavar="NAME", help="experiment whose hydra.sweeper.params has the points")
    add("--seeds", nargs="+", type=int, default=[1, 2, 3], metavar="N")
    add("--out", type=Path, required=True, help="folder of the runs, the table and the plot")
    add("--split", help="to evaluate; by default the configured test split")
    add("--processes", type=int, default=2, help="of training and evaluation")
    return parser


def _machine() -> dict[str, Any]:
    """This machine, as far as it decides speeds."""
    # Here, since a comparison that is finished needs no torch.
    import torch

    from kernels.benchmarks.machine import describe

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    found = describe(device)
    return {key: found[key] for key in ("device", "hardware")}


def _make(runner: Runner, runs: Sequence[Run]) -> list[Failure]:
    """Make what is missing, with a line on stderr: runs done, runs in all, time left."""
    failures = []
    missing = runner.missing(runs)
    done = len(runs) - len(missing)
    with tqdm(total=len(runs), initial=done, unit="run", file=sys.stderr) as bar:
        for run in missing:
            bar.set_description(f"{run.variant.name}, seed {run.seed}")
            failure = runner.make(run)
            if failure is not None:
                failures.append(failure)
                bar.write(f"failed: {failure}", file=sys.stderr)
            bar.update()
    return failures


def _write(rows: Sequence[Row], table: dict[str, Any], sweep: Sweep | None, out: Path) -> None:
    (out / "table.json").write_text(json.dumps(without_nan(table), indent=2) + "\n")
    text = as_markdown(rows, sweep)
    (out / "table.md").write_text(text)
    print(text)
    commits = sorted({str(environment["commit"]) for environment in table["environments"]})
    if len(commits) > 1:
        print(f"warning: runs of several commits: {', '.join(commits)}", file=sys.stderr)
    if not any(row.seeds for row in rows):
        return
    stores = sorted({str(environment["store"]) for environment in table["environments"]})
    title = f"store {', '.join(stores)}, commit {', '.join(commits)}"
    try:
        draw(rows, sweep, title, out / "plot.png")
    except ImportError as error:
        print(f"no plot: {error}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
