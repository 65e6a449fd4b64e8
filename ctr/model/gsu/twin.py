"""TWIN: the highest logits of the attention that will model the picks.

Shape legend: B samples, H heads, K picks, N picks of all heads, V distinct behaviours, X width of a
head's keys.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ctr.model.esu.twin import TwinAttention
from ctr.model.gsu.picks import Retrieved, Search, event_rows, retrieved
from kernels import cosine_topk


@dataclass(frozen=True)
class TwinSearch:
    """TWIN's consistency-preserved GSU (arXiv 2302.02352, section 3.3).

    Ranks all visible behaviours by the logits of `retrieved.twin`, with its weights and the
    embeddings as they are in this step. Each head has a ranking of its own; they are gone through
    in turn, the best of each head, then the second of each, until K different behaviours are
    found. Unknown items are never picked.
    """

    reads_trained: ClassVar[bool] = True
    k: int

    def __call__(self, search: Search) -> Retrieved:
        batch, unit = search.batch, search.units["twin"]
        assert isinstance(unit, TwinAttention)
        behaviour_VE, index_T, target_B = search.embed()
        rows_T = event_rows(batch, index_T)
        query_HBX, key_HVX = unit.queries(target_B), unit.keys(behaviour_VE)
        # With an inverse norm of 1 a behaviour counts by its dot product; the query's own norm is
        # one factor of all its scores and changes no ranking.
        inv_norm = key_HVX.new_ones(key_HVX.shape[1] + 1)
        position_HBK = [
            cosine_topk(
                torch.cat([key_VX.new_zeros(1, key_VX.shape[1]), key_VX]),
                inv_norm,
                rows_T,
                batch.history_offsets_U,
                batch.user_B,
                self.k,
                query_vectors=query_BX.contiguous(),
                query_begin=batch.history_begin_B,
                query_end=batch.history_end_B,
            )[0]
            for query_BX, key_VX in zip(query_HBX, key_HVX, strict=True)
        ]
        return retrieved(batch, in_turn(position_HBK, self.k))


def in_turn(position_HBK: list[Tensor], k: int) -> Tensor:
    """The first K different of all first, then of all second picks and so on.

    Args:
        position_HBK: int32 [B, K] of each head, its picks without repetition, -1 after the last.

    Returns:
        int32 [B, K], -1 after the last.
    """
    position_BN = torch.stack(position_HBK, dim=2).flatten(1)
    # Equal positions stand together after a stable sort, the one that came first before the rest.
    sorted_BN, turn_BN = position_BN.sort(dim=1, stable=True)
    left_BN = sorted_BN < 0
    left_BN[:, 1:] |= sorted_BN[:, 1:] == sorted_BN[:, :-1]
    turn_BN = turn_BN.masked_fill_(left_BN, position_BN.shape[1])
    first_BK = turn_BN.sort(dim=1).values[:, :k]
    none_BK = first_BK == position_BN.shape[1]
    found_BK = position_BN.gather(1, first_BK.masked_fill(none_BK, 0))
    return found_BK.masked_fill_(none_BK, -1)
