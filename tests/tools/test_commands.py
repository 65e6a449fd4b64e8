"""The tools as a user starts them, on small inputs."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests import starter
from tools.compare import __main__ as compare
from tools.compare import runs

ROOT = Path(__file__).resolve().parents[2]


def run(*arguments):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout


@pytest.fixture
def started(monkeypatch):
    """Commands of a comparison, which run by the starter instead of torchrun."""
    commands = []

    def start(command, *, cwd, env, stdout, stderr, check):
        commands.append(command)
        python, *launcher, width, program = command[:6]
        assert (python, cwd, check) == (sys.executable, ROOT, True)
        assert launcher == ["-m", "torch.distributed.run", "--standalone"]
        assert env == {"OMP_NUM_THREADS": "1", **os.environ}
        done = starter.run(int(width.removeprefix("--nproc-per-node=")), program, *command[6:])
        stdout.write(done.stdout + done.stderr)
        assert done.returncode == 0, done.stderr

    replaced = SimpleNamespace(**{**vars(subprocess), "run": start})
    monkeypatch.setattr(runs, "subprocess", replaced)
    return commands


def test_demo_comparison_and_loader_timing(tmp_path, started):
    demo = tmp_path / "demo"
    shown = run("tools.demo", f"--folder={demo}", "--users=300")
    for model in ("muse", "din"):
        auc = json.loads((demo / model / "evaluation_test.json").read_text())["auc"]
        assert f"{auc:.4f}" in shown
    assert shown.splitlines()[-1] == f"report: {demo / 'report.html'}"
    assert "<h1>muse against din</h1>" in (demo / "report.html").read_text()
    store = str(demo / "world")
    assert "samples/s" in run("tools.time_loader", f"--store={store}")
    asked = ["--store", store, "--models", "din", "recent", "--seeds", "1", "2"]
    asked += ["--out", str(tmp_path / "table"), "--processes", "1", "trainer.max_steps=2"]
    assert compare.main(asked) == 0
    assert [command[5] for command in started] == ["ctr/train.py", "ctr/evaluate.py"] * 4
    written = (tmp_path / "table" / "table.json").read_bytes()
    # Nothing is missing for the command itself, which makes the same of what is there.
    table = run("tools.compare", *asked)
    assert (tmp_path / "table" / "table.json").read_bytes() == written
    rows = json.loads((tmp_path / "table" / "table.json").read_text())["rows"]
    assert [row["label"] for row in rows] == ["din", "recent"]
    assert all(len(row["runs"]) == 2 for row in rows)
    assert rows[0]["search_seconds"] < rows[1]["search_seconds"]
    assert rows[0]["parameters_embedding"] > 0 < rows[0]["parameters_dense"]
    assert f"{rows[1]['gauc']['mean']:.4f} ± " in table
