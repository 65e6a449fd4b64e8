"""Store and configuration -> loaders and sharded model: what training and evaluation share."""

from __future__ import annotations

import torch
from torchrec.distributed import DistributedModelParallel

from ctr.config import RunConfig
from ctr.data.loader import Loader, Shard
from ctr.data.store import Split, Store
from ctr.distributed import Process, shard
from ctr.model.build import build_network
from ctr.model.catalog import ItemCatalog
from ctr.model.network import Network
from ctr.pipeline import Pipeline
from ctr.stages import Stages


def make_loader(
    store: Store, split: Split, config: RunConfig, process: Process, *, shuffle: bool
) -> Loader:
    """Loader of this process's part of a split."""
    data = config.data
    return Loader(
        store,
        split,
        batch_size=data.batch_size,
        history_length=data.history_length,
        shard=Shard(process.rank, process.world_size),
        seed=config.seed if shuffle else None,
        workers=data.workers,
        prefetch=data.prefetch,
        pin_memory=process.device.type == "cuda",
    )


def make_network(store: Store, config: RunConfig, process: Process) -> Network:
    """Unsharded network, with the same weights on every process.

    Raises:
        StoreError: the store lacks something that the model needs.
    """
    torch.manual_seed(config.seed)
    catalog = ItemCatalog(
        {name: torch.from_numpy(column) for name, column in store.item_features.items()},
        None if store.vectors is None else torch.from_numpy(store.vectors),
        None if store.vector_inv_norm is None else torch.from_numpy(store.vector_inv_norm),
    )
    return build_network(store.schema, catalog.to(process.device), config.model, config.embedding)


def make_model(network: Network, config: RunConfig, process: Process) -> DistributedModelParallel:
    """The network with its tables sharded and the rest replicated."""
    return shard(network, process, config.embedding.sharding)


def make_pipeline(
    network: Network, config: RunConfig, process: Process, stages: Stages | None = None
) -> Pipeline:
    """What takes batches to the network, which is sharded by now; tells `stages` what runs."""
    wanted = config.trainer.pipeline
    ahead = wanted == "true" or (wanted == "auto" and process.device.type == "cuda")
    return Pipeline(network, process.device, ahead, stages)
