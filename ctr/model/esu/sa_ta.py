"""SA-TA: semantic-aware target attention (MUSE, arXiv 2512.07216, section 3.2).

Shape legend: B samples, N behaviours, D width of an interest.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ctr.model.esu.unit import masked_softmax
from ctr.model.sequences import Sequence


class SemanticAttention(nn.Module):
    """SA-TA as the reference code has it.

    Q, K, V = SiLU(Linear); m = similarity / tau; logits = b1 dot + b2 m + b3 dot m. Each distinct
    behaviour is projected once, however many samples picked it.

    Args:
        target_width: of a target; behaviour_width: of a behaviour; width: D.
    """

    uses_similarity = True

    def __init__(self, target_width: int, behaviour_width: int, width: int) -> None:
        super().__init__()
        self.width = width
        self.query = nn.Linear(target_width, width)
        self.key = nn.Linear(behaviour_width, width)
        self.value = nn.Linear(behaviour_width, width)
        self.tau = nn.Parameter(torch.tensor(0.1))
        self.mix = nn.Parameter(torch.ones(3))

    def forward(self, target_B: Tensor, sequence: Sequence) -> tuple[Tensor, Tensor]:
        """Interest float [B, D] of each sample, and the weights it gave."""
        assert sequence.similarity is not None
        query_BD = F.silu(self.query(target_B))
        key = sequence.shown(F.silu(self.key(sequence.rows)))
        value = sequence.shown(F.silu(self.value(sequence.rows)))
        dot = sequence.scores(query_BD, key)
        scaled = sequence.similarity / self.tau
        logits = self.mix[0] * dot + self.mix[1] * scaled + self.mix[2] * dot * scaled
        weight = masked_softmax(logits, sequence.mask)
        return sequence.pool(weight, value), weight


class SemanticAttentionPaper(nn.Module):
    """SA-TA as the paper has it.

    a = <E W_k, e W_q> / sqrt(d); logits = g1 a + g2 R + g3 a R; interest = softmax^T (E W_v).

    Args:
        target_width: of a target; behaviour_width: of a behaviour; width: D.
    """

    uses_similarity = True

    def __init__(self, target_width: int, behaviour_width: int, width: int) -> None:
        super().__init__()
        self.width = width
        self.query = nn.Linear(target_width, width, bias=False)
        self.key = nn.Linear(behaviour_width, width, bias=False)
        self.value = nn.Linear(behaviour_width, width, bias=False)
        self.mix = nn.Parameter(torch.ones(3))

    def forward(self, target_B: Tensor, sequence: Sequence) -> tuple[Tensor, Tensor]:
        """Interest float [B, D] of each sample, and the weights it gave."""
        assert sequence.similarity is not None
        dot = sequence.scores(
            self.query(target_B), sequence.shown(self.key(sequence.rows))
        ) / math.sqrt(self.width)
        mix, similarity = self.mix, sequence.similarity
        logits = mix[0] * dot + mix[1] * similarity + mix[2] * dot * similarity
        weight = masked_softmax(logits, sequence.mask)
        return sequence.pool(weight, sequence.shown(self.value(sequence.rows))), weight
