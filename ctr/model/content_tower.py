"""A click model of its own over frozen item vectors alone, whose insides join the ID model.

Shape legend: B samples, R recent behaviours of the batch, K picks, V distinct items among them,
P behaviours of the longest group, G groups of a user's samples, n samples of a group, M width of a
frozen vector, D width of a projected one, W width of a layer.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from ctr.data.batch import Batch
from ctr.model.catalog import ItemCatalog
from ctr.model.gsu import Retrieved
from ctr.model.head.tower import hidden_layers
from ctr.model.recent import recent_sequence
from ctr.model.sequences import Picks, Sequence, grouped
from ctr.model.windows import RecentWindows


class ContentTower(nn.Module):
    """MAKE, the multimodal knowledge extractor (arXiv 2407.19467, section 4.3).

    A DIN over frozen vectors, pre-trained for several epochs: what is learnt over frozen vectors
    gains from them, while ID embeddings overfit after the first. Its vector, the activations of its
    layers and its logit then join the ID model, and it trains on with that.

    Chosen here, and not by the paper: the vector is [attended, target, attended * target] of
    projected unit vectors e = P v; attended = sum of w e over the behaviours, w = sigmoid(a <e, e'>
    - b) for a target e'. As in DIN the weights do not add up to 1, so that many similar behaviours
    are more than one (arXiv 1706.06978, 4.3). P starts with orthogonal rows of such a length that
    dot products are near cosines. All outputs join at the head's input, where any head takes them.
    Together with the ID model it has no loss of its own.

    Behaviours without a vector are masked. A target without one attends to nothing and has the
    vector 0, so that its logit is the same for all histories.

    Args:
        vector_width: M; width: D.
        hidden: widths of the layers; activation: between them: dice, prelu or relu.
        sequence: of behaviours: "recent", the latest, or "retrieved", what the search picked.
        frozen: never learn, and use Dice's running statistics in training, too.
    """

    def __init__(
        self,
        vector_width: int,
        width: int,
        hidden: list[int],
        activation: str,
        sequence: str,
        frozen: bool,
    ) -> None:
        super().__init__()
        self.sequence, self.frozen = sequence, frozen
        self.width = 3 * width + sum(hidden) + 1
        # Without a bias an item without a vector stays 0.
        self.project = nn.Linear(vector_width, width, bias=False)
        nn.init.orthogonal_(self.project.weight, gain=max(vector_width / width, 1.0) ** 0.5)
        # A cosine of 1/2 has half the weight of one of 1; one of 0 has hardly any.
        self.sharpness = nn.Parameter(torch.tensor(10.0))
        self.threshold = nn.Parameter(torch.tensor(5.0))
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
        self,
        batch: Batch,
        catalog: ItemCatalog,
        windows: RecentWindows,
        retrieved: Retrieved | None,
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """What joins the head's input, and the attention weights.

        Args:
            catalog: has vectors; windows: over the batch; retrieved: what the search picked.

        Returns:
            float `make.vector` [B, 3 D], `make.activations` [B, sum of W] and `make.logit` [B, 1];
            `<sequence>.make` [B, P] or [B, K].
        """
        target_BM = catalog.unit_vectors(batch.target_item_B)
        if self.sequence == "recent":
            behaviours = _recent(batch, windows, target_BM, catalog)
        else:
            assert retrieved is not None
            behaviours = _picked(batch, retrieved, target_BM, catalog)
        target_BD = self.project(target_BM)
        shown = behaviours.shown(self.project(behaviours.rows))
        scores = self.sharpness * behaviours.scores(target_BD, shown) - self.threshold
        weight = torch.sigmoid(scores) * behaviours.mask
        attended_BD = behaviours.pool(weight, shown)
        vector = torch.cat([attended_BD, target_BD, attended_BD * target_BD], dim=1)
        activations = [vector]
        for layer in self.hidden:
            activations.append(layer(activations[-1]))
        parts = {
            "make.vector": vector,
            "make.activations": torch.cat(activations[1:], dim=1),
            "make.logit": self.logit(activations[-1]),
        }
        return parts, {f"{self.sequence}.make": behaviours.per_sample(weight)}


def _recent(
    batch: Batch, windows: RecentWindows, target_BM: Tensor, catalog: ItemCatalog
) -> Sequence:
    """Vectors of the latest behaviours, masked where behaviour or target has none."""
    items_R = batch.history_item_T.index_select(0, windows.position_R).long()
    vector_RM = catalog.unit_vectors(items_R)
    known_GP = vector_RM.any(dim=1)[windows.index_GP]
    known_Gn1 = grouped(target_BM.any(dim=1, keepdim=True), windows)
    mask_GnP = windows.mask_GnP & known_GP[:, None] & known_Gn1
    return recent_sequence(replace(windows, mask_GnP=mask_GnP), vector_RM)


def _picked(
    batch: Batch, retrieved: Retrieved, target_BM: Tensor, catalog: ItemCatalog
) -> Sequence:
    """Vectors of the picks, each item's once, masked where pick or target has none."""
    items_BK = torch.zeros_like(retrieved.index_BK)
    if batch.history_item_T.numel():
        items_BK = batch.history_item_T[retrieved.index_BK].long()
    items_V, index_BK = torch.unique(items_BK, return_inverse=True)
    vector_VM = catalog.unit_vectors(items_V)
    known_BK = vector_VM.any(dim=1)[index_BK] & target_BM.any(dim=1, keepdim=True)
    mask_BK = retrieved.mask_BK & known_BK
    return Picks(vector_VM, index_BK, mask_BK, mask_BK)
