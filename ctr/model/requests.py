"""Lookups that a step wants of the embedding tables, done together."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ctr.model.embeddings import EmbeddingTables, Lookup


@dataclass(frozen=True)
class Request:
    """Rows of one embedding table that a part of the network wants: int64 [n]."""

    table: str
    rows: Tensor


@dataclass(frozen=True)
class Wanted:
    """All requests of a step.

    Attributes:
        lookup: of their ids, one per table.
        sizes: by table, the requests' names and how many rows each wants, in the lookup's order.
    """

    lookup: Lookup
    sizes: dict[str, dict[str, int]]


def gather(tables: EmbeddingTables, requests: dict[str, Request]) -> Wanted:
    """The requests by table, in one lookup each; reads nothing that is trained."""
    by_table: dict[str, list[str]] = {}
    for name, request in requests.items():
        by_table.setdefault(request.table, []).append(name)
    lookup = tables.gather(
        {table: torch.cat([requests[n].rows for n in names]) for table, names in by_table.items()}
    )
    sizes = {t: {n: requests[n].rows.numel() for n in names} for t, names in by_table.items()}
    return Wanted(lookup, sizes)


def fetch(tables: EmbeddingTables, wanted: Wanted) -> dict[str, Tensor]:
    """Embeddings [n, D] of every request, by its name."""
    found = tables.fetch(wanted.lookup)
    parts: dict[str, Tensor] = {}
    for table, sizes in wanted.sizes.items():
        parts.update(zip(sizes, found[table].split(list(sizes.values())), strict=True))
    return parts


def look_up(tables: EmbeddingTables, requests: dict[str, Request]) -> dict[str, Tensor]:
    """Embeddings [n, D] of every request, by its name, in one lookup per table."""
    return fetch(tables, gather(tables, requests))
