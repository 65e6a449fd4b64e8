"""Tables that have more rows than they had when a checkpoint was taken."""

from __future__ import annotations

import dataclasses
import re
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.distributed._shard.sharded_tensor import Shard, ShardedTensor

# The weight of a table, and whatever an optimizer keeps beside it.
_OF_TABLE = re.compile(r".*\.embeddings\.(?P<table>[^.]+)\.weight\b")


class Growth(NamedTuple):
    """Rows of a table."""

    then: int
    now: int


def is_table(name: str) -> bool:
    """Whether a tensor of a model is the weight of an embedding table."""
    return _OF_TABLE.fullmatch(name) is not None


def grown_tables(tensors: dict[str, Tensor], stored: dict[str, Any]) -> dict[str, Growth]:
    """Tables with more rows now than in a checkpoint.

    Args:
        tensors: of the model, by name.
        stored: of the checkpoint: what has a `size`, by name.
    """
    found = {}
    for name, tensor in tensors.items():
        match = _OF_TABLE.fullmatch(name)
        if match and name in stored:
            then, now = tuple(stored[name].size), tuple(tensor.size())
            if then[1:] == now[1:] and then[0] < now[0]:
                found[match["table"]] = Growth(then[0], now[0])
    return found


def first_rows(tensors: dict[str, Tensor], grown: dict[str, Growth]) -> dict[str, Tensor]:
    """The same tensors, but of tables that have grown the part that a checkpoint has, as views.

    Args:
        tensors: of a model and its optimizers, by name, sharded or not.
        grown: of `grown_tables`.
    """
    found = {}
    for name, tensor in tensors.items():
        match = _OF_TABLE.match(name)
        growth = grown.get(match["table"]) if match else None
        if growth is None or tensor.ndim == 0:
            found[name] = tensor
        elif isinstance(tensor, ShardedTensor):
            found[name] = _first_of_shards(tensor, growth)
        else:
            found[name] = tensor.detach()[: growth.then]
    return found


def _first_of_shards(tensor: ShardedTensor, growth: Growth) -> ShardedTensor:
    """A ShardedTensor of views of the shards.

    A row-wise optimizer state of a table whose columns are sharded has the table's rows once for
    each shard, one after another: what is left of each moves to the front.
    """
    whole = tensor.metadata()
    local = {tuple(shard.metadata.shard_offsets): shard.tensor for shard in tensor.local_shards()}
    kept, shards = [], []
    for told in whole.shards_metadata:
        copy, begin = divmod(told.shard_offsets[0], growth.now)
        rows = min(told.shard_sizes[0], growth.then - begin)
        if rows <= 0:
            continue
        kept.append(
            dataclasses.replace(
                told,
                shard_offsets=[copy * growth.then + begin, *told.shard_offsets[1:]],
                shard_sizes=[rows, *told.shard_sizes[1:]],
            )
        )
        here = local.get(tuple(told.shard_offsets))
        if here is not None:
            shards.append(Shard(here.detach()[:rows], kept[-1]))
    copies = whole.size[0] // growth.now
    size = torch.Size([copies * growth.then, *whole.size[1:]])
    return ShardedTensor._init_from_local_shards_and_global_metadata(
        shards,
        dataclasses.replace(whole, shards_metadata=kept, size=size),
        process_group=tensor._process_group,
    )
