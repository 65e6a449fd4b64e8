"""Ranking heads: what the network knows of a sample -> click logit."""

from ctr.model.head.normalisation import Dice
from ctr.model.head.tower import Tower

__all__ = ["Dice", "Tower"]
