"""Store and configuration -> loaders and sharded model: what training and evaluation share."""

from __future__ import annotations

import torch
from torchrec.distributed import DistributedModelParallel

from ctr.config import RunConfig
from ctr.config.checks import require
from ctr.data.loader import Loader, Shard
from ctr.data.store import Split, Store
from ctr.distributed import Process
from ctr.model.build import build_network
from ctr.model.catalog import ItemCatalog
from ctr.model.network import Network
from ctr.pipeline import Pipeline
from ctr.sharding import shard
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
    """Network whose tables `make_model` shards, with the same weights on every process.

    Raises:
        StoreError: the store lacks something that the model needs.
        ConfigError: two settings that do not fit each other, or data.vectors does not fit the
            device.
    """
    torch.manual_seed(config.seed)
    whole = ItemCatalog(
        {name: torch.from_numpy(column) for name, column in store.item_features.items()},
        None if store.vectors is None else torch.from_numpy(store.vectors),
        None if store.vector_inv_norm is None else torch.from_numpy(store.vector_inv_norm),
    )
    catalog = _placed(whole, config.data.vectors, process)
    sharded = config.embedding.sharding != ["data_parallel"]
    return build_network(store.schema, catalog, config.model, config.embedding, sharded=sharded)


def _placed(catalog: ItemCatalog, vectors: str, process: Process) -> ItemCatalog:
    """What is known of items, with the vectors where `data.vectors` says."""
    on_gpu = process.device.type == "cuda"
    require(
        vectors != "pinned" or on_gpu,
        "data.vectors",
        vectors,
        "there is no GPU; set replicated (the store's memory map, not copied) or sharded",
    )
    if not catalog.has_vectors:
        return catalog.to(process.device)
    if vectors == "pinned":
        return catalog.pinned(process.device)
    # One process owns all rows: what would be cut is left where it is.
    if vectors == "sharded" and process.world_size > 1:
        return catalog.sharded(process.device)
    return catalog.to(process.device)


def make_model(network: Network, config: RunConfig, process: Process) -> DistributedModelParallel:
    """The network with its tables sharded and the rest replicated."""
    return shard(network, process, config.embedding, config.cluster)


def make_pipeline(
    network: Network, config: RunConfig, process: Process, stages: Stages | None = None
) -> Pipeline:
    """What takes batches to the network, which is sharded by now; tells `stages` what runs."""
    wanted = config.trainer.pipeline
    ahead = wanted == "true" or (wanted == "auto" and process.device.type == "cuda")
    return Pipeline(network, process.device, ahead, stages)
