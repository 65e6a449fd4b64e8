"""What a step knows before it looks at anything trained.

Shape legend: B samples, V distinct behaviours of the step, G groups, n samples of a group, P latest
behaviours.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor

from ctr.data.batch import Batch
from ctr.model.embeddings import EmbeddingTables
from ctr.model.gsu.picks import Retrieved
from ctr.model.requests import Wanted
from ctr.model.windows import RecentWindows


@dataclass(frozen=True)
class Prepared:
    """A batch with all that follows from it and from frozen data.

    For a search that reads frozen data only, earlier steps have no part in it, so that it can be
    made while they are still under way, with the same result.

    Attributes:
        batch: the samples.
        windows: over their latest behaviours.
        retrieved: what the GSU picked; None for a model without one.
        recent_similarity: float32 [G, n, P] cosine of the latest behaviours and where it is known,
            bool; None where nobody reads them.
        key_V: int64 distinct behaviours of the step.
        index: by sequence, int64 place of each behaviour in `key_V`.
        wanted: what is to be looked up; None for a model without embedding tables.
    """

    batch: Batch
    windows: RecentWindows
    retrieved: Retrieved | None
    recent_similarity: tuple[Tensor, Tensor] | None
    key_V: Tensor
    index: dict[str, Tensor]
    wanted: Wanted | None

    def __len__(self) -> int:
        return len(self.batch)

    def send(self, tables: EmbeddingTables) -> Prepared:
        """Announce the ids to the processes that hold their rows; all processes must."""
        if self.wanted is None:
            return self
        sent = replace(self.wanted, lookup=tables.send(self.wanted.lookup))
        return replace(self, wanted=sent)

    def exchange(self) -> None:
        """Begin to exchange the ids that were announced; all processes must."""
        if self.wanted is not None:
            self.wanted.lookup.exchange()
