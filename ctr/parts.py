"""Store and configuration -> what a Trainer drives."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from ctr.assemble import make_loader, make_model, make_network, make_pipeline
from ctr.config import RunConfig
from ctr.data.store import Store
from ctr.distributed import Process
from ctr.inference import predict
from ctr.metrics import evaluate_predictions
from ctr.model.network import Network
from ctr.optim import dense_optimizer, dense_parameters, fuse_sparse_optimizer
from ctr.stages import Stages
from ctr.step import Parts


def make_parts(
    config: RunConfig, store: Store, process: Process, stages: Stages | None = None
) -> Parts:
    """Model, optimizers and loader of a new run; called on all processes.

    Args:
        config: of the run; store: of its data; process: this one.
        stages: told what runs; None for nobody.

    Raises:
        StoreError: the store lacks something that the model needs.
        ConfigError: settings that do not fit each other, the store or the device.
    """
    split = store.split(config.data.train_split)
    network = make_network(store, config, process)
    fuse_sparse_optimizer(network.tables, config.embedding, process.device)
    costs = _costs(network)
    model = make_model(network, config, process)
    if config.trainer.compile:
        network.compile_dense()
    tables = network.tables.parameters()
    return Parts(
        model=model,
        loader=make_loader(store, split, config, process, shuffle=config.data.shuffle),
        pipeline=make_pipeline(network, config, process, stages),
        optimizer=dense_optimizer(model, tables, config.trainer, config.embedding),
        dense=dense_parameters(model),
        validate=make_validation(config, store, model, process),
        costs=costs,
    )


def make_validation(
    config: RunConfig, store: Store, model: nn.Module, process: Process
) -> Callable[[], dict[str, float]] | None:
    """A function that evaluates the validation split, or None where there is none."""
    if config.data.valid_split is None:
        return None
    split = store.split(config.data.valid_split)
    loader = make_loader(store, split, config, process, shuffle=False)

    def validate() -> dict[str, float]:
        found = predict(model, loader, process)
        if found is None:
            return {}
        return evaluate_predictions(found["label"], found["score"], found["user"]).as_dict()

    return validate


def _costs(network: Network) -> Callable[[], dict[str, float]]:
    """What the network costs, as `Parts.costs`; called before its tables are spread out.

    Of a sharded network a process sees the parameters of its own shards only.
    """
    whole = network.costs()
    return lambda: {**whole, "search_seconds": network.costs()["search_seconds"]}
