"""A run that explodes leaves a batch from which the tool finds the place again."""

from datasets.world import WorldSize, make_world
from tests import starter


def test_the_step_that_exploded_is_explained(tmp_path):
    store, folder = tmp_path / "store", tmp_path / "run"
    make_world(store, WorldSize(users=60, history_length=40, items=400, categories=8))
    options = [f"data.store={store}", f"run={folder}", "data.history_length=50"]
    options += ["trainer.lr=1e30", "trainer.progress=false", "data.batch_size=50"]
    failed = starter.run(None, "ctr/train.py", *options)
    assert failed.returncode == 2
    assert "error: step 2" in failed.stderr
    assert f"python -m tools.replay_batch {folder} --step 2" in failed.stderr
    told = starter.run(None, "tools.replay_batch", str(folder), "--step", "2")
    assert told.returncode == 0, told.stderr
    assert "step-000000002.rank-0000.pt: 50 samples, loss nan" in told.stdout
    assert "first output that is not finite" in told.stdout
    missing = starter.run(None, "tools.replay_batch", str(folder), "--step", "7")
    assert missing.returncode == 2
    assert "no batch of step 7; there are ['step-000000002']" in missing.stderr
