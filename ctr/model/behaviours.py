"""Behaviours and their embeddings: the distinct ones of a step, each embedded once.

Shape legend: T history events of the batch, V distinct behaviours of the step, E width of a
behaviour.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ctr.data.batch import Batch
from ctr.model.catalog import ItemCatalog
from ctr.model.items import ItemSpace
from ctr.model.requests import Request
from ctr.schema import FeatureSpec, StoreError


class BehaviourSpace(nn.Module):
    """Gives behaviours a key (item row and side columns in one number), and keys embeddings.

    Args:
        items: what an item is made of.
        events: side columns of an event.
        table_rows: rows of each table.

    Raises:
        StoreError: items and side columns make more combinations than there are keys.
    """

    def __init__(
        self, items: ItemSpace, events: tuple[FeatureSpec, ...], table_rows: dict[str, int]
    ) -> None:
        super().__init__()
        tables = ["item", *(event.table for event in events)] if events else []
        keys = math.prod(table_rows[table] for table in tables)
        if keys > 2**63:
            names = ", ".join(event.name for event in events)
            raise StoreError(
                f"event features {names}: with the items they make {keys:,} combinations, more "
                "than 64 bits can number; prepare the store without one of them, or with a higher "
                "minimum frequency"
            )
        self.items, self.events, self.table_rows = items, events, table_rows

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
        item_V, side = self._split(key_V)
        wanted = self.items.requests("behaviour", item_V, catalog)
        for event in self.events:
            wanted[f"behaviour.event.{event.name}"] = Request(event.table, side[event.name])
        return wanted

    def embed(self, found: dict[str, Tensor], key_V: Tensor, catalog: ItemCatalog) -> Tensor:
        """[V, E] from the looked-up parts: the item's vector and side columns, side by side."""
        item_V, _ = self._split(key_V)
        parts = [*self.items.embed("behaviour", found, item_V, catalog).values()]
        parts += [found[f"behaviour.event.{event.name}"] for event in self.events]
        return torch.cat(parts, dim=1)

    def _split(self, key_V: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        rest, side = key_V, {}
        for event in reversed(self.events):
            rows = self.table_rows[event.table]
            side[event.name] = rest % rows
            rest = rest // rows
        return rest, side
