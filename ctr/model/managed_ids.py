"""Ids that keep coming, each in a row of its own of a table that has fewer rows than there are ids.

Shape legend: C rows beside row 0, V distinct ids of a step, N those of them that have no row, A
those of these that get one, n ids.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

# Stands for the id of a row that nobody has; sorts last.
_FREE = torch.iinfo(torch.int64).max

# What an id is worth by the steps that had it, how many and the last of them, and the step now.
Score = Callable[[Tensor, Tensor, Tensor], Tensor]
SCORES: dict[str, Score] = {
    "lru": lambda count, last, step: last,
    # Of equal counts, the one that was seen last is worth more.
    "lfu": lambda count, last, step: count + last.double() / (step + 1),
    "distance_lfu": lambda count, last, step: count.double() / (step - last + 1),
}


class ManagedIds(nn.Module):
    """Zero-collision map of int64 ids to the rows of a table: no two ids ever share a row.

    A new id takes the row of the id with the lowest score, if its own is higher: by lru and
    distance_lfu the ids that live are those of TorchRec's MCHManagedCollisionModule with an
    eviction interval of 1. Id 0 (padding and unknown) has row 0, which nobody else gets, and an id
    without a row reads it.

    All state is in buffers, so that a checkpoint that fills them in place restores everything.

    Args:
        slots: rows of the table, row 0 included; at least 2.
        eviction: what an id is worth. lru: the last step that had it. lfu: the number of steps that
            had it since it has its row, at equal numbers the last one. distance_lfu: that number
            divided by 1 + the steps that have passed since.
    """

    ids: Tensor
    rows: Tensor
    counts: Tensor
    last_steps: Tensor
    step: Tensor

    def __init__(self, slots: int, eviction: str) -> None:
        super().__init__()
        self.score = SCORES[eviction]
        # In the order of the ids, the free ones at the end.
        self.register_buffer("ids", torch.full((slots - 1,), _FREE))
        self.register_buffer("rows", torch.arange(1, slots))
        self.register_buffer("counts", torch.zeros(slots - 1, dtype=torch.int64))
        self.register_buffer("last_steps", torch.zeros(slots - 1, dtype=torch.int64))
        self.register_buffer("step", torch.zeros((), dtype=torch.int64))

    def live(self) -> int:
        """Ids that have a row, without id 0."""
        return int((self.ids != _FREE).sum())

    def forward(self, ids_n: Tensor) -> Tensor:
        """Rows int64 [n] of int64 ids; 0 for those that have none. Changes nothing."""
        place_n, known_n = self._find(ids_n)
        return torch.where(known_n, self.rows[place_n], 0)

    def admit(self, ids_V: Tensor) -> Tensor:
        """Note the ids of a training step and give rows to new ones.

        Where there are more new ones than rows to be had, the smallest enter.

        Args:
            ids_V: int64 [V]; the distinct ids of the step on all processes, rising.

        Returns:
            int64 [A]; rows that changed hands: what they hold belongs to nobody now alive.
        """
        self.step += 1
        ids_V = ids_V[ids_V != 0]
        place_V, known_V = self._find(ids_V)
        known_places = place_V[known_V]
        self.counts[known_places] += 1
        self.last_steps[known_places] = self.step
        return self._replace(ids_V[~known_V])

    def _find(self, ids_n: Tensor) -> tuple[Tensor, Tensor]:
        """Where ids int64 [n] are, and whether, bool [n]; a place is valid where one is not."""
        place_n = torch.searchsorted(self.ids, ids_n).clamp(max=self.ids.numel() - 1)
        return place_n, self.ids[place_n] == ids_n

    def _replace(self, ids_N: Tensor) -> Tensor:
        """Give the rows of the lowest ids to new ones that are worth more; returns these rows."""
        most = min(ids_N.numel(), self.ids.numel())
        if most == 0:
            return self.rows[:0]
        score_C = self.score(self.counts, self.last_steps, self.step)
        new = self.score(torch.ones_like(self.step), self.step, self.step)
        places = _lowest(score_C, most)
        places_A = places[score_C[places] < new]
        rows_A = self.rows[places_A]
        self.ids[places_A] = ids_N[: places_A.numel()]
        self.counts[places_A] = 1
        self.last_steps[places_A] = self.step
        self._sort(places_A)
        return rows_A

    def _sort(self, places_A: Tensor) -> None:
        """Restore the order of the ids where only those at `places_A` are out of it."""
        stays_C = torch.ones_like(self.ids, dtype=torch.bool)
        stays_C[places_A] = False
        staying = stays_C.nonzero().squeeze(1)
        moved_A = places_A[self.ids[places_A].argsort()]
        # Merging two sorted lists: each moved one comes after the smaller ones of both.
        before_A = torch.searchsorted(self.ids[staying], self.ids[moved_A])
        target_A = before_A + torch.arange(moved_A.numel(), device=moved_A.device)
        stays_C.fill_(True)[target_A] = False
        order_C = torch.empty_like(self.ids)
        order_C[target_A] = moved_A
        order_C[stays_C] = staying
        for buffer in (self.ids, self.rows, self.counts, self.last_steps):
            buffer.copy_(buffer.index_select(0, order_C))


def _lowest(score_C: Tensor, count: int) -> Tensor:
    """Places of the lowest scores by rising score; of equal ones the last come first."""
    # Not kthvalue, which has no deterministic form on a GPU.
    bound = score_C.topk(count, largest=False).values.max()
    below = (score_C < bound).nonzero().squeeze(1)
    equal = (score_C == bound).nonzero().squeeze(1)
    places = torch.cat([below, equal[equal.numel() - (count - below.numel()) :]])
    places = places.sort(descending=True).values
    return places[score_C[places].argsort(stable=True)]
