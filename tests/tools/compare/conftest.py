"""A stand-in for the commands of training and evaluation, which write what real ones would."""

import json
import subprocess
from itertools import pairwise
from pathlib import Path

import pytest

from tools.compare import runs


class Commands:
    """Takes the place of subprocess.run and remembers (script, folder's name) of every call.

    Attributes:
        failing: such pairs that end with exit code 2.
        figures: folder's name -> (AUC, seconds of search); others get 0.7 and 1 s.
        killed: such a pair at which the comparison is interrupted.
    """

    def __init__(self):
        self.calls, self.failing, self.figures, self.killed = [], set(), {}, None
        self.arguments = {}

    def __call__(self, command, stdout, check, **options):
        script, folder = next(
            (Path(word).stem, Path(after.removeprefix("run=")))
            for word, after in pairwise(command)
            if word.startswith("ctr/")
        )
        call = (script, folder.name)
        self.calls.append(call)
        self.arguments[call] = command
        if call == self.killed:
            raise KeyboardInterrupt
        if call in self.failing:
            stdout.write("W1121 a warning\nerror: trainer.lr=0: set more\n")
            raise subprocess.CalledProcessError(2, command)
        auc, searched = self.figures.get(folder.name, (0.7, 1.0))
        getattr(self, script)(folder, command, auc, searched)

    def train(self, folder, command, auc, searched):
        environment = {"commit": "abc", "versions": {"torch": "2"}, "store": "made"}
        (folder / "environment.json").write_text(json.dumps(environment))
        summary = {"kind": "summary", "steps": 20, "seconds": 4.0, "samples_per_s": 1000.0}
        summary |= {"parameters_dense": 1500, "parameters_embedding": 25000}
        summary |= {"search_seconds": searched, "peak_memory_mib": 512.0}
        rows = [{"kind": "train", "step": 20}, summary]
        (folder / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))

    def evaluate(self, folder, command, auc, searched):
        (split,) = (word.removeprefix("split=") for word in command if word.startswith("split="))
        found = {"auc": auc, "gauc": None, "log_loss": 0.5, "samples": 9}
        (folder / f"evaluation_{split}.json").write_text(json.dumps(found))


@pytest.fixture
def commands(monkeypatch):
    made = Commands()
    monkeypatch.setattr(runs.subprocess, "run", made)
    return made
