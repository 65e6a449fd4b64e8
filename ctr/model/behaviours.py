"""Behaviours and their embeddings: the distinct ones of a step, each embedded once.

Shape legend: B samples, T history events of the batch, V distinct behaviours of the step,
E width of a behaviour.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ctr.data.batch import Batch
from ctr.model.catalog import ItemCatalog
from ctr.model.embeddings import EmbeddingTables
from ctr.schema import FeatureSpec

# What a behaviour tells of its item besides the item itself (MUSE: item and category).
ITEM_FEATURES = ("category",)


@dataclass(frozen=True)
class Request:
    """Rows of one embedding table that a part of the network wants: int64 [n]."""

    table: str
    rows: Tensor


def look_up(tables: EmbeddingTables, requests: dict[str, Request]) -> dict[str, Tensor]:
    """Embeddings [n, D] of every request, by its name, in one lookup per table."""
    by_table: dict[str, list[str]] = {}
    for name, request in requests.items():
        by_table.setdefault(request.table, []).append(name)
    found = tables(
        {table: torch.cat([requests[n].rows for n in names]) for table, names in by_table.items()}
    )
    parts: dict[str, Tensor] = {}
    for table, names in by_table.items():
        sizes = [requests[n].rows.numel() for n in names]
        parts.update(zip(names, found[table].split(sizes), strict=True))
    return parts


class BehaviourSpace:
    """Gives behaviours a key (item row and side columns in one number), and keys embeddings.

    Args:
        item_features: features of the item that belong to a behaviour.
        events: side columns of an event.
        table_rows: rows of each table.
    """

    def __init__(
        self,
        item_features: tuple[FeatureSpec, ...],
        events: tuple[FeatureSpec, ...],
        table_rows: dict[str, int],
    ) -> None:
        self.item_features, self.events, self.table_rows = item_features, events, table_rows
        self.names = ["item", *(f.name for f in item_features), *(f.name for f in events)]
        self.tables = ["item", *(f.table for f in item_features), *(f.table for f in events)]

    def keys(self, batch: Batch, index: Tensor, mask: Tensor | None = None) -> Tensor:
        """int64 keys of the batch's events at `index`; 0 (padding) where the mask is false."""
        if batch.history_item_T.numel() == 0:
            return torch.zeros_like(index)
        flat = index.reshape(-1)
        key = batch.history_item_T.index_select(0, flat).long()
        for event in self.events:
            column = batch.history_events_T[event.name].index_select(0, flat)
            key = key * self.table_rows[event.table] + column
        key = key.view(index.shape)
        return key if mask is None else key.masked_fill_(~mask, 0)

    def requests(self, key_V: Tensor, catalog: ItemCatalog) -> dict[str, Request]:
        """What must be looked up to embed the behaviours of these keys."""
        rest, side = key_V, {}
        for event in reversed(self.events):
            rows = self.table_rows[event.table]
            side[event.name] = Request(event.table, rest % rows)
            rest = rest // rows
        wanted = {"item": Request("item", rest)}
        for feature in self.item_features:
            wanted[feature.name] = Request(feature.table, catalog.feature_rows(feature.name, rest))
        return {f"behaviour.{name}": request for name, request in {**wanted, **side}.items()}

    def embed(self, found: dict[str, Tensor]) -> Tensor:
        """[V, E] from the looked-up parts: item, its features, side columns, side by side."""
        return torch.cat([found[f"behaviour.{name}"] for name in self.names], dim=1)
