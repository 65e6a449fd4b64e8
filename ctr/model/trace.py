"""What a forward pass did, for those who ask.

Shape legend: B samples, K picks, P latest behaviours.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from ctr.model.gsu.picks import Retrieved


@dataclass
class Trace:
    """Filled by `Network.forward(batch, trace)`.

    Attributes:
        retrieved: what the GSU picked; None for a model without one.
        recent_index_BP, recent_mask_BP: the latest behaviours, as indices into the batch's flat
            history, and whether there is one.
        weights: attention weights float [B, K] or [B, P] by unit: "retrieved.sa_ta",
            "recent.target"; in the order of the above.
        parts: inputs of the head float [B, width] by name, in its order.
    """

    retrieved: Retrieved | None = None
    recent_index_BP: Tensor | None = None
    recent_mask_BP: Tensor | None = None
    weights: dict[str, Tensor] = field(default_factory=dict)
    parts: dict[str, Tensor] = field(default_factory=dict)
