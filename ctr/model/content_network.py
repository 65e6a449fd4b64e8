"""The network that pre-trains a content tower.

Shape legend: B samples.
"""

from __future__ import annotations

from torch import Tensor

from ctr.data.batch import Batch
from ctr.model.behaviours import BehaviourSpace
from ctr.model.branch import Branch
from ctr.model.catalog import ItemCatalog
from ctr.model.content_tower import ContentTower
from ctr.model.embeddings import EmbeddingTables
from ctr.model.gsu import GeneralSearchUnit, Retrieved
from ctr.model.head import SoleLogit
from ctr.model.items import ItemSpace
from ctr.model.network import Features, LongPart, Network
from ctr.model.prepared import Prepared
from ctr.model.recent import recent_per_sample
from ctr.model.trace import Trace
from ctr.model.windows import RecentWindows


class ContentNetwork(Network):
    """A content tower whose logit is the prediction, and nothing else (arXiv 2407.19467, 4.3).

    It has no embedding tables: epochs of pre-training look up and exchange no rows.

    Args:
        catalog: frozen item vectors; tower: to train.
        recent_length: behaviours of the recent sequence.
        gsu: search that needs no tables; None for a tower over the recent sequence.
    """

    def __init__(
        self,
        catalog: ItemCatalog,
        tower: ContentTower,
        recent_length: int,
        gsu: GeneralSearchUnit | None,
    ) -> None:
        super().__init__(
            tables=EmbeddingTables({}, init_std=1.0),
            catalog=catalog,
            features=Features((), (), ()),
            behaviours=BehaviourSpace(ItemSpace((), None), (), {}),
            recent=Branch("recent", {}, False, None),
            recent_length=recent_length,
            long=LongPart(gsu, None if gsu is None else Branch("retrieved", {}, False, None)),
            head=SoleLogit(),
            content=tower,
        )

    def _prepared(
        self, batch: Batch, windows: RecentWindows, retrieved: Retrieved | None
    ) -> Prepared:
        return Prepared(batch, windows, retrieved, None, batch.user_B.new_zeros(0), {}, None)

    def _inputs(
        self, found: dict[str, Tensor], ready: Prepared, trace: Trace | None
    ) -> dict[str, Tensor]:
        """The tower's logit alone."""
        assert self.content is not None
        parts, weights = self.content(ready.batch, self.catalog, ready.windows, ready.retrieved)
        if trace is not None:
            trace.recent_index_BP, trace.recent_mask_BP = recent_per_sample(ready.windows)
            trace.weights.update(weights)
        return {"make.logit": parts["make.logit"]}
