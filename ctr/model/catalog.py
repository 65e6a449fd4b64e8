"""What is known of every item and never trained: frozen vectors and item features.

Shape legend: N items, M width of a vector, n item rows asked for.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ctr.model.vector_shards import VectorShards


@dataclass(frozen=True)
class ItemCatalog:
    """Item-side constants, outside the module tree: they are not parameters, not checkpointed, and
    must not be broadcast between processes at every step as module buffers would be. Where the
    vectors are is a matter of memory and wires, not of results: docs/vectors.md.

    Attributes:
        features: int32 [N] each, or [N, W] for a list; row of the feature's table, by item row.
        vectors: int8, float16 or float32 [N, M], or None.
        inv_norm: float32 [N]; 1 / norm, 0 where the item has no vector; or None.
        shards: the vectors in place of the two, where each process has some of the rows. Whoever
            reads a vector then does so on all processes at once.
    """

    features: dict[str, Tensor]
    vectors: Tensor | None
    inv_norm: Tensor | None
    shards: VectorShards | None = None

    @property
    def has_vectors(self) -> bool:
        """Whether there are vectors, wherever they are."""
        return self.vectors is not None or self.shards is not None

    def to(self, device: torch.device) -> ItemCatalog:
        """A copy on `device` (the same tensors where they are there already)."""
        return ItemCatalog(
            self._features_on(device),
            None if self.vectors is None else self.vectors.to(device),
            None if self.inv_norm is None else self.inv_norm.to(device),
            self.shards,
        )

    def pinned(self, device: torch.device) -> ItemCatalog:
        """The features on a GPU, the vectors in page-locked memory of the host.

        To torch these are tensors of the GPU, whose kernels read what they need of them in place,
        over PCIe. The inverse norms, four bytes a row, are copied to the GPU.
        """
        assert self.vectors is not None and self.inv_norm is not None
        like = self.vectors.new_empty(0, device=device)
        # Of exactly this size: torch's own page-locked memory comes in powers of two.
        mapped = torch.ops.fbgemm.new_host_mapped_tensor(like, list(self.vectors.shape))
        mapped.copy_(self.vectors)
        return ItemCatalog(self._features_on(device), mapped, self.inv_norm.to(device))

    def sharded(self, device: torch.device) -> ItemCatalog:
        """The features on `device`, and this process's rows of the vectors; on all processes."""
        assert self.vectors is not None and self.inv_norm is not None
        shards = VectorShards(self.vectors, self.inv_norm, device)
        return ItemCatalog(self._features_on(device), None, None, shards)

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
        flat = items.reshape(-1)
        vectors, inv_norm = self._rows(flat)
        unit = vectors.float().mul_(inv_norm.masked_fill(flat == 0, 0.0)[:, None])
        return unit.view(*items.shape, vectors.shape[1])

    def _rows(self, items_n: Tensor) -> tuple[Tensor, Tensor]:
        """Vectors [n, M] as they are stored and inverse norms [n]."""
        if self.shards is not None:
            return self.shards.fetch(items_n)
        if self.vectors is None or self.inv_norm is None:
            raise RuntimeError("this catalog has no vectors; check the schema before the model")
        return self.vectors.index_select(0, items_n), self.inv_norm.index_select(0, items_n)

    def _features_on(self, device: torch.device) -> dict[str, Tensor]:
        return {name: column.to(device) for name, column in self.features.items()}
