"""SIM-soft: cosine of trained ID embeddings.

Shape legend: B samples, K picks, T history events of the batch, U users, V distinct ids.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from ctr.model.gsu.picks import Retrieved, Search, retrieved
from kernels import cosine_topk


@dataclass(frozen=True)
class IdSearch:
    """SIM-soft: highest cosine between trained item and category embeddings (2006.05639, 3.2)."""

    reads_trained: ClassVar[bool] = True
    k: int

    @torch.no_grad()
    def __call__(self, search: Search) -> Retrieved:
        batch, catalog = search.batch, search.catalog
        item_V, index_T = torch.unique(batch.history_item_T.long(), return_inverse=True)
        items = torch.cat([item_V, batch.target_item_B])
        rows = search.tables({"item": items, "category": catalog.feature_rows("category", items)})
        vectors = torch.cat([rows["item"], rows["category"]], dim=1)
        history_VD, target_BD = vectors.split([item_V.numel(), len(batch)])
        # cosine_topk never returns row 0, so the distinct items move up by one; unknown items
        # (item row 0) keep an inverse norm of 0 for the same end.
        table = torch.cat([history_VD.new_zeros(1, history_VD.shape[1]), history_VD])
        norm = table.norm(dim=1)
        inv_norm = torch.where(norm > 0, 1.0 / norm, 0.0)
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
        return retrieved(batch, position_BK)
