"""Small prepared worlds, an open store and a process group, shared by all tests of ctr."""

import shutil
from pathlib import Path

import polars as pl
import pytest
import torch

import ctr.step
from ctr.config import RunConfig
from ctr.data.loader import Loader
from ctr.data.store import Store
from ctr.distributed import process_group
from ctr.model.catalog import ItemCatalog
from datasets import increment, taobao_mm, world

# Behaviours that some users had on the first of two days.
CUT = 11


@pytest.fixture(scope="session")
def repository() -> Path:
    return Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def make_world(tmp_path_factory):
    """Prepares a world of the given sizes in a folder of its own; keeps the raw tables in `raw`."""

    def make(*, raw: Path | None = None, **sizes) -> Path:
        path = tmp_path_factory.mktemp("stores") / "world"
        world.make_world(path, world.WorldSize(**sizes), raw=raw)
        return path

    return make


@pytest.fixture(scope="session")
def tiny_store(make_world) -> Path:
    return make_world(users=150, history_length=80, items=1500, categories=20, seed=1)


@pytest.fixture(scope="session")
def days(make_world, tmp_path_factory):
    """A store of a day, one that goes on from it, and a full preparation of the second day alone.

    They are day0, day1 and full. On the first day a third of the users is not there yet, and
    another third has seen less.
    """
    folder = tmp_path_factory.mktemp("days")
    make_world(users=60, history_length=40, items=300, categories=6, seed=4, raw=folder / "raw1")
    shutil.copytree(folder / "raw1", folder / "raw0")
    raw = taobao_mm.RAW
    user, lists = raw["user_id"], (raw["history_item"], raw["history_category"])
    for name in taobao_mm.TABLES:
        frame = pl.read_parquet(folder / "raw0" / f"{name}.parquet")
        if user in frame.columns:
            frame = frame.filter(pl.col(user) % 3 != 0)
        if lists[0] in frame.columns:
            shorter = [
                pl.when(pl.col(user) % 3 == 1).then(pl.col(n).list.head(CUT)).otherwise(n)
                for n in lists
            ]
            frame = frame.with_columns(shorter)
        # In groups, as the published files are.
        frame.write_parquet(folder / "raw0" / f"{name}.parquet")
    options = taobao_mm.Options()
    taobao_mm.prepare_tree(folder / "raw0", folder / "day0", options, name="world")
    taobao_mm.prepare_tree(folder / "raw1", folder / "full", options, name="world")
    arguments = ["--store", folder / "day0", "--source", folder / "raw1", "--out", folder / "day1"]
    assert increment.main([str(word) for word in arguments]) == 0
    return folder


@pytest.fixture
def process():
    with process_group("cpu") as process:
        yield process


@pytest.fixture
def store(tiny_store) -> Store:
    return Store(tiny_store)


@pytest.fixture
def catalog(store) -> ItemCatalog:
    return ItemCatalog(
        {name: torch.from_numpy(column) for name, column in store.item_features.items()},
        torch.from_numpy(store.vectors),
        torch.from_numpy(store.vector_inv_norm),
    )


@pytest.fixture
def config(tiny_store) -> RunConfig:
    config = RunConfig()
    config.data.store = str(tiny_store)
    config.data.history_length = 60
    config.model.recent_length = 10
    config.model.retrieved = 12
    return config


@pytest.fixture
def short_run(config, tmp_path):
    """A few steps of 100 samples with a checkpoint every second one, in a run folder of its own."""
    config.data.batch_size = 100
    config.trainer.max_steps = 6
    config.trainer.log_every = 4
    config.trainer.checkpoint_every = 2
    config.trainer.progress = False
    config.model.hidden = [16]
    config.run = str(tmp_path / "run")
    return config


@pytest.fixture
def loss_at(monkeypatch):
    """Changes the loss of one step: `loss_at(3, change)` calls `change(loss, logits)`."""

    def install(step, change):
        calls = []

        def changed(logit_B, *rest):
            calls.append(1)
            loss = original(logit_B, *rest)
            return change(loss, logit_B) if len(calls) == step else loss

        monkeypatch.setattr(ctr.step, "click_loss", changed)

    original = ctr.step.click_loss
    return install


@pytest.fixture
def batch(store):
    loader = Loader(store, store.split("train"), batch_size=200, history_length=60, seed=3)
    return next(iter(loader))
