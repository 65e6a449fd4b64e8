"""The tools as a user starts them, on small inputs."""

import json
import os
import subprocess
import sys
from pathlib import Path

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


def test_demo_comparison_and_loader_timing(tmp_path):
    demo = tmp_path / "demo"
    shown = run("tools.demo", f"--folder={demo}", "--users=300")
    for model in ("muse", "din"):
        auc = json.loads((demo / model / "evaluation_test.json").read_text())["auc"]
        assert f"{auc:.4f}" in shown
    assert shown.splitlines()[-1] == f"report: {demo / 'report.html'}"
    assert "<h1>muse against din</h1>" in (demo / "report.html").read_text()
    store = str(demo / "world")
    assert "samples/s" in run("tools.time_loader", f"--store={store}")
    table = run(
        *("tools.compare", "--store", store, "--models", "din", "recent", "--seeds", "1", "2"),
        *("--out", str(tmp_path / "table"), "--processes", "1", "trainer.max_steps=2"),
    )
    rows = json.loads((tmp_path / "table" / "table.json").read_text())["rows"]
    assert [row["label"] for row in rows] == ["din", "recent"]
    assert all(len(row["runs"]) == 2 for row in rows)
    assert rows[0]["search_seconds"] < rows[1]["search_seconds"]
    assert rows[0]["parameters_embedding"] > 0 < rows[0]["parameters_dense"]
    assert f"{rows[1]['gauc']['mean']:.4f} ± " in table
