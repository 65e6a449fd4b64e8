"""What a process holds of an embedding table, and what the rows of a table start from.

Shape legend: N rows of a table, D its width; R rows and W columns of this process's part of it.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torchrec.distributed.types import ShardedModule

# Numbers that are drawn at once, from a generator of their own.
_BLOCK = 1 << 18

# Standard deviations beyond which nothing is drawn.
_EDGE = 2.0


@dataclass(frozen=True)
class TablePart:
    """A part of a table.

    Attributes:
        weight_RW: from `first_row` and `first_column` of the table on.
        width: of the whole table.
        states: of the optimizer that is fused into the table; [R] or [R, W] each.
    """

    weight_RW: Tensor
    first_row: int
    first_column: int
    width: int
    states: list[Tensor]


def table_parts(collection: nn.Module, table: str) -> list[TablePart]:
    """The parts of a table that this process holds; the whole of one that is not sharded."""
    name = f"embeddings.{table}.weight"
    weight: Any = collection.state_dict()[name]
    width = int(weight.size(1))
    if not isinstance(collection, ShardedModule):
        return [TablePart(weight.detach(), 0, 0, width, [])]
    states = collection.fused_optimizer.state_dict()["state"].get(name, {}).values()
    states = [state.local_shards() for state in states if hasattr(state, "local_shards")]
    parts = []
    # A row-wise state has offsets of its own where columns are sharded: its shards go by order.
    for index, shard in enumerate(weight.local_shards()):
        row, column = shard.metadata.shard_offsets
        own = [shards[index].tensor.detach() for shards in states]
        parts.append(TablePart(shard.tensor.detach(), row, column, width, own))
    return parts


class Initial:
    """Truncated normals that tables start from.

    A row's numbers follow from the seed, its table and its number alone: not from how the table is
    sharded, how many rows it has, or how many processes there are. So no process needs more than
    its part to draw them.

    Args:
        std: standard deviation of the whole normal; nothing is further than two of it from 0.
        seed: the same on all processes.
    """

    def __init__(self, std: float, seed: int) -> None:
        self.std, self.seed = std, seed

    def draw(self, weight: Tensor, generator: torch.Generator) -> Tensor:
        """Fill a float32 tensor, in place."""
        # As `nn.init.trunc_normal_`, in a tenth of its time and without memory beside the tensor:
        # the inverse of the distribution, of uniform numbers between its values at the edges.
        edge = math.erf(_EDGE / math.sqrt(2.0))
        weight.uniform_(-edge, edge, generator=generator)
        weight.erfinv_().mul_(self.std * math.sqrt(2.0))
        return weight.clamp_(-_EDGE * self.std, _EDGE * self.std)

    @torch.no_grad()
    def fill(self, table: str, part: TablePart) -> None:
        """Fill this process's part of a table, in place."""
        weight_RW, first = part.weight_RW, part.first_row
        end = first + weight_RW.shape[0]
        rows = max(_BLOCK // part.width, 1)
        columns = slice(part.first_column, part.first_column + weight_RW.shape[1])
        drawn_ND = weight_RW.new_empty((rows, part.width), dtype=torch.float32)
        generator = torch.Generator(weight_RW.device)
        for block in range(first // rows, -(-end // rows)):
            generator.manual_seed(self._seed_of(table, block))
            self.draw(drawn_ND, generator)
            start = block * rows
            low, high = max(start, first), min(start + rows, end)
            weight_RW[low - first : high - first] = drawn_ND[low - start : high - start, columns]

    def _seed_of(self, table: str, block: int) -> int:
        told = f"{self.seed} {block} {table}".encode()
        return int.from_bytes(hashlib.blake2b(told, digest_size=8).digest()) >> 1
