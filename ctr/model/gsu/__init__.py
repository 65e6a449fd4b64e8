"""General Search Units: L behaviours -> the K that matter for the target (MUSE, section 3.1)."""

from __future__ import annotations

from collections.abc import Callable

from ctr.model.gsu.category import CategorySearch
from ctr.model.gsu.cosine import CosineSearch
from ctr.model.gsu.id_soft import IdSearch
from ctr.model.gsu.picks import GeneralSearchUnit, Retrieved, Search
from ctr.model.gsu.recent import RecentSearch

STRATEGIES: dict[str, Callable[[int], GeneralSearchUnit]] = {
    "cosine": CosineSearch,
    "category": CategorySearch,
    "id_soft": IdSearch,
    "recent": RecentSearch,
}

__all__ = [
    "STRATEGIES",
    "CategorySearch",
    "CosineSearch",
    "GeneralSearchUnit",
    "IdSearch",
    "RecentSearch",
    "Retrieved",
    "Search",
]
