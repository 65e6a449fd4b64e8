"""The whole road on a synthetic world: prepare, train MUSE and DIN, evaluate, report.

python -m tools.demo [--folder runs/demo] [--users 4000] [--processes 2]
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MODELS = ("muse", "din")
REPORT = "report.html"
# A fifth of what a report takes by itself: its intervals are a little rougher, and the demo short.
RESAMPLES = 2000


def main() -> None:
    """Run every step as a user would type it, then print the table."""
    options = _options()
    folder: Path = options.folder
    # Only what an earlier demo made is removed.
    for name in ("world", *MODELS, "report_png"):
        shutil.rmtree(folder / name, ignore_errors=True)
    (folder / REPORT).unlink(missing_ok=True)
    folder.mkdir(parents=True, exist_ok=True)
    started = time.perf_counter()
    store = folder / "world"
    _step("-m", "datasets.world", "--out", str(store), "--users", str(options.users))
    for model in MODELS:
        _train(model, store, folder / model, options.processes)
        _step("ctr/evaluate.py", f"run={folder / model}", "progress=false")
    _step(
        *("-m", "tools.search_report", str(folder / "muse")), *("--against", "category", "recent")
    )
    _report(folder)
    print(f"\n{_table(folder)}\n\n{time.perf_counter() - started:.0f} s in all; runs in {folder}")
    print(f"report: {folder / REPORT}")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, default=Path("runs/demo"), help="where to write")
    parser.add_argument("--users", type=int, default=4000, help="users of the world")
    parser.add_argument("--processes", type=int, default=2, help="training processes")
    return parser.parse_args()


def _train(model: str, store: Path, run: Path, processes: int) -> None:
    _step(
        *("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)),
        *("ctr/train.py", f"experiment=world_{model}", f"data.store={store}", f"run={run}"),
        *("data.batch_size=500", "trainer.log_every=4"),
    )


def _report(folder: Path) -> None:
    _step(
        *("-m", "tools.report", str(folder / "din"), str(folder / "muse")),
        *("--out", str(folder / REPORT), "--resamples", str(RESAMPLES), "--no-progress"),
    )


def _step(*arguments: str) -> None:
    shown = shlex.join(arguments).replace("-m torch.distributed.run --standalone", "torchrun")
    print(f"\n$ {shown if shown.startswith('torchrun') else 'python ' + shown}", flush=True)
    # ctr sets its own number of threads; without this torchrun warns about it at every start.
    environment = {"OMP_NUM_THREADS": "1", **os.environ}
    done = subprocess.run([sys.executable, *arguments], cwd=ROOT, env=environment, check=False)
    if done.returncode:
        raise SystemExit(f"error: that command ended with exit code {done.returncode}")


def _table(folder: Path) -> str:
    columns = ("AUC", "GAUC", "log loss", "samples/s")
    lines = [f"{'model':8}" + "".join(f"{column:>12}" for column in columns)]
    for model in MODELS:
        found = json.loads((folder / model / "evaluation_test.json").read_text())
        last = (folder / model / "metrics.jsonl").read_text().splitlines()[-1]
        rate = json.loads(last)["samples_per_s"]
        values = "".join(f"{found[name]:12.4f}" for name in ("auc", "gauc", "log_loss"))
        lines.append(f"{model:8}{values}{rate:12,.0f}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
