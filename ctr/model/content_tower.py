"""A click model of its own over frozen item vectors alone, whose insides join the ID model.

Shape legend: B samples, R recent behaviours of the batch, P behaviours of the longest group,
G groups of a user's samples, n samples of a group, M width of a frozen vector, D width of a
projected one, W width of a layer.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from ctr.data.batch import Batch
from ctr.model.catalog import ItemCatalog
from ctr.model.esu import TargetAttention
from ctr.model.head.tower import hidden_layers
from ctr.model.recent import recent_sequence
from ctr.model.sequences import grouped
from ctr.model.windows import RecentWindows


class ContentTower(nn.Module):
    """MAKE, the multimodal knowledge extractor (arXiv 2407.19467, section 4.3).

    A DIN over frozen vectors, pre-trained for several epochs: what is learnt over frozen vectors
    gains from them, while ID embeddings overfit after the first. Its vector, the activations of
    its layers and its logit then join the ID model, and it trains on with it.

    Chosen here, and not by the paper: vectors have length 1 and are projected before attention;
    the vector is [attended, target, attended * target]; all three outputs join at the head's
    input, so that any head can take them; no loss of its own beside the ID model's.

    Behaviours without a vector are masked. A target without one attends to nothing and has the
    vector 0, so that its logit is the same for all histories.

    Args:
        vector_width: M; width: D, of a projected vector and of attention.
        hidden: widths of the layers; activation: between them: dice, prelu or relu.
        frozen: never learn, and use Dice's running statistics in training, too.
    """

    def __init__(
        self, vector_width: int, width: int, hidden: list[int], activation: str, frozen: bool
    ) -> None:
        super().__init__()
        self.frozen = frozen
        self.width = 3 * width + sum(hidden) + 1
        # Without a bias an item without a vector stays 0.
        self.project = nn.Linear(vector_width, width, bias=False)
        self.attention = TargetAttention(width, width, width)
        layers = hidden_layers(3 * width, hidden, activation)
        self.hidden = nn.ModuleList(
            nn.Sequential(*layers[i : i + 2]) for i in range(0, len(layers), 2)
        )
        self.logit = nn.Linear(hidden[-1], 1)
        self.requires_grad_(not frozen)

    def train(self, mode: bool = True) -> ContentTower:
        """Switch to training; a frozen tower stays as in evaluation."""
        return super().train(mode and not self.frozen)

    def forward(
        self, batch: Batch, windows: RecentWindows, catalog: ItemCatalog
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """What joins the head's input, and the attention weights.

        Args:
            windows: over the batch, the behaviours to attend to; catalog: has vectors.

        Returns:
            float `make.vector` [B, 3 D], `make.activations` [B, sum of W] and `make.logit` [B, 1];
            `make.attention` [B, P].
        """
        items_R = batch.history_item_T.index_select(0, windows.position_R).long()
        vector_RM = catalog.unit_vectors(items_R)
        target_BM = catalog.unit_vectors(batch.target_item_B)
        known = _known(windows, vector_RM, target_BM)
        sequence = recent_sequence(batch, known, self.project(vector_RM), None)
        target_BD = self.project(target_BM)
        attended_BD, weight = self.attention(target_BD, sequence)
        vector = torch.cat([attended_BD, target_BD, attended_BD * target_BD], dim=1)
        activations = [vector]
        for layer in self.hidden:
            activations.append(layer(activations[-1]))
        parts = {
            "make.vector": vector,
            "make.activations": torch.cat(activations[1:], dim=1),
            "make.logit": self.logit(activations[-1]),
        }
        return parts, {"make.attention": sequence.per_sample(weight)}


def _known(windows: RecentWindows, vector_RM: Tensor, target_BM: Tensor) -> RecentWindows:
    """The windows without behaviours and targets that have no vector."""
    known_GP = vector_RM.any(dim=1)[windows.index_GP]
    known_Gn1 = grouped(target_BM.any(dim=1, keepdim=True), windows)
    return replace(windows, mask_GnP=windows.mask_GnP & known_GP[:, None] & known_Gn1)
