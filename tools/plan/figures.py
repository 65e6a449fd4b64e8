"""A plan in figures: bytes on every device, and bytes that every device sends and receives a step.

All are counts. Nothing is measured, and ids are taken to fall evenly on the rows of a table.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torchrec.distributed.types import ShardingPlan

from ctr.cluster import Cluster
from ctr.table_memory import Bytes, Table

# As TorchRec sends them: ids in 64 bits, embeddings and their gradients in 32.
_ID_BYTES, _NUMBER_BYTES = 8, 4


@dataclass(frozen=True)
class Piece:
    """Rows and columns of a table that a device holds."""

    device: int
    rows: int
    dim: int


@dataclass(frozen=True)
class PlannedTable:
    """A table, how it is sharded, and where; a replicated one has a piece on every device."""

    table: Table
    sharding: str
    pieces: tuple[Piece, ...]


@dataclass(frozen=True)
class Device:
    """Bytes on a device.

    Attributes:
        tables: of its pieces; items: of what is known of items and never trained.
        room: left of what may be used.
    """

    tables: Bytes
    items: int
    room: int


@dataclass(frozen=True)
class Traffic:
    """Bytes that a device exchanges with others in a step.

    Attributes:
        ids: of rows asked for; embeddings: of the forward pass; gradients: of the backward pass,
            those of replicated tables included.
    """

    ids: float = 0.0
    embeddings: float = 0.0
    gradients: float = 0.0

    @property
    def total(self) -> float:
        """All of them."""
        return self.ids + self.embeddings + self.gradients

    def __add__(self, other: Traffic) -> Traffic:
        return Traffic(
            self.ids + other.ids,
            self.embeddings + other.embeddings,
            self.gradients + other.gradients,
        )


def planned_tables(plan: ShardingPlan, tables: list[Table], devices: int) -> list[PlannedTable]:
    """Tables with their pieces, in the order of `tables`.

    Args:
        plan: TorchRec's, of those that are not replicated.
    """
    found = {name: sharding for module in plan.plan.values() for name, sharding in module.items()}
    planned = []
    for table in tables:
        if table.replicated:
            pieces = tuple(Piece(rank, table.rows, table.dim) for rank in range(devices))
            planned.append(PlannedTable(table, "data_parallel", pieces))
            continue
        sharding = found[table.name]
        pieces = tuple(
            Piece(shard.placement.rank(), *shard.shard_sizes)
            for shard in sharding.sharding_spec.shards
        )
        planned.append(PlannedTable(table, sharding.sharding_type, pieces))
    return planned


def devices_of(planned: list[PlannedTable], cluster: Cluster, items: int) -> list[Device]:
    """What every device holds.

    Args:
        cluster: before anything is placed; items: bytes on each device that are no table's.
    """
    held = [Bytes() for _ in range(cluster.devices)]
    for table in planned:
        for piece in table.pieces:
            held[piece.device] += table.table.shard(piece.rows, piece.dim)
    return [Device(own, items, cluster.usable - items - own.total) for own in held]


def traffic_of(
    planned: list[PlannedTable], ids: Mapping[str, int], devices: int
) -> list[tuple[Traffic, Traffic]]:
    """What every device sends and receives in a step.

    A device asks the owner of each piece for the rows that fall into it and gets their columns;
    the gradients of these go back. A replicated table's gradient goes around the ring of an
    all-reduce, whole, nearly twice.

    Args:
        ids: distinct ids that each device asks of each table.
    """
    sent = [Traffic() for _ in range(devices)]
    received = [Traffic() for _ in range(devices)]
    others = devices - 1
    for table in planned:
        if table.sharding == "data_parallel":
            ring = Traffic(gradients=2 * others / devices * table.table.whole().gradients)
            sent = [own + ring for own in sent]
            received = [own + ring for own in received]
            continue
        for piece in table.pieces:
            asked = ids[table.table.name] * piece.rows / table.table.rows
            rows = asked * piece.dim * _NUMBER_BYTES
            question = asked * _ID_BYTES
            for rank in range(devices):
                # The owner answers all others; each of them asks it alone.
                times = others if rank == piece.device else 1
                asks = Traffic(ids=question * times, gradients=rows * times)
                answers = Traffic(embeddings=rows * times)
                if rank == piece.device:
                    sent[rank] += answers
                    received[rank] += asks
                else:
                    sent[rank] += asks
                    received[rank] += answers
    return list(zip(sent, received, strict=True))
