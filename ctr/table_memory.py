"""What embedding tables take: bytes of weights, of optimizer states and of gradients.

Counts, not measurements: what fbgemm allocates for a shard, and torch for a replicated table.

Shape legend: N rows of a table, D its width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torchrec.distributed.sharding_plan import calculate_shard_sizes_and_offsets
from torchrec.modules.embedding_configs import DATA_TYPE_NUM_BITS, EmbeddingConfig

from ctr.config import EmbeddingConfig as EmbeddingSettings

# fbgemm keeps optimizer states in 32 bits, whatever the weights are in.
_STATE_BYTES = 4


@dataclass(frozen=True)
class Bytes:
    """Bytes of a table or of a part of it."""

    weights: int = 0
    states: int = 0
    gradients: int = 0

    @property
    def total(self) -> int:
        """All of them."""
        return self.weights + self.states + self.gradients

    def __add__(self, other: Bytes) -> Bytes:
        return Bytes(
            self.weights + other.weights,
            self.states + other.states,
            self.gradients + other.gradients,
        )


@dataclass(frozen=True)
class Table:
    """A table as far as its place in memory is concerned.

    Attributes:
        name, rows, dim: of the table; element_bytes: of one of its numbers.
        optimizer: embedding.optimizer.
        types: sharding types that the planner may choose from.
    """

    name: str
    rows: int
    dim: int
    element_bytes: int
    optimizer: str
    types: tuple[str, ...]

    @property
    def replicated(self) -> bool:
        """Whether every device holds it whole."""
        return self.types == ("data_parallel",)

    def shard(self, rows: int, dim: int) -> Bytes:
        """Bytes of a part of so many rows and columns, on the device that holds it."""
        states = {
            "sgd": 0,
            "rowwise_adagrad": rows,
            "adagrad": rows * dim,
            "adam": 2 * rows * dim,
            "dense_adam": 2 * rows * dim,
        }
        weights = rows * dim * self.element_bytes
        return Bytes(
            weights,
            states[self.optimizer] * _STATE_BYTES,
            # A shard's gradient has the rows of a step only.
            weights if self.replicated else 0,
        )

    def whole(self) -> Bytes:
        """Bytes of the table on a device that holds all of it."""
        return self.shard(self.rows, self.dim)

    def least(self, devices: int) -> tuple[str, int]:
        """The sharding type that asks least of the device that holds most, and those bytes."""
        weights_ND = torch.empty(self.rows, self.dim, device="meta")
        found = {}
        for kind in self.types:
            sizes, _ = calculate_shard_sizes_and_offsets(weights_ND, devices, devices, kind)
            found[kind] = max(self.shard(*size).total for size in sizes)
        best = min(found, key=lambda kind: found[kind])
        return best, found[best]


def tables_of(
    configs: list[EmbeddingConfig], settings: EmbeddingSettings, types: Mapping[str, list[str]]
) -> list[Table]:
    """Tables of TorchRec collections, the largest first.

    Args:
        configs: of the tables; settings: of their optimizer; types: sharding types by table.
    """
    tables = [
        Table(
            name=config.name,
            rows=config.num_embeddings,
            dim=config.embedding_dim,
            element_bytes=DATA_TYPE_NUM_BITS[config.data_type] // 8,
            optimizer=settings.optimizer,
            types=tuple(types[config.name]),
        )
        for config in configs
    ]
    return sorted(tables, key=lambda table: (-table.whole().total, table.name))
