"""Tables on two processes: what a constraint on a table changes, its place, and what it must not.

Shape legend: D width of a table.
"""

import json

import pytest
import torch
import torch.distributed as dist
from omegaconf import OmegaConf
from torch import nn

from ctr import checkpoint
from ctr.config import ClusterConfig, ConfigError, EmbeddingConfig, RunConfig
from ctr.distributed import Process
from ctr.model.embeddings import EmbeddingTables, TableShape
from ctr.optim import fuse_sparse_optimizer
from ctr.sharding import shard
from ctr.state import model_tensors, sparse_optimizer_tensors
from ctr.train import run
from tests import starter

SLOPE_D = torch.linspace(-1.0, 2.0, 8)
MIXED = {"user_id": ["data_parallel"], "age": ["data_parallel"]}
PLACES = {"row_wise": {}, "mixed": MIXED}


class Scored(nn.Module):
    """A function of the rows that are asked for whose gradient is another for every row."""

    def __init__(self, config):
        super().__init__()
        torch.manual_seed(0)
        shapes = {"item": TableShape(30, 8), "user_id": TableShape(9, 8), "age": TableShape(5, 4)}
        self.tables = EmbeddingTables(shapes, 0.5, config.replicated)
        self.scale = nn.Parameter(torch.ones(8))

    def forward(self, ids):
        found = self.tables(ids)
        behaviour_D = found["item"].sum(0) * self.scale
        return (behaviour_D * SLOPE_D).sum() + ((found["user_id"] - 1) ** 2 * SLOPE_D).sum()


def built(process, **settings):
    config = EmbeddingConfig(sharding=["row_wise"], lr=0.1, **settings)
    config.validate()
    network = Scored(config)
    fuse_sparse_optimizer(network.tables, config, process.device)
    return shard(network, process, config, ClusterConfig())


def steps(model, rank, first):
    """Losses of three steps; the processes share some rows, and one has an id twice."""
    losses = []
    for step in range(first, first + 3):
        ids = {"item": torch.tensor([1, 2 + rank, step]), "user_id": torch.tensor([rank, 3, 3])}
        loss = model(ids)
        loss.backward()
        losses.append(loss.item())
    return losses


def tensors(model):
    return {**model_tensors(model), **sparse_optimizer_tensors(model)}


def _train_apart(process, out):
    """Rows of losses by optimizer and place; those of `resumed` go on from the other's state."""
    losses = {}
    for optimizer in ("rowwise_adagrad", "adagrad", "sgd"):
        for place, constraints in PLACES.items():
            model = built(process, optimizer=optimizer, table_sharding=constraints)
            losses[f"{optimizer} {place}"] = steps(model, process.rank, 0)
            folder = out / optimizer / place
            writer = checkpoint.Writer(folder, 3, {"step": 3}, 2)
            checkpoint.save(tensors(model), writer, dist.group.WORLD)
            losses[f"{optimizer} {place} after"] = steps(model, process.rank, 3)
        for place, other in (("row_wise", "mixed"), ("mixed", "row_wise")):
            model = built(process, optimizer=optimizer, table_sharding=PLACES[place])
            checkpoint.load(checkpoint.newest(out / optimizer / other), tensors(model))
            losses[f"{optimizer} {place} resumed"] = steps(model, process.rank, 3)
    return losses


def _errors(process):
    """What both processes are told of tables that do not fit, and of a cluster that is another."""
    found = []
    for settings, cluster in (
        ({}, ClusterConfig(host_memory=1e-6)),
        ({}, ClusterConfig(hosts=3)),
        ({"table_sharding": {"user": ["table_wise"]}}, ClusterConfig()),
    ):
        with pytest.raises(ConfigError) as caught:
            shard(Scored(EmbeddingConfig()), process, EmbeddingConfig(**settings), cluster)
        found.append(f"{type(caught.value).__name__}: {caught.value}")
    return found


def _child(rank, meeting, store, out):
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=2)
    process = Process(rank, 2, 2, torch.device("cpu"))
    found = {"losses": _train_apart(process, out), "errors": _errors(process)}
    (out / f"found-{rank}.json").write_text(json.dumps(found))
    for place in ("row_wise", "mixed"):
        config = RunConfig(run=str(out / place))
        config.data.store, config.data.history_length = str(store), 60
        config.data.batch_size = 100
        config.embedding.sharding = ["row_wise"]
        if place == "mixed":
            config.embedding.table_sharding = {
                "user_id": ["table_wise"],
                "category": ["data_parallel"],
            }
        config.trainer.max_steps, config.trainer.log_every = 6, 1
        config.trainer.progress = False
        run(config, process)
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def out(tiny_store, tmp_path_factory):
    out = tmp_path_factory.mktemp("sharding")
    starter.spawn(_child, (out / "meeting", tiny_store, out), nprocs=2)
    return out


@pytest.fixture(scope="module")
def found(out):
    return [json.loads((out / f"found-{rank}.json").read_text()) for rank in (0, 1)]


@pytest.mark.parametrize("optimizer", ["rowwise_adagrad", "adagrad", "sgd"])
def test_a_table_trains_alike_wherever_it_is(optimizer, found):
    for rank in (0, 1):
        losses = found[rank]["losses"]
        first = losses[f"{optimizer} row_wise"]
        assert len({round(loss, 3) for loss in first}) == 3, "nothing was learnt"
        assert losses[f"{optimizer} mixed"] == pytest.approx(first, rel=5e-6)


@pytest.mark.parametrize("optimizer", ["rowwise_adagrad", "adagrad", "sgd"])
def test_a_checkpoint_fits_wherever_a_table_is(optimizer, found):
    for rank in (0, 1):
        losses = found[rank]["losses"]
        after = losses[f"{optimizer} row_wise after"]
        for place in ("row_wise", "mixed"):
            assert losses[f"{optimizer} {place} resumed"] == pytest.approx(after, rel=5e-6)


def test_a_run_with_mixed_constraints_has_the_losses_of_row_wise_tables(out):
    losses = {}
    for place in ("row_wise", "mixed"):
        rows = map(json.loads, (out / place / "metrics.jsonl").read_text().splitlines())
        losses[place] = [row["loss"] for row in rows if row["kind"] == "train"]
    assert len(losses["row_wise"]) == 6
    assert losses["mixed"] == pytest.approx(losses["row_wise"], abs=1e-6)
    config = OmegaConf.load(out / "mixed" / "config.yaml")
    assert config.embedding.table_sharding.category == ["data_parallel"]


def test_all_processes_are_told_why_there_is_no_plan(found):
    assert found[0]["errors"] == found[1]["errors"]
    misfit, cluster, table = found[0]["errors"]
    # 30 rows of 8 numbers and one of Adagrad's; 85% of half a host of 1,000 bytes.
    assert misfit == (
        "PlanError: table item (30 x 8, 1,080 bytes to train) does not fit: row_wise puts 540 "
        "bytes on one of 2 devices, which has 425 for it: 115 bytes are missing; 4 such devices "
        "would do"
    )
    assert "cluster.hosts=3: this job has 1" in cluster
    assert "embedding.table_sharding.user: no such embedding table; did you mean user_id?" in table
