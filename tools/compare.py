"""Train a list of models on one prepared store over several seeds and write one table.

    python -m tools.compare --store stores/world --models muse sim_hard din --seeds 1 2 3 \\
        --out runs/compare [--processes 2] [key=value ...]

Every run is a `torchrun ctr/train.py` and a `ctr/evaluate.py` of its own, so the figures are those
of the commands that a user types. Finished runs are kept: the same command again goes on.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
METRICS = ("auc", "gauc", "log_loss")
COSTS = ("samples_per_s", "peak_memory_mib")


def main() -> None:
    """Run what is missing and write table.md and table.json."""
    options, overrides = _parser().parse_known_args()
    rows = []
    for model in options.models:
        runs = [_run(options, overrides, model, seed) for seed in options.seeds]
        rows.append({"model": model, "seeds": options.seeds, **_summary(runs)})
    text = _markdown(rows)
    (options.out / "table.json").write_text(
        json.dumps({"overrides": overrides, "store": str(options.store), "rows": rows}, indent=2)
    )
    (options.out / "table.md").write_text(text)
    print(text)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--store", type=Path, required=True, help="prepared store")
    parser.add_argument("--models", nargs="+", required=True, help="names under conf/model")
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs and the table")
    parser.add_argument("--processes", type=int, default=2, help="training processes")
    return parser


def _run(
    options: argparse.Namespace, overrides: list[str], model: str, seed: int
) -> dict[str, float]:
    folder: Path = options.out / f"{model}-{seed}"
    settings = [f"seed={seed}", *overrides, f"model={model}", "trainer.progress=false"]
    settings += [f"data.store={options.store.resolve()}"]
    asked = {"processes": options.processes, "settings": settings}
    note, evaluated = folder / "compare.json", folder / "evaluation_test.json"
    if note.exists() and json.loads(note.read_text()) != asked:
        raise SystemExit(f"error: {folder} was made with other settings; choose another --out")
    if not evaluated.exists():
        # What an interrupted comparison left of this run; its settings may be unknown.
        shutil.rmtree(folder, ignore_errors=True)
        launcher = ["-m", "torch.distributed.run", "--standalone"]
        launcher += [f"--nproc-per-node={options.processes}"]
        run = f"run={folder.resolve()}"
        _call([*launcher, "ctr/train.py", run, *settings])
        _call([*launcher, "ctr/evaluate.py", run, "split=test", "progress=false"])
        note.write_text(json.dumps(asked))
    evaluation = json.loads(evaluated.read_text())
    summary = json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])
    return {**{m: evaluation[m] for m in METRICS}, **{c: summary[c] for c in COSTS}}


def _call(arguments: list[str]) -> None:
    environment = {"OMP_NUM_THREADS": "1", **os.environ}
    done = subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, env=environment, stdout=subprocess.DEVNULL
    )
    if done.returncode:
        raise SystemExit(f"error: exit code {done.returncode} from: {' '.join(arguments)}")


def _summary(runs: list[dict[str, float]]) -> dict[str, object]:
    result: dict[str, object] = {"runs": runs}
    for name in METRICS:
        values = [run[name] for run in runs]
        result[name] = statistics.mean(values)
        result[f"{name}_spread"] = statistics.stdev(values) if len(values) > 1 else 0.0
    for name in COSTS:
        result[name] = statistics.median(run[name] for run in runs)
    return result


def _markdown(rows: list[dict]) -> str:
    lines = [
        "| model | seeds | AUC | GAUC | log loss | training samples/s | peak MiB a process |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        metrics = " | ".join(f"{row[m]:.4f} ± {row[f'{m}_spread']:.4f}" for m in METRICS)
        costs = " | ".join(f"{row[c]:,.0f}" for c in COSTS)
        lines.append(f"| {row['model']} | {len(row['seeds'])} | {metrics} | {costs} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
