"""Multi-head target attention.

Shape legend: B samples, N behaviours, H heads, X width of a head's queries and keys, D width of an
interest.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ctr.model.esu.unit import UnitShape, masked_softmax
from ctr.model.sequences import Sequence


class MultiHeadAttention(nn.Module):
    """head_i = softmax((E W_i^K)(e W_i^Q)^T / sqrt(D / H))^T (E W_i^V); [head_1 .. head_H] W^O.

    The ESU of ETA (arXiv 2108.04468, section 3) and, up to where its linear maps stand, of SIM
    (arXiv 2006.05639, section 3.3): that pools the behaviours as they are, head_i = att_i^T E, and
    leaves it to the layer above to project them.

    Args:
        shape: widths, and heads, which must divide D.
    """

    uses_similarity = False

    def __init__(self, shape: UnitShape) -> None:
        super().__init__()
        self.width, self.heads = shape.interest, shape.heads
        self.query = nn.Linear(shape.target, self.width, bias=False)
        self.key = nn.Linear(shape.behaviour, self.width, bias=False)
        self.value = nn.Linear(shape.behaviour, self.width, bias=False)
        self.out = nn.Linear(self.width, self.width, bias=False)

    def forward(self, target_B: Tensor, sequence: Sequence) -> tuple[Tensor, Tensor]:
        """Interest float [B, D] of each sample, and the weights it gave, a mean over the heads."""
        scale = 1.0 / math.sqrt(self.width / self.heads)
        query_HBX = by_head(self.query(target_B) * scale, self.heads)
        key_HNX = by_head(self.key(sequence.rows), self.heads)
        value_HN = by_head(self.value(sequence.rows), self.heads)
        pooled_BD, weight = attend_by_head(sequence, query_HBX, key_HNX, value_HN)
        return self.out(pooled_BD), weight


def by_head(rows: Tensor, heads: int) -> Tensor:
    """[n, width] -> [H, n, width / H]."""
    return rows.unflatten(1, (heads, rows.shape[1] // heads)).transpose(0, 1)


def attend_by_head(
    sequence: Sequence, query_HBX: Tensor, key_HNX: Tensor, value_HN: Tensor
) -> tuple[Tensor, Tensor]:
    """softmax(<query, key>) value of each head; no tensor holds the scores of two heads.

    Args:
        value_HN: float [H, N, D / H].

    Returns:
        float [B, D], head after head; mean weights in the shape of `sequence.mask`.
    """
    pooled, weights = [], []
    for query_BX, key_NX, value_N in zip(query_HBX, key_HNX, value_HN, strict=True):
        scores = sequence.scores(query_BX, sequence.shown(key_NX))
        weight = masked_softmax(scores, sequence.mask)
        pooled.append(sequence.pool(weight, sequence.shown(value_N)))
        weights.append(weight.detach())
    return torch.cat(pooled, dim=1), torch.stack(weights).mean(dim=0)
