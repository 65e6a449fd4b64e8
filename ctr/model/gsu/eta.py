"""ETA: nearest hash codes of the trained embeddings.

Shape legend: B samples, K picks, V distinct behaviours, I width of an item, m bits of a code,
y bytes of b bits, W words.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ctr.model.gsu.picks import Retrieved, Search, event_rows, retrieved
from ctr.model.simhash import SimHash
from kernels import hamming_topk


class HashSearch(nn.Module):
    """ETA: least Hamming distance between SimHash codes (arXiv 2108.04468, section 3).

    Hashed is what a behaviour tells of its item (id, features, projected content), as it is trained
    now, against the same of the target; side columns, which a target has none of, stay out. Ties,
    of which m bits have many, go to the later behaviour; unknown items are never picked.

    Args:
        k: K; width: I; bits: m, at most 256.
    """

    reads_trained: ClassVar[bool] = True

    def __init__(self, k: int, width: int, bits: int) -> None:
        super().__init__()
        self.k, self.width = k, width
        self.hash = SimHash(width, bits)

    def forward(self, search: Search) -> Retrieved:
        batch = search.batch
        behaviour_VE, index_T, target_BI = search.embed()
        codes_VW = packed(self.hash(behaviour_VE[:, : self.width]))
        position_BK, _ = hamming_topk(
            torch.cat([codes_VW.new_zeros(1, codes_VW.shape[1]), codes_VW]),
            event_rows(batch, index_T),
            batch.history_offsets_U,
            batch.user_B,
            self.k,
            query_codes=packed(self.hash(target_BI)),
            query_begin=batch.history_begin_B,
            query_end=batch.history_end_B,
        )
        return retrieved(batch, position_BK)


def packed(bits_Nm: Tensor) -> Tensor:
    """Bool [N, m] in words int32 [N, W]; bits beyond m are 0."""
    padded = F.pad(bits_Nm, (0, -bits_Nm.shape[1] % 32))
    bits_Nyb = padded.unflatten(1, (padded.shape[1] // 8, 8))
    place_b = 1 << torch.arange(8, device=bits_Nm.device, dtype=torch.uint8)
    return (bits_Nyb * place_b).sum(dim=2, dtype=torch.uint8).view(torch.int32)
