"""What the network makes of one sequence: interests, their plain mean, SimTier.

Shape legend: B samples.
"""

from __future__ import annotations

from typing import cast

from torch import Tensor, nn

from ctr.model.esu import ExactSearchUnit, SimTier
from ctr.model.sequences import Sequence


class Branch(nn.Module):
    """The ESUs of one sequence, side by side.

    Args:
        name: of the sequence: "recent", "retrieved".
        units: attention units by name.
        mean: whether to give the plain mean of the behaviours, too.
        simtier: histogram of similarities, or None.
    """

    def __init__(
        self, name: str, units: dict[str, ExactSearchUnit], mean: bool, simtier: SimTier | None
    ) -> None:
        super().__init__()
        self.name, self.mean, self.simtier = name, mean, simtier
        self.units = nn.ModuleDict({key: cast(nn.Module, unit) for key, unit in units.items()})

    @property
    def uses_similarity(self) -> bool:
        """Whether anything here reads similarities."""
        units = self.units.values()
        return self.simtier is not None or any(unit.uses_similarity for unit in units)

    def width(self, behaviour_width: int) -> int:
        """Of all parts together."""
        units = sum(cast(ExactSearchUnit, unit).width for unit in self.units.values())
        tiers = 0 if self.simtier is None else self.simtier.bins
        return units + tiers + (behaviour_width if self.mean else 0)

    def forward(
        self, target_B: Tensor, sequence: Sequence
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Parts float [B, width] of the head's input by name, and attention weights by unit."""
        parts, weights = {}, {}
        for key, unit in self.units.items():
            name = f"{self.name}.{key}"
            parts[name], weights[name] = unit(target_B, sequence)
        if self.mean:
            count = sequence.mask.sum(dim=-1, keepdim=True).clamp(min=1)
            parts[f"{self.name}.mean"] = sequence.pool(
                (sequence.mask / count).to(sequence.rows.dtype), sequence.shown(sequence.rows)
            )
        if self.simtier is not None:
            assert sequence.similarity is not None
            tiers = self.simtier(sequence.similarity, sequence.known)
            parts[f"{self.name}.simtier"] = sequence.per_sample(tiers)
        return parts, weights
