"""Exact Search Units: picked behaviours and their similarities -> interest (MUSE, section 3.2).

Shape legend: B samples, K picks, V distinct behaviours, D width of an interest, E width of a
behaviour, G groups of a user's samples, n samples of a group, P behaviours of a group.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ctr.model.windows import RecentWindows
from kernels import gathered_dot, gathered_sum, simtier


def masked_softmax(logits: Tensor, mask: Tensor) -> Tensor:
    """Softmax over the last dimension of what the mask keeps; zeros where it keeps nothing."""
    lowest = torch.finfo(logits.dtype).min
    return logits.masked_fill(~mask, lowest).softmax(dim=-1) * mask


def _pooled(weight_BK: Tensor, rows_VD: Tensor, index_BK: Tensor) -> Tensor:
    # Under autocast a softmax stays in float32 while projected rows are bfloat16.
    return gathered_sum(weight_BK.to(rows_VD.dtype), rows_VD, index_BK)


class SimTier(nn.Module):
    """Histogram of similarities, tier by tier (MUSE, section 3.2; arXiv 2407.19467, 3.3).

    Args:
        form: "paper": `bins` equal tiers of [-1, 1], plain counts. "code": tier ceil(10 r) + 10 of
            22, log(count + 1) times a learnable scalar per tier.
        bins: tiers.
    """

    def __init__(self, form: str, bins: int) -> None:
        super().__init__()
        self.bins = bins
        self.scale = nn.Parameter(torch.rand(bins)) if form == "code" else None

    def forward(self, similarity: Tensor, mask: Tensor) -> Tensor:
        """Tier features of each row.

        Args:
            similarity: float32 [..., K] in [-1, 1], without gradient; mask: bool, same shape.

        Returns:
            float32 [..., bins].
        """
        tiers = "equal" if self.scale is None else "tenths"
        return simtier(similarity, mask, self.bins, tiers=tiers, scale=self.scale)


class TargetAttention(nn.Module):
    """Plain target attention over picks: softmax(<W_q target, W_f behaviour>) W_f behaviour.

    Args:
        target_width: of a target; behaviour_width: E; width: D.
    """

    uses_similarity = False

    def __init__(self, target_width: int, behaviour_width: int, width: int) -> None:
        super().__init__()
        self.query = nn.Linear(target_width, width)
        self.fact = nn.Linear(behaviour_width, width)

    def forward(
        self,
        target_B: Tensor,
        behaviour_VE: Tensor,
        index_BK: Tensor,
        mask_BK: Tensor,
        similarity_BK: Tensor | None,
    ) -> Tensor:
        """Interest float32 [B, D] of each sample in its picks."""
        fact_VD = self.fact(behaviour_VE)
        weight_BK = masked_softmax(gathered_dot(self.query(target_B), fact_VD, index_BK), mask_BK)
        return _pooled(weight_BK, fact_VD, index_BK)


class SemanticAttention(nn.Module):
    """SA-TA as the reference code has it (MUSE, section 3.2).

    Q, K, V = SiLU(Linear); m = similarity / tau; logits = b1 dot + b2 m + b3 dot m. Each distinct
    behaviour is projected once, however many samples picked it.

    Args:
        target_width: of a target; behaviour_width: E; width: D.
    """

    uses_similarity = True

    def __init__(self, target_width: int, behaviour_width: int, width: int) -> None:
        super().__init__()
        self.query = nn.Linear(target_width, width)
        self.key = nn.Linear(behaviour_width, width)
        self.value = nn.Linear(behaviour_width, width)
        self.tau = nn.Parameter(torch.tensor(0.1))
        self.mix = nn.Parameter(torch.ones(3))

    def forward(
        self,
        target_B: Tensor,
        behaviour_VE: Tensor,
        index_BK: Tensor,
        mask_BK: Tensor,
        similarity_BK: Tensor,
    ) -> Tensor:
        """Interest float32 [B, D] of each sample in its picks.

        Args:
            target_B: [B, target_width]; behaviour_VE: [V, E]; index_BK: int64, rows of
            behaviour_VE; mask_BK: bool; similarity_BK: float32 cosine of frozen vectors.
        """
        query_BD = F.silu(self.query(target_B))
        key_VD = F.silu(self.key(behaviour_VE))
        value_VD = F.silu(self.value(behaviour_VE))
        dot_BK = gathered_dot(query_BD, key_VD, index_BK)
        scaled_BK = similarity_BK / self.tau
        logits_BK = (
            self.mix[0] * dot_BK + self.mix[1] * scaled_BK + self.mix[2] * dot_BK * scaled_BK
        )
        weight_BK = masked_softmax(logits_BK, mask_BK)
        return _pooled(weight_BK, value_VD, index_BK)


class SemanticAttentionPaper(nn.Module):
    """SA-TA as the paper has it (arXiv 2512.07216, equations of section 3.2).

    a = <E W_k, e W_q> / sqrt(d); logits = g1 a + g2 R + g3 a R; interest = softmax^T (E W_v).

    Args:
        target_width: of a target; behaviour_width: E; width: D.
    """

    uses_similarity = True

    def __init__(self, target_width: int, behaviour_width: int, width: int) -> None:
        super().__init__()
        self.query = nn.Linear(target_width, width, bias=False)
        self.key = nn.Linear(behaviour_width, width, bias=False)
        self.value = nn.Linear(behaviour_width, width, bias=False)
        self.mix = nn.Parameter(torch.ones(3))

    def forward(
        self,
        target_B: Tensor,
        behaviour_VE: Tensor,
        index_BK: Tensor,
        mask_BK: Tensor,
        similarity_BK: Tensor,
    ) -> Tensor:
        """Interest float32 [B, D] of each sample in its picks; arguments as SemanticAttention."""
        query_BD = self.query(target_B)
        dot_BK = gathered_dot(query_BD, self.key(behaviour_VE), index_BK)
        dot_BK = dot_BK / math.sqrt(query_BD.shape[1])
        mix = self.mix
        logits_BK = mix[0] * dot_BK + mix[1] * similarity_BK + mix[2] * dot_BK * similarity_BK
        weight_BK = masked_softmax(logits_BK, mask_BK)
        return _pooled(weight_BK, self.value(behaviour_VE), index_BK)


class RecentAttention(nn.Module):
    """Target attention over the latest behaviours, and their mean (DIN's branch of MUSE).

    A user's recent behaviours are projected once; samples meet them in groups, so nothing is
    copied per sample.

    Args:
        target_width: of a target; behaviour_width: E; width: D.
    """

    def __init__(self, target_width: int, behaviour_width: int, width: int) -> None:
        super().__init__()
        self.query = nn.Linear(target_width, width)
        self.fact = nn.Linear(behaviour_width, width)

    def forward(
        self, target_B: Tensor, behaviour_RE: Tensor, windows: RecentWindows
    ) -> tuple[Tensor, Tensor]:
        """Interest [B, D] and plain mean [B, E] of each sample's window of `behaviour_RE`."""
        fact_RD = self.fact(behaviour_RE)
        width = fact_RD.shape[1]
        both_GPX = F.embedding(windows.index_GP, torch.cat([fact_RD, behaviour_RE], dim=1))
        query_GnD = grouped(self.query(target_B), windows)
        dot_GnP = torch.bmm(query_GnD, both_GPX[..., :width].transpose(1, 2))
        mask = windows.mask_GnP
        weight_GnP = masked_softmax(dot_GnP, mask)
        even_GnP = mask / mask.sum(dim=2, keepdim=True).clamp(min=1)
        interest_GnD = torch.bmm(weight_GnP, both_GPX[..., :width])
        mean_GnE = torch.bmm(even_GnP.to(both_GPX.dtype), both_GPX[..., width:])
        return ungrouped(interest_GnD, windows), ungrouped(mean_GnE, windows)


def grouped(rows_B: Tensor, windows: RecentWindows) -> Tensor:
    """[B, X] -> [G, n, X], zeros in empty places."""
    groups, places, _ = windows.mask_GnP.shape
    out = rows_B.new_zeros(groups, places, rows_B.shape[1])
    return out.index_put((windows.group_B, windows.place_B), rows_B)


def ungrouped(rows_Gn: Tensor, windows: RecentWindows) -> Tensor:
    """[G, n, X] -> [B, X], the inverse of `grouped`."""
    return rows_Gn[windows.group_B, windows.place_B]


ATTENTIONS: dict[str, type[TargetAttention | SemanticAttention | SemanticAttentionPaper]] = {
    "sa_ta": SemanticAttention,
    "sa_ta_paper": SemanticAttentionPaper,
    "target": TargetAttention,
}
