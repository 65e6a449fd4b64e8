"""Several processes: gathered predictions, and the groups that they talk in."""

import os
import socket
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist

from ctr.checkpoint import Checkpointer
from ctr.config import TrainerConfig
from ctr.distributed import Process, gather_rows, process_group
from ctr.faults import Votes
from ctr.metrics import evaluate_predictions
from ctr.model.vector_shards import VectorShards
from tests import starter

SAMPLES = 5_001


def predictions():
    random = np.random.default_rng(0)
    return {
        "sample": np.arange(SAMPLES),
        "user": random.integers(0, 300, SAMPLES),
        "label": random.integers(0, 2, SAMPLES).astype(np.uint8),
        "score": random.random(SAMPLES, dtype=np.float32).round(3),
    }


def metrics(columns):
    order = np.argsort(columns["sample"])
    found = evaluate_predictions(*(columns[n][order] for n in ("label", "score", "user")))
    return found.as_dict()


def _gather(rank, world_size, meeting, result):
    dist.init_process_group(
        "gloo", init_method=f"file://{meeting}", rank=rank, world_size=world_size
    )
    # Uneven parts, interleaved, one of them empty.
    part = np.arange(SAMPLES) % (2 * world_size - 2) // 2 == rank
    process = Process(rank, world_size, world_size, torch.device("cpu"))
    gathered = gather_rows({name: c[part] for name, c in predictions().items()}, process)
    assert (gathered is not None) == process.is_first
    if gathered is not None:
        np.savez(result, **gathered)
    dist.destroy_process_group()


@pytest.mark.parametrize("world_size", [3])
def test_metrics_do_not_depend_on_the_number_of_processes(world_size, tmp_path):
    result = tmp_path / "gathered.npz"
    starter.spawn(_gather, (world_size, tmp_path / "meeting", result), nprocs=world_size)
    with np.load(result) as gathered:
        assert metrics(dict(gathered)) == pytest.approx(metrics(predictions()), abs=1e-12)


def _groups(rank, meeting):
    """Every group that a job makes gives up when its default group does."""
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    os.environ |= {"LOCAL_RANK": str(rank), "MASTER_ADDR": "localhost", "MASTER_PORT": meeting}
    with process_group("cpu", timeout=4321.0):
        groups = [
            dist.group.WORLD,
            Votes().group,
            Checkpointer(Path("/nowhere"), TrainerConfig()).group,
            VectorShards(torch.zeros(4, 2), torch.ones(4), torch.device("cpu")).exchange.group,
        ]
        for group in groups:
            timeout = group._get_backend(torch.device("cpu")).options._timeout
            assert timeout.total_seconds() == 4321.0


def test_all_groups_of_a_job_give_up_together():
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])
    starter.spawn(_groups, (port,), nprocs=2)
