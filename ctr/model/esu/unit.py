"""What every Exact Search Unit has in common (MUSE, section 3.2)."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from ctr.model.sequences import Sequence


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
