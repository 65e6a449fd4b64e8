"""A run that explodes leaves a batch from which the tool finds the place again."""

import re
import shutil
from argparse import Namespace

import pytest

from ctr import checkpoint
from ctr.data.loader import Loader
from ctr.distributed import process_group
from ctr.evidence import write_batch
from ctr.inference import reading_config
from ctr.run_folder import RunFolder
from datasets.world import WorldSize, make_world
from tests import starter
from tools.chaos.ending import read_tensors
from tools.replay_batch import replay
from tools.trained_run import opened_run


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


# Of a process by itself torch warns that checkpoints are written and read by one.
pytestmark = pytest.mark.filterwarnings("ignore:torch.distributed is disabled")

WEIGHT = "model.head.layers.0.weight"


@pytest.fixture
def replayed(trained, tmp_path):
    """Says what the replay of a batch says; the state beside it has a weight of one value."""
    options = Namespace(run=trained.path, split=None, checkpoint="newest", store=None, device="cpu")
    with opened_run(options) as run:
        loader = Loader(run.store, run.store.split("train"), batch_size=40, history_length=60)
        batch = next(iter(loader))
    folder = RunFolder(tmp_path / "run")
    shutil.copytree(trained.path, folder.path)

    def look(weight):
        tensors = read_tensors(checkpoint.newest(folder.checkpoints))
        tensors[WEIGHT].fill_(weight)
        about = {"world_size": 1, "what": "loss"}
        checkpoint.save(tensors, checkpoint.Writer(folder.nonfinite, 3, about, keep=1))
        write_batch(folder.nonfinite / "step-000000003.rank-0000.pt", batch)
        with process_group("cpu") as process:
            config = reading_config(folder, None, None, "cpu")
            return "\n".join(replay(folder, config, 3, process))

    return look


def test_weights_are_judged_before_the_step_touches_them(replayed):
    told = replayed(3e38)
    assert re.search(r"first output that is not finite: \S*head\.layers\.", told)
    assert "weights that were not finite" not in told


def test_a_weight_that_was_not_finite_is_named(replayed):
    assert f"weights that were not finite before the step: {WEIGHT}" in replayed(float("nan"))
