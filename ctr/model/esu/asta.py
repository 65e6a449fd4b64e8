"""ASTA: adaptive sparse target attention (QIN, arXiv 2504.17699, section 3.2).

Shape legend: B samples, N behaviours, E width of a behaviour, I width of a target, A of attention.
"""

from __future__ import annotations

import math

from torch import Tensor, nn
from torch.nn import functional as F

from ctr.model.sequences import Sequence


class AdaptiveSparseAttention(nn.Module):
    """out = W_o (w V) + target, w = ReLU(<Q, K> / sqrt(A)): no softmax, so weights may all be 0.

    Q = W_q target, K = W_k behaviour, V = W_v behaviour, no biases. With one query and nothing
    nonlinear on keys and values, <W_q t, W_k b> = <W_k^T W_q t, b> and sum w W_v b = W_v sum w b:
    behaviours are never projected, which takes 2 K A E multiplications a sample down to 2 K E.

    Args:
        target_width: I; behaviour_width: E; width: A, of attention; by default 2 I.
    """

    uses_similarity = False

    def __init__(self, target_width: int, behaviour_width: int, width: int | None = None) -> None:
        super().__init__()
        width = 2 * target_width if width is None else width
        self.width = target_width
        self.query = nn.Linear(target_width, width, bias=False)
        self.key = nn.Linear(behaviour_width, width, bias=False)
        self.value = nn.Linear(behaviour_width, width, bias=False)
        self.out = nn.Linear(width, target_width, bias=False)
        # As the published results were trained: FuxiCTR starts every linear layer so.
        for linear in (self.query, self.key, self.value, self.out):
            nn.init.xavier_normal_(linear.weight)

    def forward(self, target_B: Tensor, sequence: Sequence) -> tuple[Tensor, Tensor]:
        """Interest float [B, I] of each sample, and the weights it gave."""
        query_BE = self.query(target_B) @ self.key.weight
        shown = sequence.shown(sequence.rows.to(query_BE.dtype))
        scores = sequence.scores(query_BE, shown) / math.sqrt(self.query.out_features)
        weight = F.relu(scores) * sequence.mask
        pooled_BE = sequence.pool(weight, shown)
        return self.out(self.value(pooled_BE)) + target_B, weight
