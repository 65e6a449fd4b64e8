"""SIM-hard: the target's category, latest first.

Shape legend: B samples, K picks, T history events of the batch, U users, V distinct ids.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ctr.model.gsu.picks import Retrieved, Search, retrieved
from kernels import category_topk


@dataclass(frozen=True)
class CategorySearch:
    """SIM-hard: the most recent behaviours of the target's category (arXiv 2006.05639, 3.2)."""

    reads_trained: ClassVar[bool] = False
    k: int

    def __call__(self, search: Search) -> Retrieved:
        batch, catalog = search.batch, search.catalog
        position_BK = category_topk(
            catalog.features["category"].index_select(0, batch.history_item_T.long()),
            batch.history_offsets_U,
            catalog.feature_rows("category", batch.target_item_B),
            batch.user_B,
            self.k,
            query_begin=batch.history_begin_B,
            query_end=batch.history_end_B,
        )
        return retrieved(batch, position_BK)
