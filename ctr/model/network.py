"""The CTR network: embeddings -> GSU -> ESU -> head, as in MUSE's figure 2 (arXiv 2512.07216).

Shape legend: B samples, U users, T events of all histories, K picks, P latest behaviours,
R recent behaviours of the batch, V distinct behaviours, G groups, n samples of a group, M width of
a frozen vector, E width of a behaviour.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from ctr.data.batch import Batch
from ctr.model.behaviours import BehaviourSpace
from ctr.model.branch import Branch
from ctr.model.catalog import ItemCatalog
from ctr.model.clock import StageClock
from ctr.model.content_tower import ContentTower
from ctr.model.embeddings import EmbeddingTables
from ctr.model.gsu import GeneralSearchUnit, Retrieved, Search
from ctr.model.items import feature_request, pooled
from ctr.model.prepared import Prepared
from ctr.model.recent import recent_per_sample, recent_sequence, recent_similarity
from ctr.model.requests import Request, fetch, gather, look_up
from ctr.model.sequences import Picks
from ctr.model.trace import Trace
from ctr.model.windows import RecentWindows, recent_windows
from ctr.schema import FeatureSpec


@dataclass(frozen=True)
class Features:
    """Which features describe the user, the sample and the target item beside their ids."""

    user: tuple[FeatureSpec, ...]
    sample: tuple[FeatureSpec, ...]
    target: tuple[FeatureSpec, ...]


@dataclass(frozen=True)
class LongPart:
    """What looks further back than the recent branch.

    Attributes:
        gsu: picks behaviours for `branch`; None for a model without a search.
        branch: models the picks.
        whole: an ESU that reads every behaviour, without a search; or None.
    """

    gsu: GeneralSearchUnit | None = None
    branch: Branch | None = None
    whole: nn.Module | None = None


class Network(nn.Module):
    """Click logit of each sample of a batch.

    Args:
        tables: embedding tables.
        catalog: frozen item vectors and features.
        features: of users, samples and targets.
        behaviours: what a behaviour is made of.
        recent: models the latest `recent_length` behaviours.
        recent_length: of the recent branch.
        long: what looks further back.
        head: input parts side by side -> logit.
        content: tower over frozen vectors whose insides are inputs of the head; or None.
    """

    def __init__(
        self,
        *,
        tables: EmbeddingTables,
        catalog: ItemCatalog,
        features: Features,
        behaviours: BehaviourSpace,
        recent: Branch,
        recent_length: int,
        long: LongPart,
        head: nn.Module,
        content: ContentTower | None = None,
    ) -> None:
        super().__init__()
        self.tables, self.catalog, self.features = tables, catalog, features
        self.behaviours, self.recent_length = behaviours, recent_length
        self.recent, self.retrieved, self.whole = recent, long.branch, long.whole
        self.gsu, self.head, self.content = long.gsu, head, content
        self.search_clock = StageClock()
        self._compiled: Callable[[dict[str, Tensor], Prepared], Tensor] | None = None

    @property
    def searches_ahead(self) -> bool:
        """Whether what the search finds does not depend on what earlier steps have learnt."""
        return self.gsu is None or not self.gsu.reads_trained

    def forward(self, batch: Batch | Prepared, trace: Trace | None = None) -> Tensor:
        """Logits float [B], of a batch or of what `prepare` made of it; tells `trace` how."""
        ready = batch if isinstance(batch, Prepared) else self.prepare(batch)
        found = {} if ready.wanted is None else fetch(self.tables, ready.wanted)
        if trace is None:
            return (self._compiled or self._dense)(found, ready)
        trace.retrieved = ready.retrieved
        return self._dense(found, ready, trace)

    def compile_dense(self, backend: str = "inductor") -> None:
        """Let torch.compile make one graph, for all sizes, of all that follows the lookups.

        What is traced runs as it is. A part that no graph can hold is an error, not a slow step.
        """
        self._compiled = torch.compile(self._dense, dynamic=True, fullgraph=True, backend=backend)

    def _dense(
        self, found: dict[str, Tensor], ready: Prepared, trace: Trace | None = None
    ) -> Tensor:
        parts = self._inputs(found, ready, trace)
        if trace is not None:
            trace.parts = parts
        return self.head(torch.cat([*parts.values()], dim=1))

    @torch.no_grad()
    def prepare(self, batch: Batch) -> Prepared:
        """All that follows from the batch and frozen data: picks, similarities, ids to look up.

        With `searches_ahead` no trained weight is read, so that it may run beside earlier steps.
        """
        retrieved = None
        if self.gsu is not None:
            with self.search_clock.running(batch.user_B.device):
                retrieved = self.search(batch)
        windows = recent_windows(
            batch.user_B,
            batch.history_begin_B,
            batch.history_end_B,
            batch.history_offsets_U,
            self.recent_length,
        )
        return self._prepared(batch, windows, retrieved)

    def search(self, batch: Batch) -> Retrieved | None:
        """What the GSU picks, with the cosine of frozen vectors where anything downstream needs it.

        In float32 whatever the training precision: picks and tiers must not depend on it.
        """
        if self.gsu is None:
            return None
        assert self.retrieved is not None
        with torch.no_grad(), torch.autocast(batch.user_B.device.type, enabled=False):
            units: Mapping[str, nn.Module] = dict(self.retrieved.units.items())
            search = Search(batch, self.catalog, self.tables, lambda: self._embedded(batch), units)
            retrieved = self.gsu(search)
            if retrieved.similarity_BK is None and self.retrieved.uses_similarity:
                return self.with_similarity(batch, retrieved)
        return retrieved

    def with_similarity(self, batch: Batch, retrieved: Retrieved) -> Retrieved:
        """The picks with their cosine to the target, and where it exists."""
        items_BK = torch.zeros_like(retrieved.index_BK)
        if batch.history_item_T.numel():
            items_BK = batch.history_item_T[retrieved.index_BK].long()
        vector_BKM = self.catalog.unit_vectors(items_BK)
        target_BM = self.catalog.unit_vectors(batch.target_item_B)
        similarity_BK = torch.bmm(vector_BKM, target_BM[:, :, None]).squeeze(2)
        known_BK = vector_BKM.any(dim=2) & target_BM.any(dim=1, keepdim=True)
        return replace(retrieved, similarity_BK=similarity_BK, known_BK=known_BK)

    def costs(self) -> dict[str, float]:
        """Seconds that this process has searched, and the number of parameters.

        Of a sharded network those of this process's shards: ask before its tables are spread out.
        """
        embedding = {id(p): p.numel() for p in self.tables.parameters()}
        every = {id(p): p.numel() for p in self.parameters()}
        return {
            "search_seconds": self.search_clock.seconds(),
            "parameters_embedding": sum(embedding.values()),
            "parameters_dense": sum(n for key, n in every.items() if key not in embedding),
        }

    def _prepared(
        self, batch: Batch, windows: RecentWindows, retrieved: Retrieved | None
    ) -> Prepared:
        key_V, index = self._distinct(batch, windows, retrieved)
        similarity = None
        if self.recent.uses_similarity:
            similarity = recent_similarity(batch, windows, self.catalog)
        requests = {**self._requests(batch), **self.behaviours.requests(key_V, self.catalog)}
        wanted = gather(self.tables, requests)
        return Prepared(batch, windows, retrieved, similarity, key_V, index, wanted)

    def _inputs(
        self, found: dict[str, Tensor], ready: Prepared, trace: Trace | None
    ) -> dict[str, Tensor]:
        """The head's input by parts, of the embeddings that were found."""
        batch, retrieved, index = ready.batch, ready.retrieved, ready.index
        behaviour_VE = self.behaviours.embed(found, ready.key_V, self.catalog)
        target_parts, target_B = self._target(found, batch)
        rows_RE = behaviour_VE.index_select(0, index["recent"])
        recent = recent_sequence(ready.windows, rows_RE, *(ready.recent_similarity or ()))
        parts, weights = self.recent(target_B, recent)
        if trace is not None:
            trace.recent_index_BP, trace.recent_mask_BP = recent_per_sample(ready.windows)
            weights = {name: recent.per_sample(weight) for name, weight in weights.items()}
        if self.retrieved is not None and retrieved is not None:
            picks = self._picks(retrieved, behaviour_VE, index["retrieved"])
            long, of_picks = self.retrieved(target_B, picks)
            parts.update(long)
            weights.update(of_picks)
        if self.whole is not None:
            parts["whole"] = self.whole(target_B, behaviour_VE, index["whole"], batch)
        if self.content is not None:
            content, of_tower = self.content(batch, self.catalog, ready.windows, retrieved)
            parts.update(content)
            weights.update(of_tower)
        if trace is not None:
            trace.weights.update(weights)
        return {**parts, **target_parts, **self._context(found, batch)}

    def _picks(self, retrieved: Retrieved, behaviour_VE: Tensor, index_BK: Tensor) -> Picks:
        mask_BK = retrieved.mask_BK
        known_BK = mask_BK if retrieved.known_BK is None else mask_BK & retrieved.known_BK
        return Picks(behaviour_VE, index_BK, mask_BK, known_BK, retrieved.similarity_BK)

    def _distinct(
        self, batch: Batch, windows: RecentWindows, retrieved: Retrieved | None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Keys of the step's distinct behaviours, and where each sequence's are in them."""
        keys = {"recent": self.behaviours.keys(batch, windows.position_R)}
        if retrieved is not None:
            keys["retrieved"] = self.behaviours.keys(batch, retrieved.index_BK, retrieved.mask_BK)
        if self.whole is not None:
            every_T = torch.arange(batch.history_item_T.numel(), device=batch.user_B.device)
            keys["whole"] = self.behaviours.keys(batch, every_T)
        key_V, index = torch.unique(
            torch.cat([key.view(-1) for key in keys.values()]), return_inverse=True
        )
        parts = index.split([key.numel() for key in keys.values()])
        return key_V, {
            name: part.view(key.shape)
            for (name, key), part in zip(keys.items(), parts, strict=True)
        }

    def _embedded(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Distinct behaviours of the whole histories, row of each event, targets (see Search)."""
        every_T = torch.arange(batch.history_item_T.numel(), device=batch.user_B.device)
        key_V, index_T = torch.unique(self.behaviours.keys(batch, every_T), return_inverse=True)
        items, catalog = self.behaviours.items, self.catalog
        wanted = items.requests("target", batch.target_item_B, catalog)
        found = look_up(self.tables, {**wanted, **self.behaviours.requests(key_V, catalog)})
        target = items.embed("target", found, batch.target_item_B, catalog)
        behaviour_VE = self.behaviours.embed(found, key_V, catalog)
        return behaviour_VE, index_T, torch.cat([*target.values()], dim=1)

    def _requests(self, batch: Batch) -> dict[str, Request]:
        targets = batch.target_item_B
        requests = self.behaviours.items.requests("target", targets, self.catalog)
        for f in self.features.target:
            requests[f"target.{f.name}"] = feature_request(f, targets, self.catalog)
        for f in self.features.sample:
            requests[f"sample.{f.name}"] = Request(f.table, batch.sample_features_B[f.name])
        for f in self.features.user:
            requests[f"user.{f.name}"] = Request(f.table, batch.user_features_U[f.name])
        return requests

    def _target(self, found: dict[str, Tensor], batch: Batch) -> tuple[dict[str, Tensor], Tensor]:
        """All that is known of the targets by name, and what attends.

        What attends is the target's counterpart of a behaviour, without side columns.
        """
        items, targets = self.behaviours.items, batch.target_item_B
        own = items.embed("target", found, targets, self.catalog)
        parts = {"target.item": own["item"]}
        for f in self.features.target:
            rows = found[f"target.{f.name}"]
            known = own.get(f.name)
            parts[f"target.{f.name}"] = (
                pooled(f, rows, targets, self.catalog) if known is None else known
            )
        if "content" in own:
            parts["target.content"] = own["content"]
        return parts, torch.cat([*own.values()], dim=1)

    def _context(self, found: dict[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        parts = {f"sample.{f.name}": found[f"sample.{f.name}"] for f in self.features.sample}
        for f in self.features.user:
            parts[f"user.{f.name}"] = found[f"user.{f.name}"].index_select(0, batch.user_B)
        return parts
