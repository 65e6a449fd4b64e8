"""General Search Units: L behaviours -> the K that matter for the target (MUSE, section 3.1)."""

from __future__ import annotations

from collections.abc import Callable

from ctr.model.gsu.category import CategorySearch
from ctr.model.gsu.cosine import CosineSearch
from ctr.model.gsu.eta import HashSearch
from ctr.model.gsu.id_soft import IdSearch
from ctr.model.gsu.picks import GeneralSearchUnit, Retrieved, Search, SearchShape
from ctr.model.gsu.recent import RecentSearch
from ctr.model.gsu.twin import TwinSearch

STRATEGIES: dict[str, Callable[[SearchShape], GeneralSearchUnit]] = {
    "cosine": lambda shape: CosineSearch(shape.k),
    "category": lambda shape: CategorySearch(shape.k),
    "id_soft": lambda shape: IdSearch(shape.k),
    "recent": lambda shape: RecentSearch(shape.k),
    "eta": lambda shape: HashSearch(shape.k, shape.target, shape.hash_bits),
    "twin": lambda shape: TwinSearch(shape.k),
}

__all__ = [
    "STRATEGIES",
    "CategorySearch",
    "CosineSearch",
    "GeneralSearchUnit",
    "HashSearch",
    "IdSearch",
    "RecentSearch",
    "Retrieved",
    "Search",
    "SearchShape",
    "TwinSearch",
]
