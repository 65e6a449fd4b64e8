"""Ranking heads: what the network knows of a sample -> click logit."""

from ctr.model.head.dcnv2 import CrossHead
from ctr.model.head.dice import Dice
from ctr.model.head.fold import Foldable, fold
from ctr.model.head.normalisation import BatchNorm
from ctr.model.head.qnn import QuadraticHead
from ctr.model.head.sole import SoleLogit
from ctr.model.head.tower import Tower

__all__ = [
    "BatchNorm",
    "CrossHead",
    "Dice",
    "Foldable",
    "QuadraticHead",
    "SoleLogit",
    "Tower",
    "fold",
]
