"""A run that begins where another one ended, and a run that reads a store of a later day.

Shape legend: D width of a table.
"""

import copy
import dataclasses
import shutil

import pytest
import torch
import torch.distributed as dist
from torch import nn

import ctr.train
from ctr import checkpoint
from ctr.checkpoint import CheckpointError
from ctr.config import ClusterConfig, ConfigError, EmbeddingConfig, TrainerConfig
from ctr.data.store import Store
from ctr.distributed import Process
from ctr.evaluate import EvaluateConfig, run_evaluation
from ctr.inference import chosen_checkpoint, load_model, predict, reading_config
from ctr.model.embeddings import EmbeddingTables, TableShape
from ctr.optim import dense_optimizer, dense_parameters, fuse_sparse_optimizer
from ctr.parts import make_loader, make_parts
from ctr.pretrained import take_over
from ctr.run_folder import RunFolder
from ctr.sharding import shard
from ctr.state import dense_optimizer_tensors, model_tensors, sparse_optimizer_tensors
from tests import starter
from tests.ctr.saved import assert_same, tensors_in, tensors_of

# From here on TorchRec cuts columns in two.
WIDE = 256
KINDS = {
    "row_wise": {"sharding": ["row_wise"]},
    "table_wise": {"sharding": ["table_wise"]},
    # Rows of a row-wise state are there once for each part of the columns.
    "column_wise": {"sharding": ["column_wise"]},
    "adagrad": {"sharding": ["column_wise"], "optimizer": "adagrad"},
    "replicated": {"sharding": ["row_wise"], "table_sharding": {"item": ["data_parallel"]}},
    "dense": {"sharding": ["data_parallel"], "optimizer": "dense_adam"},
}
THEN = {"item": 10, "user_id": 7, "age": 3}
# On two processes the second one has new rows of `item` alone, and the first one has some, too.
NOW = {"item": 31, "user_id": 8, "age": 3}


class Tables(nn.Module):
    """The sum of all embeddings that are asked for."""

    def __init__(self, rows, config):
        super().__init__()
        torch.manual_seed(sum(rows.values()))
        dims = {"item": WIDE, "user_id": WIDE, "age": 4}
        shapes = {name: TableShape(rows[name], dim) for name, dim in dims.items()}
        self.tables = EmbeddingTables(shapes, 0.5, config.replicated)
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, ids):
        found = self.tables(ids)
        return sum((embedding**2).sum() for embedding in found.values()) * self.scale


def built(process, rows, config):
    """A sharded model, and its tensors with those of its optimizers."""
    network = Tables(rows, config)
    fuse_sparse_optimizer(network.tables, config, process.device)
    model = shard(network, process, config, ClusterConfig())
    tables = network.tables.parameters()
    optimizer = dense_optimizer(model, tables, TrainerConfig(), config)

    def tensors():
        return {
            **model_tensors(model),
            **sparse_optimizer_tensors(model),
            **dense_optimizer_tensors(optimizer, dense_parameters(model)),
        }

    return model, optimizer, tensors


def _grow(rank, meeting, out):
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=2)
    process = Process(rank, 2, 2, torch.device("cpu"))

    def save(tensors, folder):
        writer = checkpoint.Writer(out / folder, 1, {"step": 1}, 1)
        checkpoint.save(tensors, writer, dist.group.WORLD)

    for kind, settings in KINDS.items():
        config = EmbeddingConfig(lr=0.1, **settings)
        config.validate()
        model, optimizer, tensors = built(process, THEN, config)
        model({name: torch.arange(rank, rows) for name, rows in THEN.items()}).backward()
        optimizer.step()
        save(tensors(), f"{kind}/then")
        model, _, tensors = built(process, NOW, config)
        save(tensors(), f"{kind}/fresh")
        found = checkpoint.newest(out / kind / "then")
        grown = checkpoint.load(found, tensors(), may_have_grown=True)
        assert {name: tuple(growth) for name, growth in grown.items()} == {
            "item": (10, 31),
            "user_id": (7, 8),
        }
        save(tensors(), f"{kind}/now")
        with pytest.raises(CheckpointError, match=r"\.weight is .*this model needs"):
            checkpoint.load(found, tensors())
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    out = tmp_path_factory.mktemp("grown")
    starter.spawn(_grow, (out / "meeting", out), nprocs=2)
    return out


@pytest.mark.parametrize("kind", KINDS)
def test_rows_that_were_there_are_taken_over_and_the_others_stay(kind, out):
    then, fresh, now = (
        tensors_in(out / kind / which / "step-000000001") for which in ("then", "fresh", "now")
    )
    assert then.keys() == fresh.keys() == now.keys()
    grown = []
    for name, before in then.items():
        if before.shape == now[name].shape:
            assert torch.equal(now[name], before), name
            continue
        table = next(table for table in THEN if f".{table}." in name)
        # The copies of a row-wise state, one for each part of the columns, one after another.
        copies = len(before) // THEN[table]
        grown.append(copies)
        before, after, start = (
            tensors[name].reshape(copies, rows[table], *before.shape[1:])
            for tensors, rows in ((then, THEN), (now, NOW), (fresh, NOW))
        )
        assert before.any(), name
        assert torch.equal(after[:, : THEN[table]], before), name
        assert torch.equal(after[:, THEN[table] :], start[:, THEN[table] :]), name
    # Weight and momentum, or both moments, of the two tables that have grown.
    assert len(grown) == (6 if kind == "dense" else 4)
    assert max(grown) == (2 if kind == "column_wise" else 1)


@pytest.fixture
def first(config, days, tmp_path):
    """Three steps on the first day; not run yet."""
    config.data.store = str(days / "day0")
    config.data.batch_size, config.data.history_length = 50, 30
    config.model.hidden = [16]
    config.trainer.max_steps, config.trainer.progress = 3, False
    config.run = str(tmp_path / "first")
    return config


@pytest.fixture
def second(first, days, tmp_path):
    """Two steps on the second day that begin with what the first day's run has learnt."""
    config = copy.deepcopy(first)
    config.data.store, config.data.train_split = str(days / "day1"), "train_1"
    config.start_from = first.run
    config.trainer.max_steps = 2
    config.run = str(tmp_path / "second")
    config.validate()
    return config


def test_a_run_begins_with_weights_and_states_of_another(first, second, process):
    ctr.train.run(first, process)
    store = Store(second.data.store)
    parts = make_parts(second, store, process)
    take_over(parts, second, store.schema, process)
    learnt, grown = tensors_of(first, 3), set()
    for name, tensor in parts.tensors().items():
        if hasattr(tensor, "local_shards"):
            tensor = tensor.local_shards()[0].tensor
        known = learnt[name]
        if tensor.shape != known.shape:
            grown.add(name.split(".")[-1])
            tensor = tensor[: len(known)]
        assert torch.equal(tensor, known), name
    assert grown == {"weight", "momentum1"}
    assert any(name.endswith("exp_avg") and tensor.any() for name, tensor in learnt.items())


def test_a_run_that_was_started_so_is_resumed_without_the_other(first, second, process):
    ctr.train.run(first, process)
    whole = copy.deepcopy(second)
    whole.run, whole.trainer.max_steps = f"{second.run}.whole", 4
    ctr.train.run(whole, process)
    ctr.train.run(second, process)
    shutil.rmtree(first.run)
    second.resume, second.trainer.max_steps = "true", 4
    ctr.train.run(second, process)
    assert_same(
        {n: t for n, t in tensors_of(second, 4).items() if not n.startswith("random")},
        {n: t for n, t in tensors_of(whole, 4).items() if not n.startswith("random")},
    )


def test_a_run_reads_a_later_store_and_knows_no_new_ids(first, days, process):
    ctr.train.run(first, process)
    folder = RunFolder(first.run_path)
    metrics = {}
    for day, split in (("day0", "test"), ("day1", "test")):
        config = reading_config(folder, str(days / day), None, "cpu")
        wanted = EvaluateConfig(run=first.run, split=split, progress=False)
        metrics[day] = run_evaluation(folder, config, wanted, process)
    # The samples of the first day are in both stores, and know nothing of the second.
    assert metrics["day0"] == metrics["day1"]
    config = reading_config(folder, str(days / "day1"), None, "cpu")
    store = Store(config.data.store)
    split = store.split("test_1")
    known = store.schema.table_rows["item"]
    before = Store(days / "day0").schema.table_rows["item"]
    assert before < known
    assert (split.item >= before).any()
    taken = chosen_checkpoint(folder, process, "newest")

    def scores(model):
        loader = make_loader(store, split, config, process, shuffle=False)
        return torch.from_numpy(predict(model, loader, process)["score"])

    model = load_model(taken, store, config, process)
    ours = scores(model)
    # The same by hand: every new row holds what row 0 does.
    tables = model.module.tables
    then, tables.trained_rows = tables.trained_rows, {}
    assert then["item"] == before
    assert not torch.equal(scores(model), ours)
    weights = model_tensors(model)
    for table, rows in then.items():
        name = next(n for n in weights if n.endswith(f".embeddings.{table}.weight"))
        weight_ND = weights[name].local_shards()[0].tensor.detach()
        weight_ND[rows:] = weight_ND[0]
    assert torch.equal(scores(model), ours)


def set_store(config, day, split):
    config.data.store = config.data.store.replace("day1", day)
    config.data.train_split = split


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda c: setattr(c, "start_from", "/nowhere"), ConfigError, "no run there"),
        (
            lambda c: setattr(c.embedding, "optimizer", "sgd"),
            ConfigError,
            r"embedding\.optimizer=sgd: .* was trained with rowwise_adagrad",
        ),
        (
            lambda c: setattr(c.model, "hidden", [8]),
            CheckpointError,
            "it belongs to another configuration or store",
        ),
        (
            lambda c: set_store(c, "full", "train"),
            ConfigError,
            "start_from=.*trained on another store.*or to one that goes on from it",
        ),
    ],
)
def test_what_does_not_fit_is_refused_before_a_folder_is_made(
    change, error, message, first, second, process
):
    ctr.train.run(first, process)
    change(second)
    with pytest.raises(error, match=message):
        ctr.train.run(second, process)
    assert not RunFolder(second.run_path).config.exists()


def test_a_run_is_not_resumed_from_another_beginning(first, second, process):
    with pytest.raises(ConfigError, match="start_from: differ"):
        ctr.run_folder.check_resumable(
            first, dataclasses.replace(first, start_from=second.start_from)
        )


def test_adam_without_its_step_count_is_no_beginning(second):
    second.embedding.optimizer = "adam"
    with pytest.raises(ConfigError, match=r"start_from=.*step count"):
        second.validate()
