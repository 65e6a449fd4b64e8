"""MUSE: cosine of frozen multimodal vectors.

Shape legend: B samples, K picks, T history events of the batch, U users, V distinct ids.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ctr.model.gsu.picks import Retrieved, Search, retrieved
from kernels import cosine_topk


@dataclass(frozen=True)
class CosineSearch:
    """MUSE: highest cosine between frozen multimodal vectors (arXiv 2512.07216, section 3.1)."""

    reads_trained: ClassVar[bool] = False
    k: int

    def __call__(self, search: Search) -> Retrieved:
        batch, catalog = search.batch, search.catalog
        if catalog.shards is not None:
            position_BK, score_BK = catalog.shards.topk(
                batch.history_item_T,
                batch.history_offsets_U,
                batch.user_B,
                self.k,
                batch.target_item_B,
                batch.history_begin_B,
                batch.history_end_B,
            )
            return retrieved(batch, position_BK, score_BK)
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
        return retrieved(batch, position_BK, score_BK)
