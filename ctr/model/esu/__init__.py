"""Exact Search Units: behaviours and their similarities -> interest (MUSE, section 3.2)."""

from __future__ import annotations

from collections.abc import Callable

from ctr.model.esu.asta import AdaptiveSparseAttention
from ctr.model.esu.multi_head import MultiHeadAttention
from ctr.model.esu.sa_ta import SemanticAttention, SemanticAttentionPaper
from ctr.model.esu.sdim import HashedInterest
from ctr.model.esu.simtier import SimTier
from ctr.model.esu.target import TargetAttention
from ctr.model.esu.twin import TwinAttention
from ctr.model.esu.unit import ExactSearchUnit, UnitShape, masked_softmax

UNITS: dict[str, Callable[[UnitShape], ExactSearchUnit]] = {
    "asta": lambda shape: AdaptiveSparseAttention(shape.target, shape.behaviour),
    "multi_head": MultiHeadAttention,
    "sa_ta": lambda shape: SemanticAttention(shape.target, shape.behaviour, shape.interest),
    "sa_ta_paper": lambda shape: SemanticAttentionPaper(
        shape.target, shape.behaviour, shape.interest
    ),
    "target": lambda shape: TargetAttention(shape.target, shape.behaviour, shape.interest),
    "twin": TwinAttention,
}

__all__ = [
    "UNITS",
    "AdaptiveSparseAttention",
    "ExactSearchUnit",
    "HashedInterest",
    "MultiHeadAttention",
    "SemanticAttention",
    "SemanticAttentionPaper",
    "SimTier",
    "TargetAttention",
    "TwinAttention",
    "UnitShape",
    "masked_softmax",
]
