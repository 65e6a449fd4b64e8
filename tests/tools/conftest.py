"""A small prepared world and a run of two steps on it, for tools that look into a trained model."""

import pytest

from ctr.config import RunConfig
from ctr.distributed import process_group
from ctr.run_folder import RunFolder
from ctr.train import run
from datasets.world import WorldSize, make_world


@pytest.fixture(scope="session")
def trained(tmp_path_factory) -> RunFolder:
    """The folder of a MUSE that picks 12 of at most 60 behaviours."""
    root = tmp_path_factory.mktemp("trained")
    size = WorldSize(users=60, history_length=80, items=900, categories=12, seed=1)
    make_world(root / "store", size)
    config = RunConfig(run=str(root / "run"))
    config.data.store = str(root / "store")
    config.data.history_length, config.data.batch_size = 60, 100
    config.model.recent_length, config.model.retrieved, config.model.hidden = 10, 12, [16]
    config.trainer.max_steps, config.trainer.progress = 2, False
    config.trainer.lr, config.embedding.init_std = 0.01, 0.1
    with process_group("cpu") as process:
        run(config, process)
    return RunFolder(root / "run")
