"""Plain target attention, as MUSE's reference code has it: DIN has an MLP, and no softmax.

Shape legend: B samples, N behaviours, D width of an interest.
"""

from __future__ import annotations

from torch import Tensor, nn

from ctr.model.esu.unit import masked_softmax
from ctr.model.sequences import Sequence


class TargetAttention(nn.Module):
    """softmax(<W_q target, W_f behaviour>) W_f behaviour (MUSE, section 3.2).

    Args:
        target_width: of a target; behaviour_width: of a behaviour; width: D.
    """

    uses_similarity = False

    def __init__(self, target_width: int, behaviour_width: int, width: int) -> None:
        super().__init__()
        self.width = width
        self.query = nn.Linear(target_width, width)
        self.fact = nn.Linear(behaviour_width, width)

    def forward(self, target_B: Tensor, sequence: Sequence) -> tuple[Tensor, Tensor]:
        """Interest float [B, D] of each sample, and the weights it gave."""
        fact = sequence.shown(self.fact(sequence.rows))
        weight = masked_softmax(sequence.scores(self.query(target_B), fact), sequence.mask)
        return sequence.pool(weight, fact), weight
