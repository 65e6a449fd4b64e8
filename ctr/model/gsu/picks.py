"""What a General Search Unit is given and what it returns (MUSE, section 3.1).

Shape legend: B samples, K picks, T history events of the batch, U users, V distinct ids.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar, Protocol

from torch import Tensor, nn

from ctr.data.batch import Batch
from ctr.model.catalog import ItemCatalog
from ctr.model.embeddings import EmbeddingTables


@dataclass(frozen=True)
class Retrieved:
    """What a GSU picked for each sample.

    Attributes:
        index_BK: int64; index into the batch's flat history, 0 where nothing was picked.
        mask_BK: bool; whether something was picked. Picks come first, best first.
        similarity_BK: float32 cosine of frozen vectors, where the strategy computed it anyway.
        known_BK: bool; whether pick and target both have a vector; None where all picks do.
    """

    index_BK: Tensor
    mask_BK: Tensor
    similarity_BK: Tensor | None = None
    known_BK: Tensor | None = None


@dataclass(frozen=True)
class Search:
    """A step's search: what a strategy may look at.

    Attributes:
        batch, catalog, tables: samples, frozen item data, trained tables.
        embed: behaviours of the whole histories and targets as the tables have them now, in one
            lookup: float [V, E] distinct behaviours, int64 [T] row of each event, float [B, width]
            targets (without side columns).
        units: attention units of the picks, by name.
    """

    batch: Batch
    catalog: ItemCatalog
    tables: EmbeddingTables
    embed: Callable[[], tuple[Tensor, Tensor, Tensor]]
    units: Mapping[str, nn.Module]


@dataclass(frozen=True)
class SearchShape:
    """What a strategy is made for.

    Attributes:
        k: picks a sample.
        target: width of a target, and of what a behaviour tells of its item.
        hash_bits: of a code.
    """

    k: int
    target: int
    hash_bits: int


class GeneralSearchUnit(Protocol):
    """Picks at most K behaviours a sample, within what the sample may see; has no gradient.

    Attributes:
        reads_trained: whether it looks at trained weights; without them it may run steps ahead.
    """

    reads_trained: ClassVar[bool]

    def __call__(self, search: Search) -> Retrieved: ...


def event_rows(batch: Batch, index_T: Tensor) -> Tensor:
    """Rows int64 [T] of the events in a table whose row 0, which no kernel returns, stands first.

    Args:
        index_T: int64, row of each event among the distinct behaviours.

    Returns:
        One more; 0 for unknown items (item row 0).
    """
    return (index_T + 1).masked_fill_(batch.history_item_T == 0, 0)


def retrieved(batch: Batch, position_BK: Tensor, similarity_BK: Tensor | None = None) -> Retrieved:
    """Picks of a kernel's answer.

    Args:
        position_BK: int32, place within the user's stretch, best first; -1 where nothing is.
        similarity_BK: float32 cosine of frozen vectors, or None.
    """
    mask_BK = position_BK >= 0
    base_B = batch.history_offsets_U.index_select(0, batch.user_B)
    index_BK = (position_BK.long() + base_B[:, None]).masked_fill_(~mask_BK, 0)
    return Retrieved(index_BK, mask_BK, similarity_BK)
