"""Trains and evaluates the runs of a comparison, each by the commands that a user types."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ctr.run_folder import RunFolder
from tools.compare.plan import PlanError, Run

ROOT = Path(__file__).resolve().parents[2]
NOTE, LOG = "compare.json", "compare.log"
METRICS = ("auc", "gauc", "log_loss")
COSTS = (
    "samples_per_s",
    "parameters_dense",
    "parameters_embedding",
    "search_seconds",
    "peak_memory_mib",
)
DERIVED = ("search_share", "search_ms_per_step")


@dataclass(frozen=True)
class Failure:
    """A run that did not come to its end, and why."""

    run: Run
    reason: str

    def __str__(self) -> str:
        return f"{self.run.variant.name}, seed {self.run.seed}: {self.reason}"


class Runner:
    """Makes what is missing of a comparison.

    Args:
        processes: of training and evaluation.
        machine: describes this machine; called once, before the first run.
    """

    def __init__(self, processes: int, machine: Callable[[], dict[str, Any]]) -> None:
        self.processes, self._describe = processes, machine
        self._machine: dict[str, Any] | None = None

    def missing(self, runs: Sequence[Run]) -> list[Run]:
        """The runs that are not finished.

        Raises:
            PlanError: a folder holds a run of other settings, or something else.
        """
        return [run for run in runs if not self._is_finished(run)]

    def make(self, run: Run) -> Failure | None:
        """Train and evaluate; what was left half done is done again."""
        folder = RunFolder(run.folder)
        try:
            if _summary(folder) is None:
                shutil.rmtree(run.folder, ignore_errors=True)
                run.folder.mkdir(parents=True)
                if self._machine is None:
                    self._machine = self._describe()
                note = self._asked(run) | {"machine": self._machine}
                note["load_average_before"] = os.getloadavg()[0]
                (run.folder / NOTE).write_text(json.dumps(note, indent=2) + "\n")
                self._call(run, "ctr/train.py", *run.settings)
            taken = "best" if run.best else "newest"
            options = (f"split={run.split}", f"checkpoint={taken}", "progress=false")
            self._call(run, "ctr/evaluate.py", *options)
        except subprocess.CalledProcessError as error:
            return Failure(run, _reason(run.folder / LOG, error.returncode))
        return None

    def _asked(self, run: Run) -> dict[str, Any]:
        return {"processes": self.processes, "split": run.split, "settings": list(run.settings)}

    def _is_finished(self, run: Run) -> bool:
        if not run.folder.exists():
            return False
        try:
            note = json.loads((run.folder / NOTE).read_text())
        except (OSError, ValueError):
            raise PlanError(
                f"{run.folder}: not made by this tool (it has no readable {NOTE}); remove it, or "
                "choose another --out"
            ) from None
        for key, value in self._asked(run).items():
            if note.get(key) != value:
                raise PlanError(
                    f"{run.folder}: was made with {key} {note.get(key)}, not {value}; choose "
                    "another --out, or remove it"
                )
        return read_figures(run) is not None

    def _call(self, run: Run, script: str, *arguments: str) -> None:
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
        command += [f"--nproc-per-node={self.processes}", script, f"run={run.folder.resolve()}"]
        # ctr sets its own number of threads; without this torchrun warns about it at every start.
        environment = {"OMP_NUM_THREADS": "1", **os.environ}
        with (run.folder / LOG).open("a") as log:
            subprocess.run(
                [*command, *arguments],
                cwd=ROOT,
                env=environment,
                stdout=log,
                stderr=subprocess.STDOUT,
                check=True,
            )


def read_figures(run: Run) -> dict[str, float | None] | None:
    """Metrics and costs of a run; None where it is not finished.

    A figure is None where it is not defined or the run's release did not write it.
    """
    folder = RunFolder(run.folder)
    try:
        evaluation = json.loads(folder.evaluation(run.split).read_text())
    except (OSError, ValueError):
        return None
    summary = _summary(folder)
    if summary is None:
        return None
    figures = dict.fromkeys(DERIVED) | {name: evaluation.get(name) for name in METRICS}
    figures |= {name: summary.get(name) for name in COSTS}
    searched = figures["search_seconds"]
    if searched is not None and summary["seconds"] and summary["steps"]:
        figures["search_share"] = searched / summary["seconds"]
        figures["search_ms_per_step"] = 1000.0 * searched / summary["steps"]
    return figures


def read_environment(run: Run) -> dict[str, Any]:
    """Versions, commit and store of a finished run, and the machine that it ran on."""
    environment: dict[str, Any] = json.loads(RunFolder(run.folder).environment.read_text())
    note = json.loads((run.folder / NOTE).read_text())
    return {**environment, "machine": note["machine"]}


def _summary(folder: RunFolder) -> dict[str, Any] | None:
    """What training ended with; None where it did not end."""
    try:
        last = json.loads(folder.metrics.read_text().splitlines()[-1])
    except (OSError, ValueError, IndexError):
        return None
    return last if last["kind"] == "summary" else None


def _reason(log: Path, code: int) -> str:
    lines = log.read_text(errors="replace").splitlines()
    errors = [line for line in lines if line.startswith("error: ")]
    said = f" ({errors[-1]})" if errors else ""
    return f"exit code {code}{said}; see {log}"
