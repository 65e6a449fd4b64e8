"""Embedding tables as TorchRec collections, looked up once per distinct id.

Shape legend: n ids of one table in a step, V distinct ones, D width of the table.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torchrec import EmbeddingCollection, EmbeddingConfig, JaggedTensor, KeyedJaggedTensor
from torchrec.distributed.types import ShardedModule
from torchrec.modules.embedding_configs import DataType

from ctr.model.managed_rows import ManagedRows
from ctr.model.replicated import SUFFIX, ReplicatedCollection
from ctr.model.table_parts import Initial, table_parts
from ctr.streams import keep_for_this_stream


@dataclass(frozen=True)
class TableShape:
    """Shape of an embedding table.

    Attributes:
        rows: row 0, padding and unknown, included.
        dim: width.
        eviction: policy of ManagedIds for a table with fewer rows than ids; None where an id is
            its own row.
    """

    rows: int
    dim: int
    eviction: str | None = None


@dataclass
class Travel:
    """Ids of a sharded collection on their way to the processes that hold their rows.

    Attributes:
        collection, context: TorchRec's; announced: the exchange of how many ids go where.
        ids: their own exchange, once it has begun.
    """

    collection: ShardedModule
    context: Any
    announced: Any
    ids: Any = None

    def exchange(self) -> None:
        """Begin to exchange the ids, once all processes have said how many."""
        if self.ids is None:
            self.ids = self.announced.wait()

    def rows(self) -> dict[str, JaggedTensor]:
        """What `collection(ids)` would have returned."""
        self.exchange()
        ids = self.ids.wait()
        # They may have been made on a side stream, and are read on this one.
        keep_for_this_stream((ids, self.context))
        found: dict[str, JaggedTensor] = self.collection.compute_and_output_dist(self.context, ids)
        return found


@dataclass(frozen=True)
class Lookup:
    """Ids of a step, each distinct one once, before or on their way to whoever holds the rows.

    Attributes:
        jagged: by collection; its tables' distinct ids.
        inverse: int64 [n] by table; place of each id that was asked for among the distinct ones.
        sent: by collection, ids that are under way.
    """

    jagged: dict[str, KeyedJaggedTensor]
    inverse: dict[str, Tensor]
    sent: dict[str, Travel] = field(default_factory=dict)

    def exchange(self) -> None:
        """Begin to exchange the ids that were announced by `EmbeddingTables.send`."""
        for travel in self.sent.values():
            travel.exchange()

    def distinct(self) -> dict[str, int]:
        """Ids that this process sends, by table."""
        found: dict[str, int] = {}
        for jagged in self.jagged.values():
            found.update(zip(jagged.keys(), jagged.length_per_key(), strict=True))
        return found


class EmbeddingTables(nn.Module):
    """All embedding tables, shared by whatever refers to them.

    An EmbeddingCollection holds tables of one width, so there is one collection a width. Each
    table is one feature of a KeyedJaggedTensor of batch size 1: its ids in this step, whatever
    their number, which lets every table have its own count of distinct ids.

    Args:
        tables: shape of each table.
        init_std: of the truncated normal that the weights start from.
        replicated: tables that every process holds whole.
        device: of the weights; meta for tables that are planned and never made.
        half: keep the weights in float16; embeddings and optimizer states are float32.
        sharded: the other tables are made by `ctr.sharding.shard`, each process its part of them,
            since the whole of one may fit nowhere.

    Attributes:
        trained_rows: by table, rows of a trained model's that had been there when it was trained;
            the ids after them read row 0. Tables that are not named have no other rows.
    """

    def __init__(
        self,
        tables: dict[str, TableShape],
        init_std: float,
        replicated: frozenset[str] = frozenset(),
        device: str = "cpu",
        half: bool = False,
        sharded: bool = False,
    ) -> None:
        super().__init__()
        self.dims = {name: shape.dim for name, shape in tables.items()}
        self.trained_rows: dict[str, int] = {}
        self.initial = Initial(init_std, int(torch.randint(2**62, ())))
        self.collections = nn.ModuleDict()
        self.names: dict[str, list[str]] = {}
        for dim in sorted(set(self.dims.values())):
            names = [name for name in sorted(tables) if tables[name].dim == dim]
            for kind, key, some in (
                (EmbeddingCollection, f"dim_{dim}", [n for n in names if n not in replicated]),
                (ReplicatedCollection, f"dim_{dim}{SUFFIX}", [n for n in names if n in replicated]),
            ):
                if some:
                    configs = [_config(name, tables[name], half) for name in some]
                    # Drawn are the weights later, and by nobody who does not hold them.
                    self.collections[key] = kind(tables=configs, device=torch.device("meta"))
                    self.names[key] = some
        eviction = {name: shape.eviction for name, shape in tables.items() if shape.eviction}
        slots = {name: tables[name].rows for name in eviction}
        with torch.device(device):
            self.managed = ManagedRows(slots, eviction, self.initial) if slots else None
        for key, collection in self.collections.items():
            if device != "meta" and not (sharded and type(collection) is EmbeddingCollection):
                self._start(key, collection.to_empty(device=device))

    def start(self) -> None:
        """Draw what this process holds of the tables that are sharded by now."""
        for key, collection in self.collections.items():
            if isinstance(collection, ShardedModule):
                self._start(key, collection)

    def _start(self, key: str, collection: nn.Module) -> None:
        for table in self.names[key]:
            for part in table_parts(collection, table):
                self.initial.fill(table, part)

    def forward(self, ids: dict[str, Tensor]) -> dict[str, Tensor]:
        """Embeddings of ids, table by table; each distinct id travels once.

        Args:
            ids: int64 [n] for any of the tables.

        Returns:
            float32 [n, D] for the same tables, in the order of the ids.
        """
        return self.fetch(self.gather(ids))

    def gather(self, ids: dict[str, Tensor]) -> Lookup:
        """The distinct ids of a step; reads nothing that is trained and talks to nobody.

        Args:
            ids: int64 [n] for any of the tables.

        Raises:
            KeyError: a table that is not there.
        """
        unknown = ids.keys() - self.dims.keys()
        if unknown:
            raise KeyError(f"no embedding table {', '.join(sorted(unknown))}")
        jagged, inverse = {}, {}
        for key in self.collections:
            names = self.names[key]
            some = next(iter(ids.values()))
            distinct = []
            for name in names:
                # A table that this step does not use still takes part in the collective.
                wanted = ids.get(name, some.new_zeros(0))
                if name in self.trained_rows:
                    wanted = torch.where(wanted < self.trained_rows[name], wanted, 0)
                values_V, inverse_n = torch.unique(wanted, return_inverse=True)
                distinct.append(values_V)
                if name in ids:
                    inverse[name] = inverse_n
            lengths = torch.tensor(
                [values_V.numel() for values_V in distinct], dtype=torch.int32, device=some.device
            )
            jagged[key] = KeyedJaggedTensor(keys=names, values=torch.cat(distinct), lengths=lengths)
        return Lookup(jagged, inverse)

    def send(self, lookup: Lookup) -> Lookup:
        """Announce the ids to the processes that hold their rows; all processes must.

        Those of a collection with a managed table stay: which rows they have is known when the
        steps before are done.
        """
        sent = {}
        for key, collection in self.collections.items():
            if isinstance(collection, ShardedModule) and not self._manages(key):
                context = collection.create_context()
                announced = collection.input_dist(context, lookup.jagged[key])
                sent[key] = Travel(collection, context, announced)
        return replace(lookup, sent=sent)

    def fetch(self, lookup: Lookup) -> dict[str, Tensor]:
        """Embeddings float32 [n, D] by table, of ids that are under way or are sent now.

        In training, with gradients, new ids of managed tables get rows; a search gives none.
        """
        if self.managed is not None and self.training and torch.is_grad_enabled():
            self._admit(self.managed, lookup)
        found: dict[str, Tensor] = {}
        for key, collection in self.collections.items():
            jagged = self._placed(key, lookup.jagged[key])
            rows = lookup.sent[key].rows() if key in lookup.sent else collection(jagged)
            names: list[str] = jagged.keys()
            for name in names:
                if name in lookup.inverse:
                    values_VD = rows[name].values()
                    if values_VD.requires_grad:
                        values_VD.register_hook(_finite_rows)
                    found[name] = values_VD.index_select(0, lookup.inverse[name])
        return found

    def _manages(self, key: str) -> bool:
        """Whether a collection has a managed table."""
        return self.managed is not None and any(n in self.managed.ids for n in self.names[key])

    def _admit(self, managed: ManagedRows, lookup: Lookup) -> None:
        distinct, collections = {}, {}
        for key, names in self.names.items():
            for table in names:
                if table in managed.ids:
                    distinct[table] = lookup.jagged[key][table].values()
                    collections[table] = self.collections[key]
        managed.admit(distinct, collections)

    def _placed(self, key: str, jagged: KeyedJaggedTensor) -> KeyedJaggedTensor:
        """The same with rows in place of the ids of managed tables."""
        if self.managed is None or not self._manages(key):
            return jagged
        names = self.names[key]
        rows = torch.cat([self.managed.rows(name, jagged[name].values()) for name in names])
        return KeyedJaggedTensor(keys=names, values=rows, lengths=jagged.lengths())


def _config(name: str, shape: TableShape, half: bool) -> EmbeddingConfig:
    return EmbeddingConfig(
        name=name,
        embedding_dim=shape.dim,
        num_embeddings=shape.rows,
        feature_names=[name],
        data_type=DataType.FP16 if half else DataType.FP32,
        # TorchRec would draw rows in an order that depends on how they are sharded.
        init_fn=lambda weight: weight,
    )


def _finite_rows(grad_VD: Tensor) -> Tensor:
    """The gradient with 0 for each row's where that is not finite.

    The update is part of the backward pass, so that nobody after it could keep such rows whole.
    """
    return torch.where(grad_VD.isfinite().all(dim=1, keepdim=True), grad_VD, 0.0)
