"""TWIN's target attention: what an item is, and what an event adds to it.

Shape legend: B samples, N behaviours, I width of an item, E of a behaviour, C of its side columns,
H heads, X width of a head's queries and keys, D of an interest.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ctr.model.esu.multi_head import attend_by_head, by_head
from ctr.model.esu.unit import UnitShape
from ctr.model.sequences import Sequence


class TwinAttention(nn.Module):
    """Logits a = (K_h W^h)(q W^q)^T / sqrt(d) + (K_c W^c) beta (TWIN, arXiv 2302.02352, 3.2-3.3).

    K_h, a behaviour's inherent features, are its item; K_c, its cross features, are its side
    columns. W^c makes one number of each side column, beta weighs them; a store without side
    columns has neither. head = softmax(a)^T K W^v with K = [K_h K_c], interest = [heads] W^o; each
    head has weights of its own. `ctr.model.gsu.twin` searches by the same logits.

    Args:
        shape: widths, and heads, which must divide D.
    """

    uses_similarity = False

    def __init__(self, shape: UnitShape) -> None:
        super().__init__()
        self.width, self.heads, self.sides = shape.interest, shape.heads, shape.sides
        self.target_width = shape.target
        self.query = nn.Linear(shape.target, self.width, bias=False)
        self.key = nn.Linear(shape.target, self.width, bias=False)
        self.value = nn.Linear(shape.behaviour, self.width, bias=False)
        self.out = nn.Linear(self.width, self.width, bias=False)
        if self.sides:
            columns = [torch.empty(self.heads, width) for width in self.sides]
            for column in columns:
                nn.init.xavier_uniform_(column)
            self.cross = nn.Parameter(torch.cat(columns, dim=1))
            self.beta = nn.Parameter(torch.ones(self.heads, len(self.sides)))

    def queries(self, target_BI: Tensor) -> Tensor:
        """float [H, B, X]: with `keys`, a head's logits are plain dot products."""
        scale = 1.0 / math.sqrt(self.width / self.heads)
        query_HBX = by_head(self.query(target_BI) * scale, self.heads)
        if not self.sides:
            return query_HBX
        return torch.cat([query_HBX, query_HBX.new_ones(*query_HBX.shape[:2], 1)], dim=2)

    def keys(self, rows_NE: Tensor) -> Tensor:
        """float [H, N, X]; the last column is what the side columns add to the logit."""
        key_HNX = by_head(self.key(rows_NE[:, : self.target_width]), self.heads)
        if not self.sides:
            return key_HNX
        beta_HC = torch.cat(
            [self.beta[:, [j]].expand(-1, width) for j, width in enumerate(self.sides)], dim=1
        )
        bias_NH = rows_NE[:, self.target_width :] @ (self.cross * beta_HC).t()
        return torch.cat([key_HNX, bias_NH.t()[:, :, None].to(key_HNX.dtype)], dim=2)

    def forward(self, target_B: Tensor, sequence: Sequence) -> tuple[Tensor, Tensor]:
        """Interest float [B, D] of each sample, and the weights it gave, a mean over the heads."""
        value_HN = by_head(self.value(sequence.rows), self.heads)
        pooled_BD, weight = attend_by_head(
            sequence, self.queries(target_B), self.keys(sequence.rows), value_HN
        )
        return self.out(pooled_BD), weight
