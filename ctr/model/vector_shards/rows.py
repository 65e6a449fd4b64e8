"""Which process owns which row of a table, and rows in the order of their owners.

Shape legend: W processes, n rows, m rows that are not padding.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor


@dataclass(frozen=True)
class ByOwner:
    """Rows in the order of their owners.

    Attributes:
        order_m: int64; places of the rows, those of the first owner first, rising within an owner.
        counts: rows of each owner.
    """

    order_m: Tensor
    counts: list[int]


@dataclass(frozen=True)
class Ownership:
    """Row r, from 1 on, belongs to process (r - 1) % W; row 0, the padding, to nobody.

    A vocabulary is often in the order of popularity or of first sight, so that neighbours are asked
    for equally often: dealt out in turn, every process gets its share of them.

    Attributes:
        rank, world_size: of this process.
    """

    rank: int
    world_size: int

    @property
    def own(self) -> slice:
        """Rows of this process, of the whole table."""
        return slice(1 + self.rank, None, self.world_size)

    def place(self, rows: Tensor) -> Tensor:
        """Where rows of this process stand in its part of the table, whose row 0 is padding."""
        return torch.div(rows - 1, self.world_size, rounding_mode="floor") + 1

    def sorted(self, rows_n: Tensor) -> ByOwner:
        """The rows that are not padding by their owners; rows_n: int32 or int64."""
        world_size = self.world_size
        owner_n = (rows_n - 1).remainder_(world_size).masked_fill_(rows_n == 0, world_size)
        # Numbers of one byte are sorted by counting, several times faster than others.
        owner_n = owner_n.to(torch.uint8 if world_size < 255 else torch.int32)
        owner_n, order_n = torch.sort(owner_n, stable=True)
        edges = torch.arange(world_size + 1, device=rows_n.device, dtype=owner_n.dtype)
        edge_W = torch.searchsorted(owner_n, edges).tolist()
        counts = [high - low for low, high in pairwise(edge_W)]
        return ByOwner(order_n[: edge_W[-1]], counts)
