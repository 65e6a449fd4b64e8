"""What every Exact Search Unit has in common (MUSE, section 3.2)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ctr.model.sequences import Sequence


@dataclass(frozen=True)
class UnitShape:
    """What a unit is made for.

    Attributes:
        target: width of a target, and of what a behaviour tells of its item.
        sides: widths of a behaviour's side columns, which stand behind that.
        interest: width of an interest.
        heads: of a unit that has several.
    """

    target: int
    sides: tuple[int, ...]
    interest: int
    heads: int

    @property
    def behaviour(self) -> int:
        """Width of a behaviour."""
        return self.target + sum(self.sides)


class ExactSearchUnit(Protocol):
    """Models a target's interest in a sequence of behaviours; an nn.Module.

    Attributes:
        width: of the interest.
        uses_similarity: whether it reads `sequence.similarity`.
    """

    width: int
    uses_similarity: bool

    def __call__(self, target_B: Tensor, sequence: Sequence) -> tuple[Tensor, Tensor]:
        """Interest float [B, width], and the weights it gave, in the shape of `sequence.mask`."""


def masked_softmax(logits: Tensor, mask: Tensor) -> Tensor:
    """Softmax over the last dimension of what the mask keeps; zeros where it keeps nothing."""
    lowest = torch.finfo(logits.dtype).min
    return logits.masked_fill(~mask, lowest).softmax(dim=-1) * mask
