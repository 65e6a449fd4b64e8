"""The CTR network: embeddings -> GSU -> ESU -> head, as in MUSE's figure 2 (arXiv 2512.07216).

Shape legend: B samples, U users, K picks, V distinct behaviours, R recent behaviours, G groups,
n samples of a group, P behaviours of a group, M width of a frozen vector, E width of a behaviour.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from ctr.data.batch import Batch
from ctr.model.behaviours import BehaviourSpace, Request, look_up
from ctr.model.catalog import ItemCatalog
from ctr.model.embeddings import EmbeddingTables
from ctr.model.esu import RecentAttention, SimTier, grouped, ungrouped
from ctr.model.gsu import GeneralSearchUnit, Retrieved
from ctr.model.head import Tower
from ctr.model.windows import RecentWindows, recent_windows
from ctr.schema import FeatureSpec
from kernels import gathered_sum


@dataclass(frozen=True)
class Features:
    """Which features describe the user and the target item beside their ids."""

    user: tuple[FeatureSpec, ...]
    target: tuple[FeatureSpec, ...]


@dataclass(frozen=True)
class LongBranch:
    """The long branch: who picks, who models the picks."""

    gsu: GeneralSearchUnit
    attention: nn.Module


class Network(nn.Module):
    """Click logit of each sample of a batch.

    Args:
        tables: embedding tables.
        catalog: frozen item vectors and features.
        features: of users and targets.
        behaviours: what a behaviour is made of.
        recent: attention over the latest `recent_length` behaviours.
        recent_length: of the recent branch.
        long: GSU and attention, or None for a model without a long branch (DIN).
        simtier: histograms, by the sequence they count: "recent", "retrieved".
        head: tower.
    """

    def __init__(
        self,
        *,
        tables: EmbeddingTables,
        catalog: ItemCatalog,
        features: Features,
        behaviours: BehaviourSpace,
        recent: RecentAttention,
        recent_length: int,
        long: LongBranch | None,
        simtier: dict[str, SimTier],
        head: Tower,
    ) -> None:
        super().__init__()
        self.tables, self.catalog, self.features = tables, catalog, features
        self.behaviours, self.recent_length = behaviours, recent_length
        self.recent, self.head = recent, head
        self.gsu = long.gsu if long else None
        self.attention = long.attention if long else None
        self.simtier = nn.ModuleDict(simtier)

    def forward(self, batch: Batch) -> Tensor:
        """Logits float [B]."""
        retrieved = self._search(batch)
        windows = recent_windows(
            batch.user_B,
            batch.history_begin_B,
            batch.history_end_B,
            batch.history_offsets_U,
            self.recent_length,
        )
        key_V, recent_R, index_BK = self._distinct(batch, windows, retrieved)
        found = look_up(
            self.tables, {**self._requests(batch), **self.behaviours.requests(key_V, self.catalog)}
        )
        behaviour_VE = self.behaviours.embed(found)
        target_B = self._target(found)
        parts = [*self.recent(target_B, behaviour_VE.index_select(0, recent_R), windows)]
        if retrieved is not None and index_BK is not None:
            parts += self._long(batch, retrieved, target_B, behaviour_VE, index_BK)
        if "recent" in self.simtier:
            parts.append(self._recent_tiers(batch, windows))
        parts += [found[f"target.{name}"] for name in ("item", *self._target_names())]
        parts += [found[f"user.{f.name}"].index_select(0, batch.user_B) for f in self.features.user]
        return self.head(torch.cat(parts, dim=1))

    def _search(self, batch: Batch) -> Retrieved | None:
        """What the GSU picks, with the cosine of frozen vectors where anything downstream needs it.

        In float32 whatever the training precision: picks and tiers must not depend on it.
        """
        if self.gsu is None:
            return None
        assert self.attention is not None
        with torch.no_grad(), torch.autocast(batch.user_B.device.type, enabled=False):
            retrieved = self.gsu(batch, self.catalog, self.tables)
            wanted = "retrieved" in self.simtier or self.attention.uses_similarity
            if retrieved.similarity_BK is None and wanted:
                return self._with_similarity(batch, retrieved)
        return retrieved

    def _distinct(
        self, batch: Batch, windows: RecentWindows, retrieved: Retrieved | None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Keys of the step's distinct behaviours, and where recent and picked ones are in them."""
        recent = self.behaviours.keys(batch, windows.position_R)
        if retrieved is None:
            key_V, index = torch.unique(recent, return_inverse=True)
            return key_V, index, None
        picked = self.behaviours.keys(batch, retrieved.index_BK, retrieved.mask_BK)
        key_V, index = torch.unique(torch.cat([recent, picked.view(-1)]), return_inverse=True)
        recent_R, picked_N = index.split([recent.numel(), picked.numel()])
        return key_V, recent_R, picked_N.view(picked.shape)

    def _target_names(self) -> list[str]:
        return [f.name for f in self.features.target]

    def _requests(self, batch: Batch) -> dict[str, Request]:
        items = batch.target_item_B
        requests = {"target.item": Request("item", items)}
        for f in self.features.target:
            requests[f"target.{f.name}"] = Request(
                f.table, self.catalog.feature_rows(f.name, items)
            )
        for f in self.features.user:
            requests[f"user.{f.name}"] = Request(f.table, batch.user_features_U[f.name])
        return requests

    def _target(self, found: dict[str, Tensor]) -> Tensor:
        """What attends: the target's counterpart of a behaviour, without side columns."""
        names = ["item", *(f.name for f in self.behaviours.item_features)]
        return torch.cat([found[f"target.{name}"] for name in names], dim=1)

    def _long(
        self,
        batch: Batch,
        retrieved: Retrieved,
        target_B: Tensor,
        behaviour_VE: Tensor,
        index_BK: Tensor,
    ) -> list[Tensor]:
        assert self.attention is not None
        mask_BK, similarity_BK = retrieved.mask_BK, retrieved.similarity_BK
        interest = self.attention(target_B, behaviour_VE, index_BK, mask_BK, similarity_BK)
        even_BK = mask_BK / mask_BK.sum(dim=1, keepdim=True).clamp(min=1)
        mean = gathered_sum(even_BK.to(behaviour_VE.dtype), behaviour_VE, index_BK)
        parts = [interest, mean]
        if "retrieved" in self.simtier:
            assert similarity_BK is not None
            known_BK = mask_BK if retrieved.known_BK is None else mask_BK & retrieved.known_BK
            parts.append(self.simtier["retrieved"](similarity_BK, known_BK))
        return parts

    def _with_similarity(self, batch: Batch, retrieved: Retrieved) -> Retrieved:
        """The picks with their cosine to the target, and where it exists."""
        items_BK = torch.zeros_like(retrieved.index_BK)
        if batch.history_item_T.numel():
            items_BK = batch.history_item_T[retrieved.index_BK].long()
        vector_BKM = self.catalog.unit_vectors(items_BK)
        target_BM = self.catalog.unit_vectors(batch.target_item_B)
        similarity_BK = torch.bmm(vector_BKM, target_BM[:, :, None]).squeeze(2)
        known_BK = vector_BKM.any(dim=2) & target_BM.any(dim=1, keepdim=True)
        return replace(retrieved, similarity_BK=similarity_BK, known_BK=known_BK)

    def _recent_tiers(self, batch: Batch, windows: RecentWindows) -> Tensor:
        with torch.no_grad(), torch.autocast(batch.user_B.device.type, enabled=False):
            items_R = batch.history_item_T.index_select(0, windows.position_R).long()
            vector_GPM = nn.functional.embedding(
                windows.index_GP, self.catalog.unit_vectors(items_R)
            )
            target_GnM = grouped(self.catalog.unit_vectors(batch.target_item_B), windows)
            similarity_GnP = torch.bmm(target_GnM, vector_GPM.transpose(1, 2))
            # A behaviour or target without a vector has no similarity to count.
            known_GP = vector_GPM.any(dim=2)
            known_Gn = target_GnM.any(dim=2)
            mask = windows.mask_GnP & known_GP[:, None] & known_Gn[..., None]
        return ungrouped(self.simtier["recent"](similarity_GnP, mask), windows)
