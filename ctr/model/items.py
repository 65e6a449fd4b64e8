"""What an item is made of, for targets and behaviours alike.

Shape legend: N items, W entries of a list feature, D width of a table, I width of an item,
M width of a frozen vector.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ctr.model.catalog import ItemCatalog
from ctr.model.requests import Request
from ctr.schema import FeatureSpec


class ItemSpace(nn.Module):
    """Item vectors: id embedding, feature embeddings, projected content, side by side.

    A list feature (tags) is the mean of its entries; without any it is zero (QIN's item vector,
    arXiv 2504.17699).

    Args:
        features: of an item that belong to its vector.
        content: projection of its frozen vector, or None to leave that out.
    """

    def __init__(self, features: tuple[FeatureSpec, ...], content: nn.Linear | None) -> None:
        super().__init__()
        self.features, self.content = features, content

    def requests(self, prefix: str, items: Tensor, catalog: ItemCatalog) -> dict[str, Request]:
        """What must be looked up to make the vectors of items int64 [N], names `prefix.*`."""
        wanted = {f"{prefix}.item": Request("item", items)}
        for feature in self.features:
            wanted[f"{prefix}.{feature.name}"] = feature_request(feature, items, catalog)
        return wanted

    def embed(
        self, prefix: str, found: dict[str, Tensor], items: Tensor, catalog: ItemCatalog
    ) -> dict[str, Tensor]:
        """Parts [N, D] of the vectors of items int64 [N] by name: item, its features, content."""
        parts = {"item": found[f"{prefix}.item"]}
        for feature in self.features:
            rows = found[f"{prefix}.{feature.name}"]
            parts[feature.name] = pooled(feature, rows, items, catalog)
        if self.content is not None:
            parts["content"] = self.content(catalog.content(items))
        return parts


def feature_request(feature: FeatureSpec, items: Tensor, catalog: ItemCatalog) -> Request:
    """The rows of an item feature that items int64 [N] have: int64 [N * W]."""
    return Request(feature.table, catalog.feature_rows(feature.name, items).reshape(-1))


def pooled(feature: FeatureSpec, rows: Tensor, items: Tensor, catalog: ItemCatalog) -> Tensor:
    """Embeddings float [N, D] of a feature: the rows themselves, or the mean of a list's entries.

    Args:
        feature: of items; rows: float [N * W, D], as looked up; items: int64 [N].
    """
    if feature.width == 1:
        return rows
    there_NW = catalog.feature_rows(feature.name, items) != 0
    share_NW = there_NW / there_NW.sum(dim=1, keepdim=True).clamp(min=1)
    rows_NWD = rows.view(*there_NW.shape, rows.shape[1])
    return torch.bmm(share_NW[:, None].to(rows.dtype), rows_NWD).squeeze(1)
