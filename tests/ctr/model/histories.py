"""A few users' histories by hand, with side columns, and the windows of their samples.

Shape legend: B samples, V distinct behaviours, I width of an item, E width of a behaviour.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from ctr.data.batch import Batch
from ctr.model.gsu import Search

I, E = 6, 9

# User, begin and end of each sample's window: empty ones, one event, overlapping and nested ones, a
# user without a history, and one whose samples see neither its first nor its last events.
WINDOWS = [
    *[(0, 0, 0), (0, 0, 9), (0, 4, 9), (0, 4, 30), (0, 11, 40)],
    *[(1, 0, 1), (1, 0, 3)],
    (2, 0, 0),
    *[(3, 5, 21), (3, 6, 22), (3, 7, 23), (3, 23, 23)],
]
LENGTHS = [40, 3, 0, 25]


@dataclass(frozen=True)
class Histories:
    """A batch, and vectors of its distinct behaviours and of its targets.

    Attributes:
        rows_VE: float; each begins with the vector of its item.
        index_T: int64; row of each event.
    """

    batch: Batch
    rows_VE: torch.Tensor
    index_T: torch.Tensor
    target_BI: torch.Tensor

    def seen(self, sample: int) -> np.ndarray:
        """Events of known items in the window of a sample, oldest first."""
        base = int(self.batch.history_offsets_U[self.batch.user_B[sample]])
        begin, end = self.batch.history_begin_B[sample], self.batch.history_end_B[sample]
        events = np.arange(base + int(begin), base + int(end))
        return events[self.batch.history_item_T[events].numpy() != 0]

    def search(self, **units: torch.nn.Module) -> Search:
        """A search among them."""

        def embed() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
            return self.rows_VE, self.index_T, self.target_BI

        return Search(self.batch, None, None, embed, units)


def histories(windows=WINDOWS, lengths=LENGTHS, items=17, seed=3) -> Histories:
    """Random events, an unknown item (row 0) among them; each comes in two sorts."""
    made = torch.Generator().manual_seed(seed)
    offsets = torch.tensor([0, *np.cumsum(lengths, dtype=np.int64)])
    event_T = torch.randint(0, items * 2, (int(offsets[-1]),), generator=made)
    key_V, index_T = torch.unique(event_T, return_inverse=True)
    item_VI = torch.randn(items, I, generator=made)[key_V // 2]
    rows_VE = torch.cat([item_VI, torch.randn(len(key_V), E - I, generator=made)], dim=1)
    user, begin, end = torch.tensor(windows, dtype=torch.int64).view(-1, 3).t().contiguous()
    batch = Batch(
        user_features_U={},
        history_item_T=(event_T // 2).int(),
        history_events_T={},
        history_offsets_U=offsets,
        user_B=user,
        history_begin_B=begin,
        history_end_B=end,
        target_item_B=torch.ones_like(user),
        sample_features_B={},
        label_B=torch.zeros(len(user)),
        sample_B=torch.arange(len(user)),
        step_samples=len(user),
    )
    return Histories(batch, rows_VE, index_T, torch.randn(len(user), I, generator=made))


def picks(retrieved, sample: int) -> list[int]:
    """Events that were picked for a sample, best first."""
    return retrieved.index_BK[sample][retrieved.mask_BK[sample]].tolist()
