"""The latest behaviours, whatever the target.

Shape legend: B samples, K picks, T history events of the batch, U users, V distinct ids.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from ctr.model.gsu.picks import Retrieved, Search, retrieved


@dataclass(frozen=True)
class RecentSearch:
    """The latest behaviours, whatever the target: what a search must beat to be worth its time."""

    reads_trained: ClassVar[bool] = False
    k: int

    def __call__(self, search: Search) -> Retrieved:
        batch = search.batch
        back_K = torch.arange(1, self.k + 1, device=batch.user_B.device)
        position_BK = batch.history_end_B[:, None] - back_K
        unseen_BK = position_BK < batch.history_begin_B[:, None]
        return retrieved(batch, position_BK.masked_fill(unseen_BK, -1), None)
