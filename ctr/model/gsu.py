"""General Search Units: L behaviours -> the K that matter for the target (MUSE, section 3.1).

Shape legend: B samples, K picks, T history events of the batch, U users, V distinct ids.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ctr.data.batch import Batch
from ctr.model.catalog import ItemCatalog
from ctr.model.embeddings import EmbeddingTables
from kernels import category_topk, cosine_topk


@dataclass(frozen=True)
class Retrieved:
    """What a GSU picked for each sample.

    Attributes:
        index_BK: int64; index into the batch's flat history, 0 where nothing was picked.
        mask_BK: bool; whether something was picked. Picks come first, best first.
        similarity_BK: float32 cosine of frozen vectors, where the strategy computed it anyway.
        known_BK: bool; whether pick and target both have a vector; None where all picks do.
    """

    index_BK: Tensor
    mask_BK: Tensor
    similarity_BK: Tensor | None = None
    known_BK: Tensor | None = None


class GeneralSearchUnit(Protocol):
    """Picks at most K behaviours a sample, within what the sample may see; has no gradient."""

    def __call__(
        self, batch: Batch, catalog: ItemCatalog, tables: EmbeddingTables
    ) -> Retrieved: ...


def _retrieved(batch: Batch, position_BK: Tensor, similarity_BK: Tensor | None) -> Retrieved:
    mask_BK = position_BK >= 0
    base_B = batch.history_offsets_U.index_select(0, batch.user_B)
    index_BK = (position_BK.long() + base_B[:, None]).masked_fill_(~mask_BK, 0)
    return Retrieved(index_BK, mask_BK, similarity_BK)


@dataclass(frozen=True)
class CosineSearch:
    """MUSE: highest cosine between frozen multimodal vectors (arXiv 2512.07216, section 3.1)."""

    k: int

    def __call__(self, batch: Batch, catalog: ItemCatalog, tables: EmbeddingTables) -> Retrieved:
        assert catalog.vectors is not None and catalog.inv_norm is not None
        position_BK, score_BK = cosine_topk(
            catalog.vectors,
            catalog.inv_norm,
            batch.history_item_T,
            batch.history_offsets_U,
            batch.user_B,
            self.k,
            query_rows=batch.target_item_B,
            query_begin=batch.history_begin_B,
            query_end=batch.history_end_B,
        )
        return _retrieved(batch, position_BK, score_BK)


@dataclass(frozen=True)
class CategorySearch:
    """SIM-hard: the most recent behaviours of the target's category (arXiv 2006.05639, 3.2)."""

    k: int

    def __call__(self, batch: Batch, catalog: ItemCatalog, tables: EmbeddingTables) -> Retrieved:
        position_BK = category_topk(
            catalog.features["category"].index_select(0, batch.history_item_T.long()),
            batch.history_offsets_U,
            catalog.feature_rows("category", batch.target_item_B),
            batch.user_B,
            self.k,
            query_begin=batch.history_begin_B,
            query_end=batch.history_end_B,
        )
        return _retrieved(batch, position_BK, None)


@dataclass(frozen=True)
class IdSearch:
    """SIM-soft: highest cosine between trained item and category embeddings (2006.05639, 3.2)."""

    k: int

    @torch.no_grad()
    def __call__(self, batch: Batch, catalog: ItemCatalog, tables: EmbeddingTables) -> Retrieved:
        item_V, index_T = torch.unique(batch.history_item_T.long(), return_inverse=True)
        items = torch.cat([item_V, batch.target_item_B])
        rows = tables({"item": items, "category": catalog.feature_rows("category", items)})
        vectors = torch.cat([rows["item"], rows["category"]], dim=1)
        history_VD, target_BD = vectors.split([item_V.numel(), len(batch)])
        # cosine_topk never returns row 0, so the distinct items move up by one; unknown items
        # (item row 0) keep an inverse norm of 0 for the same end.
        table = torch.cat([history_VD.new_zeros(1, history_VD.shape[1]), history_VD])
        inv_norm = torch.where(table.any(dim=1), 1.0 / table.norm(dim=1), 0.0)
        inv_norm[1:].masked_fill_(item_V == 0, 0.0)
        position_BK, _ = cosine_topk(
            table,
            inv_norm,
            index_T + 1,
            batch.history_offsets_U,
            batch.user_B,
            self.k,
            query_vectors=target_BD.contiguous(),
            query_begin=batch.history_begin_B,
            query_end=batch.history_end_B,
        )
        return _retrieved(batch, position_BK, None)


@dataclass(frozen=True)
class RecentSearch:
    """The latest behaviours, whatever the target: what a search must beat to be worth its time."""

    k: int

    def __call__(self, batch: Batch, catalog: ItemCatalog, tables: EmbeddingTables) -> Retrieved:
        back_K = torch.arange(1, self.k + 1, device=batch.user_B.device)
        position_BK = batch.history_end_B[:, None] - back_K
        unseen_BK = position_BK < batch.history_begin_B[:, None]
        return _retrieved(batch, position_BK.masked_fill(unseen_BK, -1), None)


STRATEGIES: dict[str, Callable[[int], GeneralSearchUnit]] = {
    "cosine": CosineSearch,
    "category": CategorySearch,
    "id_soft": IdSearch,
    "recent": RecentSearch,
}
