"""Managed ids on two processes, as on one: rows, runs that are resumed, and checkpoints.

Shape legend: N ids, D width of the table.
"""

import os
import shutil
import socket

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from ctr.config import ClusterConfig, EmbeddingConfig, RunConfig
from ctr.distributed import process_group
from ctr.evaluate import EvaluateConfig, run_evaluation
from ctr.model.embeddings import EmbeddingTables, TableShape
from ctr.optim import fuse_sparse_optimizer
from ctr.run_folder import RunFolder
from ctr.sharding import shard
from ctr.train import run
from tests import starter

WORLD_SIZE = 2
# A table of this width is cut into columns where it may be.
SLOTS, DIM, STEPS, SAMPLES = 12, 256, 30, 16
SHARDINGS = ("row_wise", "column_wise", "table_wise")
IDS = 10 * SLOTS


def looked_up(process, sharding, optimizer):
    """Embeddings [N, D] of the ids of each step, of all processes, while a table learns them."""
    torch.manual_seed(0)
    tables = EmbeddingTables({"item": TableShape(SLOTS, DIM, "distance_lfu")}, init_std=0.1)
    config = EmbeddingConfig(sharding=[sharding], optimizer=optimizer, lr=0.3)
    fuse_sparse_optimizer(tables, config, process.device)
    model = shard(tables, process, config, ClusterConfig())
    generator = torch.Generator().manual_seed(1)
    # The same in both halves, since a row's state is that of its columns in one process.
    slope_D = torch.linspace(-1.0, 2.0, DIM // 2).repeat(2)
    mine = slice(process.rank, None, process.world_size)
    found = []
    for _ in range(STEPS):
        ids_N = (torch.rand(SAMPLES, generator=generator).pow(2) * IDS).long()
        embedded_ND = model({"item": ids_N[mine]})["item"]
        # The sharded gradient is divided by the number of processes.
        ((embedded_ND * slope_D).sum() * process.world_size).backward()
        every_ND = torch.zeros(SAMPLES, DIM)
        every_ND[mine] = embedded_ND.detach()
        if process.world_size > 1:
            torch.distributed.all_reduce(every_ND)
        found.append(every_ND.numpy())
    return np.stack(found)


def run_config(store, folder, batch_size):
    config = RunConfig(run=str(folder), device="cpu")
    config.data.store, config.data.batch_size = str(store), batch_size
    config.data.history_length, config.data.valid_split = 60, "test"
    config.model.recent_length = config.model.retrieved = 10
    config.model.gsu, config.model.retrieved_attention = "id_soft", ["target"]
    config.embedding.slots, config.embedding.init_std = {"item": 200, "user_id": 20}, 0.1
    config.trainer.progress = False
    config.trainer.max_steps = 6
    config.validate()
    return config


def evaluate(folder, process):
    """Metrics, and the scores of the test split."""
    folder = RunFolder(folder)
    run_evaluation(folder, folder.read_config(), EvaluateConfig(progress=False), process)
    if not process.is_first:
        return None
    return pq.read_table(folder.predictions("test"))["score"].to_numpy()


def _child(rank, port, store, out):
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), MASTER_PORT=str(port))
    os.environ.update(WORLD_SIZE=str(WORLD_SIZE), LOCAL_WORLD_SIZE=str(WORLD_SIZE))
    os.environ["MASTER_ADDR"] = "127.0.0.1"
    with process_group("cpu") as process:
        found = {}
        for sharding in SHARDINGS:
            for optimizer in ("rowwise_adagrad", "adagrad"):
                found[f"{sharding}_{optimizer}"] = looked_up(process, sharding, optimizer)
        run(run_config(store, out / "whole", 50), process)
        config = run_config(store, out / "stopped", 50)
        config.trainer.max_steps = 3
        run(config, process)
        if process.is_first:
            shutil.copytree(out / "stopped", out / "half")
        config.trainer.max_steps, config.resume = 6, "true"
        run(config, process)
        scores = {name: evaluate(out / name, process) for name in ("whole", "stopped")}
        if process.is_first:
            np.savez(out / "found.npz", **found, **scores)


@pytest.fixture(scope="module")
def results(tiny_store, tmp_path_factory):
    out = tmp_path_factory.mktemp("managed")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    starter.spawn(_child, (port, tiny_store, out), nprocs=WORLD_SIZE)
    with np.load(out / "found.npz") as found:
        return out, dict(found)


@pytest.mark.parametrize("optimizer", ["rowwise_adagrad", "adagrad"])
@pytest.mark.parametrize("sharding", SHARDINGS)
def test_rows_do_not_depend_on_processes_or_sharding(sharding, optimizer, results):
    with process_group("cpu") as process:
        alone = looked_up(process, "table_wise", optimizer)
    assert len(np.unique(alone.round(4).reshape(-1, DIM), axis=0)) > 5 * SLOTS
    np.testing.assert_allclose(results[1][f"{sharding}_{optimizer}"], alone, atol=1e-5)


def test_a_resumed_run_ends_as_one_that_was_not_stopped(results):
    out, found = results
    np.testing.assert_array_equal(found["stopped"], found["whole"])
    losses = [
        [
            line
            for line in (out / name / "metrics.jsonl").read_text().splitlines()
            if '"valid"' in line
        ]
        for name in ("whole", "stopped")
    ]
    assert losses[0][-1].partition("log_loss")[2] == losses[1][-1].partition("log_loss")[2] != ""


def test_one_process_predicts_the_same_of_what_two_have_saved(results):
    out, found = results
    with process_group("cpu") as process:
        np.testing.assert_allclose(evaluate(out / "whole", process), found["whole"], atol=1e-6)


def test_one_process_goes_on_where_two_have_stopped(results, tiny_store):
    """Its steps have as many samples, so that it ends where the two have."""
    out, found = results
    config = run_config(tiny_store, out / "half", batch_size=100)
    config.resume = "true"
    with process_group("cpu") as process:
        run(config, process)
        np.testing.assert_allclose(evaluate(out / "half", process), found["whole"], atol=1e-4)
