"""A run that explodes leaves a batch from which the tool finds the place again."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def run(*arguments):
    return subprocess.run(
        [sys.executable, *map(str, arguments)], cwd=ROOT, capture_output=True, text=True
    )


def test_the_step_that_exploded_is_explained(tmp_path):
    store, folder = tmp_path / "store", tmp_path / "run"
    sizes = ["--users=60", "--history-length=40", "--items=400", "--categories=8"]
    assert run("-m", "datasets.world", "--out", store, *sizes).returncode == 0
    options = [f"data.store={store}", f"run={folder}", "data.history_length=50"]
    options += ["trainer.lr=1e30", "trainer.progress=false", "data.batch_size=50"]
    failed = run("ctr/train.py", *options)
    assert failed.returncode == 2
    assert "error: step 2" in failed.stderr
    assert f"python -m tools.replay_batch {folder} --step 2" in failed.stderr
    told = run("-m", "tools.replay_batch", folder, "--step", "2")
    assert told.returncode == 0, told.stderr
    assert "step-000000002.rank-0000.pt: 50 samples, loss nan" in told.stdout
    assert "first output that is not finite" in told.stdout
    missing = run("-m", "tools.replay_batch", folder, "--step", "7")
    assert missing.returncode == 2
    assert "no batch of step 7; there are ['step-000000002']" in missing.stderr
