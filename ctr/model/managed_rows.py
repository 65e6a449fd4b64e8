"""Tables whose ids come and go: rows in place of ids, and rows that start anew.

Shape legend: V distinct ids of one table, on this process or on all, A rows that changed hands, D
width of a table.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ctr.model.managed_ids import ManagedIds
from ctr.model.table_parts import Initial, table_parts


class ManagedRows(nn.Module):
    """The ids of such tables. Every process knows all of them, and decides alike.

    So they do not depend on the number of processes, nor on how a table is sharded, and a
    checkpoint of any number of processes is loaded by any other.

    Args:
        slots: rows of each table, row 0 included.
        eviction: policy of each table, as of ManagedIds.
        initial: what a row starts from.
    """

    seed: Tensor

    def __init__(self, slots: dict[str, int], eviction: dict[str, str], initial: Initial) -> None:
        super().__init__()
        self.initial = initial
        self.ids = nn.ModuleDict(
            {table: ManagedIds(slots[table], eviction[table]) for table in sorted(slots)}
        )
        # Of the values that rows start anew from, which must be the same on all processes and in a
        # resumed run, where the processes' own generators are not.
        self.register_buffer("seed", torch.randint(2**62, ()))

    def rows(self, table: str, ids_n: Tensor) -> Tensor:
        """Rows int64 [n] of int64 ids; themselves where the table is none of ours."""
        if table not in self.ids:
            return ids_n
        rows_n: Tensor = self.ids[table](ids_n)
        return rows_n

    @torch.no_grad()
    def admit(self, distinct: dict[str, Tensor], collections: dict[str, nn.Module]) -> None:
        """Give rows to the new ids of a training step; on all processes at once.

        Weights and optimizer state of a row that changes hands start anew, so that nobody
        inherits them.

        Args:
            distinct: for each table int64 [V] ids of this process.
            collections: that hold the tables, sharded or not.
        """
        for index, (table, ids_V) in enumerate(_of_all_processes(distinct).items()):
            ids = self.ids[table]
            assert isinstance(ids, ManagedIds)
            rows_A = ids.admit(ids_V)
            if rows_A.numel():
                seed = int(self.seed) + int(ids.step) * len(self.ids) + index
                self._restart(collections[table], table, rows_A, seed)

    def _restart(self, collection: nn.Module, table: str, rows_A: Tensor, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        parts = table_parts(collection, table)
        if not parts:
            return
        start_AD = self.initial.draw(torch.empty(rows_A.numel(), parts[0].width), generator)
        start_AD = start_AD.to(rows_A.device)
        for part in parts:
            local_A = rows_A - part.first_row
            mine_A = (local_A >= 0) & (local_A < part.weight_RW.shape[0])
            local = local_A[mine_A]
            columns = slice(part.first_column, part.first_column + part.weight_RW.shape[1])
            part.weight_RW[local] = start_AD[mine_A, columns].to(part.weight_RW.dtype)
            for state in part.states:
                state[local] = 0


def _of_all_processes(distinct: dict[str, Tensor]) -> dict[str, Tensor]:
    """Distinct ids of all processes by table, rising."""
    if not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
        return distinct
    mine = torch.cat([*distinct.values()])
    sizes = mine.new_tensor([ids_V.numel() for ids_V in distinct.values()])
    every_size = [torch.empty_like(sizes) for _ in range(dist.get_world_size())]
    dist.all_gather(every_size, sizes)
    lengths = [found.tolist() for found in every_size]
    padded = mine.new_zeros(max(sum(length) for length in lengths))
    padded[: mine.numel()] = mine
    gathered = [torch.empty_like(padded) for _ in lengths]
    dist.all_gather(gathered, padded)
    pieces = [
        found[: sum(length)].split(length) for found, length in zip(gathered, lengths, strict=True)
    ]
    return {
        table: torch.cat(of_table).unique()
        for table, of_table in zip(distinct, zip(*pieces, strict=True), strict=True)
    }
