"""A small prepared world, and an open store of it, shared by all tests of ctr."""

from pathlib import Path

import pytest
import torch

from ctr.config import RunConfig
from ctr.data.loader import Loader
from ctr.data.store import Store
from ctr.model.catalog import ItemCatalog
from datasets import world


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
def batch(store):
    loader = Loader(store, store.split("train"), batch_size=200, history_length=60, seed=3)
    return next(iter(loader))
