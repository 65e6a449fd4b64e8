"""Exact Search Units: behaviours and their similarities -> interest (MUSE, section 3.2)."""

from __future__ import annotations

from collections.abc import Callable

from ctr.model.esu.asta import AdaptiveSparseAttention
from ctr.model.esu.sa_ta import SemanticAttention, SemanticAttentionPaper
from ctr.model.esu.simtier import SimTier
from ctr.model.esu.target import TargetAttention
from ctr.model.esu.unit import ExactSearchUnit, masked_softmax


def _asta(target_width: int, behaviour_width: int, _: int) -> AdaptiveSparseAttention:
    return AdaptiveSparseAttention(target_width, behaviour_width)


# Each is made of (width of a target, of a behaviour, of an interest).
UNITS: dict[str, Callable[[int, int, int], ExactSearchUnit]] = {
    "asta": _asta,
    "sa_ta": SemanticAttention,
    "sa_ta_paper": SemanticAttentionPaper,
    "target": TargetAttention,
}

__all__ = [
    "UNITS",
    "AdaptiveSparseAttention",
    "ExactSearchUnit",
    "SemanticAttention",
    "SemanticAttentionPaper",
    "SimTier",
    "TargetAttention",
    "masked_softmax",
]
