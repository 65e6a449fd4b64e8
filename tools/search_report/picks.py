"""Picks of a network's search, of another search in its place, and what two have in common.

Shape legend: B samples, K picks.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from ctr.config import ModelConfig
from ctr.data.batch import Batch
from ctr.inference import with_cosines
from ctr.model.gsu import STRATEGIES, GeneralSearchUnit, Retrieved, SearchShape
from ctr.model.network import Network


def picks(network: Network, batch: Batch) -> Retrieved:
    """What the network's search picks, with cosines where the store has vectors."""
    retrieved = network.search(batch)
    assert retrieved is not None
    return with_cosines(network, batch, retrieved)


@contextmanager
def searching(network: Network, gsu: GeneralSearchUnit | None) -> Iterator[None]:
    """The network with another search, or with none."""
    own = network.gsu
    _set_search(network, gsu)
    try:
        yield
    finally:
        _set_search(network, own)


def _set_search(network: Network, gsu: GeneralSearchUnit | None) -> None:
    # Some searches are modules and some are not, which torch refuses to mix under one name.
    del network.gsu
    network.gsu = gsu


def other_search(network: Network, config: ModelConfig, name: str) -> GeneralSearchUnit:
    """Another search, by its name, that picks as many behaviours for this network.

    Args:
        network: on the device where it will search; config: it was made from; name: in STRATEGIES.
    """
    items, dims = network.behaviours.items, network.tables.dims
    width = sum(dims[table] for table in ("item", *(f.table for f in items.features)))
    width += items.content.out_features if items.content is not None else 0
    gsu = STRATEGIES[name](SearchShape(config.retrieved, width, config.hash_bits))
    if isinstance(gsu, nn.Module):
        gsu.to(next(network.parameters()).device)
    return gsu


def shared(a: Retrieved, b: Retrieved) -> Tensor:
    """How many picks of `a` are picks of `b`, too: int64 [B]."""
    # Indices into the batch's history are those of other samples as well, so that a pick is a pair.
    rows = 1 + int(max(x.index_BK.max() if x.index_BK.numel() else 0 for x in (a, b)))
    pair_a, pair_b = (
        torch.arange(len(x.index_BK), device=x.index_BK.device)[:, None] * rows + x.index_BK
        for x in (a, b)
    )
    return (torch.isin(pair_a, pair_b[b.mask_BK]) & a.mask_BK).sum(dim=1)
