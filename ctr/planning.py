"""Which device holds which part of which table: TorchRec's planner, and why it finds no plan."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from torch import nn
from torchrec import EmbeddingCollection
from torchrec.distributed.embedding import EmbeddingCollectionSharder
from torchrec.distributed.planner import EmbeddingShardingPlanner, ParameterConstraints
from torchrec.distributed.planner.constants import BATCH_SIZE
from torchrec.distributed.planner.enumerators import EmbeddingEnumerator
from torchrec.distributed.planner.storage_reservations import FixedPercentageStorageReservation
from torchrec.distributed.planner.types import PlannerError, ShardingOption, Storage
from torchrec.distributed.types import ShardingPlan

from ctr.cluster import Cluster
from ctr.config import ConfigError, EmbeddingConfig
from ctr.table_memory import Table, tables_of

# Beyond it a search for enough devices gives up.
_MOST_DEVICES = 1 << 16


class PlanError(ConfigError):
    """Tables that do not fit; says which, how many bytes are missing and what to set instead."""


def embedding_collections(model: nn.Module) -> list[EmbeddingCollection]:
    """The collections of unsharded embedding tables, replicated ones included."""
    return [module for module in model.modules() if isinstance(module, EmbeddingCollection)]


def sharding_types(names: list[str], config: EmbeddingConfig) -> dict[str, list[str]]:
    """Sharding types that the planner may choose from, by table.

    Args:
        names: of all tables.

    Raises:
        ConfigError: embedding.table_sharding names a table that is not there.
    """
    for name in config.table_sharding:
        if name not in names:
            near = difflib.get_close_matches(name, names, n=1)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(sorted(names))}"
            raise ConfigError(f"embedding.table_sharding.{name}: no such embedding table; {hint}")
    return {name: config.table_sharding.get(name, config.sharding) for name in names}


def model_tables(model: nn.Module, config: EmbeddingConfig) -> list[Table]:
    """The tables of an unsharded model, the largest first.

    Raises:
        ConfigError: embedding.table_sharding names a table that is not there.
    """
    found = [c for module in embedding_collections(model) for c in module.embedding_configs()]
    return tables_of(found, config, sharding_types([c.name for c in found], config))


def make_plan(model: nn.Module, tables: list[Table], cluster: Cluster) -> ShardingPlan:
    """A plan for the tables that are not replicated, by TorchRec's planner.

    Args:
        model: unsharded; its tables may be on the meta device.
        tables: of `model_tables`.
        cluster: where the plan is for.

    Raises:
        PlanError: the tables do not fit.
    """
    try:
        return _planned(model, tables, cluster)
    except PlannerError:
        pass
    raise PlanError(_misfit(tables, cluster, lambda some, n: fits(model, some, cluster.of(n))))


def fits(model: nn.Module, tables: list[Table], cluster: Cluster) -> bool:
    """Whether there is a plan; arguments of `make_plan`."""
    whole = sum(table.whole().total for table in tables if table.replicated)
    room = cluster.usable - whole
    rest = [table for table in tables if not table.replicated]
    # Two sums spare the planner thousands of devices on which there is none.
    if sum(table.whole().total for table in rest) > room * cluster.devices:
        return False
    if any(table.least(cluster.devices)[1] > room for table in rest):
        return False
    try:
        _planned(model, tables, cluster)
    except PlannerError:
        return False
    return True


def enough_devices(enough: Callable[[int], bool], per_host: int) -> int | None:
    """The smallest number of devices that will do: of one host, or of whole hosts.

    Args:
        enough: whether so many devices will do; per_host: devices of a host.

    Returns:
        None where no number does.
    """
    for devices in range(1, per_host + 1):
        if enough(devices):
            return devices
    low, high = 1, 2
    while not enough(high * per_host):
        low, high = high, 2 * high
        if high * per_host > _MOST_DEVICES:
            return None
    while high - low > 1:
        middle = (low + high) // 2
        if enough(middle * per_host):
            high = middle
        else:
            low = middle
    return high * per_host


class _Enumerator(EmbeddingEnumerator):
    """TorchRec's, with the bytes of `Table`.

    TorchRec takes the optimizer from what is fused into a parameter, which a table that is only
    planned does not have, and counts its states in the type of the weights.
    """

    def __init__(self, tables: list[Table], cluster: Cluster, constraints: Any) -> None:
        self.tables = {table.name: table for table in tables}
        self.on_gpu = cluster.device_type == "cuda"
        super().__init__(cluster.topology(), BATCH_SIZE, constraints)

    def populate_estimates(self, sharding_options: list[ShardingOption]) -> None:
        super().populate_estimates(sharding_options)
        for option in sharding_options:
            for shard in option.shards:
                total = self.tables[option.name].shard(*shard.size).total
                shard.storage = Storage(total if self.on_gpu else 0, 0 if self.on_gpu else total)


def _planned(model: nn.Module, tables: list[Table], cluster: Cluster) -> ShardingPlan:
    whole = sum(table.whole().total for table in tables if table.replicated)
    if whole > cluster.usable:
        raise PlannerError("replicated tables")
    rest = cluster.without(whole)
    constraints = {
        table.name: ParameterConstraints(
            # With one device a table is whole whatever its type, and row-wise would still pay for
            # sorting the ids into blocks.
            sharding_types=list(table.types) if cluster.devices > 1 else ["table_wise"],
            # In the device's own memory: nothing moves to the host without a word.
            compute_kernels=["fused"],
        )
        for table in tables
        if not table.replicated
    }
    planner = EmbeddingShardingPlanner(
        topology=rest.topology(),
        constraints=constraints,
        enumerator=_Enumerator(tables, rest, constraints),
        # What is reserved is no longer part of the topology.
        storage_reservation=FixedPercentageStorageReservation(0.0),
        stats=[],
        debug=False,
    )
    return planner.plan(model, [EmbeddingCollectionSharder()])


# Whether such tables fit on so many devices.
_Enough = Callable[[list[Table], int], bool]


def _misfit(tables: list[Table], cluster: Cluster, enough: _Enough) -> str:
    """What is missing where, and what to set instead."""
    whole = sum(table.whole().total for table in tables if table.replicated)
    room = cluster.usable
    if whole > room:
        table = next(table for table in tables if table.replicated)
        return (
            f"{_named(table)} is data_parallel, so that every device holds it whole: with its "
            f"likes {whole:,} bytes of the {room:,} that a device has for tables, {whole - room:,} "
            f"too few; spread it out with +embedding.table_sharding.{table.name}=[row_wise]"
        )
    room -= whole
    sharded = [table for table in tables if not table.replicated]
    needs = {table.name: table.least(cluster.devices) for table in sharded}
    # The largest first, so that of equals it is the one that is named.
    table = max(sharded, key=lambda table: needs[table.name][1])
    kind, need = needs[table.name]
    if need > room:
        text = (
            f"{_named(table)} does not fit: {kind} puts {need:,} bytes on one of "
            f"{cluster.devices} devices, which has {room:,} for it: {need - room:,} bytes are "
            "missing"
        )
    else:
        total = sum(table.whole().total for table in sharded)
        missing = total - room * cluster.devices
        text = (
            f"{len(sharded)} embedding tables of {total:,} bytes do not fit on {cluster.devices} "
            f"devices of {room:,}, the largest of them {_named(table)}: "
        )
        text += (
            f"{missing:,} bytes are missing"
            if missing > 0
            else "the sum would, but not in the pieces that their sharding types allow"
        )
    return f"{text}; {_remedy(table, tables, cluster, enough)}"


def _remedy(table: Table, tables: list[Table], cluster: Cluster, enough: _Enough) -> str:
    """What to set: a constraint to relax where there is one, and how many devices will do."""
    found = enough_devices(lambda n: enough(tables, n), cluster.devices_per_host)
    will_do = f"{found} such devices would do" if found else "no number of such devices will do"
    if "row_wise" in table.types:
        return will_do
    relaxed = [replace(t, types=("row_wise",)) if t is table else t for t in tables]
    found = enough_devices(lambda n: enough(relaxed, n), cluster.devices_per_host)
    after = f", with which {found} would" if found else ""
    return (
        f"it may only be {' or '.join(table.types)}, and {will_do}: allow another place with "
        f"+embedding.table_sharding.{table.name}=[row_wise]{after}"
    )


def _named(table: Table) -> str:
    total = table.whole().total
    return f"table {table.name} ({table.rows:,} x {table.dim}, {total:,} bytes to train)"
