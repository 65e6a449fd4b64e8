"""Lookups that a step wants of the embedding tables, done together."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ctr.model.embeddings import EmbeddingTables


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
