"""MAKE in two runs: a tower is pre-trained, and the ID model takes it over."""

import copy
import json
import shutil

import pytest
import torch
import torch.distributed as dist

from ctr.checkpoint import CheckpointError
from ctr.config import ConfigError, RunConfig
from ctr.distributed import Process, process_group
from ctr.run_folder import RunFolder
from ctr.train import run
from tests import starter
from tests.ctr.saved import assert_same, tensors_of

TOWER = "model.content."


@pytest.fixture(scope="module")
def pretraining(tiny_store, tmp_path_factory):
    """Two steps of 100 samples of a tower alone; not run yet."""
    config = RunConfig()
    config.data.store = str(tiny_store)
    config.data.history_length, config.data.batch_size = 60, 100
    config.trainer.max_steps, config.trainer.lr = 2, 0.01
    config.trainer.progress = False
    model = config.model
    model.recent_length, model.retrieved = 10, 12
    model.recent_attention = model.retrieved_attention = model.means = []
    model.simtier, model.head = "none", "content"
    model.content_tower, model.content_tower_dim = [8, 4], 6
    model.activation = "prelu"
    config.run = str(tmp_path_factory.mktemp("runs") / "make")
    config.validate()
    return config


@pytest.fixture(scope="module")
def pretrained(pretraining):
    """The same, run; nobody changes it."""
    with process_group("cpu") as process:
        run(pretraining, process)
    return pretraining


@pytest.fixture
def joined(pretraining, tmp_path):
    """As many steps of a model with that tower."""
    config = copy.deepcopy(pretraining)
    config.model.recent_attention, config.model.head = ["target"], "tower"
    config.model.hidden = [16]
    config.model.content_tower_run = pretraining.run
    config.run = str(tmp_path / "joined")
    config.validate()
    return config


def tower_of(config, step):
    return {n: t for n, t in tensors_of(config, step).items() if n.startswith(TOWER)}


def copied(config, path):
    """The configuration of the same run in another folder."""
    other = copy.deepcopy(config)
    other.run = str(path)
    return other


def test_an_open_tower_begins_as_the_pre_trained_one_and_learns(
    pretrained, joined, process, tmp_path
):
    run(joined, process)
    trained, known = tower_of(joined, 2), tower_of(pretrained, 2)
    assert all(not torch.equal(trained[name], tensor) for name, tensor in known.items())
    # So slow that it stays where it began, but for rounding.
    slow = copied(joined, tmp_path / "slow")
    slow.trainer.lr, slow.trainer.weight_decay = 1e-12, 0.0
    run(slow, process)
    torch.testing.assert_close(tower_of(slow, 2), known, atol=1e-9, rtol=0)


def test_a_run_stopped_before_its_first_checkpoint_takes_over_again(pretrained, joined, process):
    joined.model.content_tower_frozen = True
    folder = RunFolder(joined.run_path)
    run(joined, process)
    shutil.rmtree(folder.checkpoints)
    joined.resume = "true"
    run(joined, process)
    assert_same(tower_of(joined, 2), tower_of(pretrained, 2))


def test_the_best_checkpoint_is_taken_where_one_was_kept(
    pretraining, joined, process, monkeypatch, tmp_path
):
    values = iter([0.8, 0.7, 0.6])
    monkeypatch.setattr("ctr.parts.make_validation", lambda *rest: lambda: {"auc": next(values)})
    longer = copied(pretraining, tmp_path / "make")
    longer.data.valid_split, longer.trainer.keep_best = "test", "auc"
    longer.trainer.epochs, longer.trainer.max_steps = 2, None
    longer.data.batch_size = 1000
    steps = run(longer, process)["steps"]
    joined.model.content_tower_run, joined.model.content_tower_frozen = longer.run, True
    run(joined, process)
    best, last = tower_of(longer, steps // 2), tower_of(longer, steps)
    assert_same(tower_of(joined, 2), best)
    assert not torch.equal(best[f"{TOWER}logit.bias"], last[f"{TOWER}logit.bias"])


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"content_tower": [8, 5]}, r"model\.content_tower=\[8, 5\].*trained with \[8, 4\]"),
        ({"content_tower_dim": 7}, r"model\.content_tower_dim=7.*trained with 6"),
        ({"activation": "dice"}, r"model\.activation=dice.*trained with prelu"),
        ({"content_tower_on": "recent"}, r"model\.content_tower_on=recent.*with retrieved"),
        ({"gsu": "category"}, r"model\.gsu=category.*trained with cosine"),
        ({"retrieved": 9}, r"model\.retrieved=9.*trained with 12"),
    ],
)
def test_another_tower_is_refused_by_the_key(change, named, pretrained, joined, process):
    for key, value in change.items():
        setattr(joined.model, key, value)
    with pytest.raises(ConfigError, match=named):
        run(joined, process)
    assert not joined.run_path.exists()


def test_a_run_that_cannot_be_taken_over_is_named(pretrained, joined, process, tmp_path):
    joined.model.content_tower_run = str(tmp_path / "make")
    with pytest.raises(ConfigError, match=r"model\.content_tower_run=.*no run there.*model=make"):
        run(joined, process)
    folder = RunFolder(shutil.copytree(pretrained.run, tmp_path / "make"))
    shutil.rmtree(folder.checkpoints)
    with pytest.raises(CheckpointError, match="no complete checkpoint"):
        run(joined, process)
    stored = json.loads(folder.environment.read_text())
    folder.environment.write_text(json.dumps({**stored, "store_digest": "other"}))
    with pytest.raises(ConfigError, match=r"model\.content_tower_run=.*another store"):
        run(joined, process)
    assert not joined.run_path.exists()


def _train(rank, meeting, first, last):
    """The runs `first`, one after another; then `last`, which must do without the first of them."""
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=2)
    torch.set_num_threads(1)
    process = Process(rank, 2, 2, torch.device("cpu"))
    for config in first:
        run(config, process)
    dist.barrier()
    if process.is_first:
        shutil.move(first[0].run, f"{first[0].run}.away")
    dist.barrier()
    run(last, process)
    dist.destroy_process_group()


def test_a_frozen_tower_never_changes_and_a_resumed_run_brings_its_own(
    pretraining, joined, tmp_path
):
    """On two processes: pre-trained, joined in one go, and joined in two."""
    make = copied(pretraining, tmp_path / "make")
    joined.model.content_tower_run, joined.model.content_tower_frozen = make.run, True
    joined.trainer.max_steps = 4
    whole, stopped = copied(joined, tmp_path / "whole"), copied(joined, joined.run)
    stopped.trainer.max_steps, joined.resume = 2, "true"
    starter.spawn(_train, (tmp_path / "meeting", [make, whole, stopped], joined), nprocs=2)
    with process_group("cpu"):
        found = tensors_of(joined, 4)
        assert_same(found, tensors_of(whole, 4))
        tower = {name: tensor for name, tensor in found.items() if name.startswith(TOWER)}
        assert_same(tower, tower_of(copied(make, f"{make.run}.away"), 2))
    assert any(name.startswith("dense_optimizer.head.") for name in found)
    assert not any(name.startswith("dense_optimizer.content.") for name in found)
