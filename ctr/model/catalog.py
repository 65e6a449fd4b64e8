"""What is known of every item and never trained: frozen vectors and item features.

Shape legend: N items, M width of a vector.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class ItemCatalog:
    """Item-side constants, outside the module tree: they are not parameters, not checkpointed, and
    must not be broadcast between processes at every step as module buffers would be.

    Attributes:
        features: int32 [N] each, or [N, W] for a list; row of the feature's table, by item row.
        vectors: int8, float16 or float32 [N, M], or None.
        inv_norm: float32 [N]; 1 / norm, 0 where the item has no vector; or None.
    """

    features: dict[str, Tensor]
    vectors: Tensor | None
    inv_norm: Tensor | None

    def to(self, device: torch.device) -> ItemCatalog:
        """A copy on `device` (the same tensors where they are there already)."""
        return ItemCatalog(
            {name: column.to(device) for name, column in self.features.items()},
            None if self.vectors is None else self.vectors.to(device),
            None if self.inv_norm is None else self.inv_norm.to(device),
        )

    def feature_rows(self, name: str, items: Tensor) -> Tensor:
        """int64 rows of feature `name` of the given item rows: same shape, list entries last."""
        column = self.features[name]
        found = column.index_select(0, items.reshape(-1)).long()
        return found.view(*items.shape, *column.shape[1:])

    def content(self, items: Tensor) -> Tensor:
        """Float32 vectors [..., M] of the given item rows as their makers gave them.

        int8 is read back as x / 127, the form in which Taobao-MM publishes its vectors.
        """
        assert self.vectors is not None
        found = self.vectors.index_select(0, items.reshape(-1)).float()
        if self.vectors.dtype == torch.int8:
            found /= 127.0
        return found.view(*items.shape, self.vectors.shape[1])

    def unit_vectors(self, items: Tensor) -> Tensor:
        """Float32 unit vectors [..., M] of the given item rows; zero where an item has none."""
        if self.vectors is None or self.inv_norm is None:
            raise RuntimeError("this catalog has no vectors; check the schema before the model")
        flat = items.reshape(-1)
        inv_norm = self.inv_norm.index_select(0, flat).masked_fill(flat == 0, 0.0)
        unit = self.vectors.index_select(0, flat).float().mul_(inv_norm[:, None])
        return unit.view(*items.shape, self.vectors.shape[1])
