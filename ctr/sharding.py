"""How the embedding tables are spread over the processes."""

from __future__ import annotations

from torch import nn
from torchrec.distributed import DistributedModelParallel
from torchrec.distributed.embedding import EmbeddingCollectionSharder
from torchrec.distributed.model_parallel import DefaultDataParallelWrapper
from torchrec.distributed.types import ShardingPlan

from ctr.cluster import own_cluster
from ctr.config import ClusterConfig, EmbeddingConfig
from ctr.distributed import Process, broadcast_first
from ctr.model.embeddings import EmbeddingTables
from ctr.model.replicated import ReplicatedCollection
from ctr.planning import PlanError, make_plan, model_tables


def shard(
    model: nn.Module, process: Process, config: EmbeddingConfig, cluster: ClusterConfig
) -> DistributedModelParallel:
    """Spread the embedding tables over the processes and replicate the rest; on all processes.

    Args:
        model: network whose EmbeddingCollections are to be sharded.
        process: this process.
        config: of the tables; with sharding=[data_parallel] they are parameters like any other,
            whole on every process.
        cluster: the devices, as far as they are not to be asked.

    Raises:
        PlanError: the tables do not fit.
        ConfigError: embedding.table_sharding names no table, or `cluster` is not this job's.
    """
    tables = model_tables(model, config)
    devices = own_cluster(cluster, process)
    if config.sharding == ["data_parallel"]:
        whole = DistributedModelParallel(
            model, device=process.device, plan=ShardingPlan({}), sharders=[]
        )
        _fix_buckets(whole)
        return whole
    found: ShardingPlan | str | None = None
    if process.is_first:
        try:
            found = make_plan(model, tables, devices)
        except PlanError as error:
            found = str(error)
    plan = broadcast_first(found, process)
    if isinstance(plan, str):
        raise PlanError(plan)
    sharded = DistributedModelParallel(
        model,
        device=process.device,
        plan=plan,
        sharders=[EmbeddingCollectionSharder()],
        data_parallel_wrapper=DefaultDataParallelWrapper(params_to_ignore=_replicated(model)),
    )
    _fix_buckets(sharded)
    for module in model.modules():
        if isinstance(module, EmbeddingTables):
            module.start()
    return sharded


def _replicated(model: nn.Module) -> list[str]:
    """Parameters of tables that add up their gradients themselves."""
    return [
        f"{path}.{name}"
        for path, module in model.named_modules()
        if isinstance(module, ReplicatedCollection)
        for name, _ in module.named_parameters()
    ]


def _fix_buckets(model: nn.Module) -> None:
    """Let DDP settle the order of the gradients now, and not anew after a start's first step.

    It decides in which order the gradients of more than two processes are added up, so the first
    step of a resumed run would differ from that of a whole one in its last bits.
    """
    for module in model.modules():
        if isinstance(module, nn.parallel.DistributedDataParallel):
            module.reducer._push_all_rebuilt_params()
            module.reducer._rebuild_buckets()
