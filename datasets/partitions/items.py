"""Items by partitions: merged counts, features and categories of those that get a row.

D distinct (item, category) pairs of a partition; N items of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from datasets.counting import MISSING, Pairs, likeliest_category, merge_pairs
from datasets.partitions.keys import find_in_order, first_of_runs, keys_of, sort_order
from datasets.partitions.ranking import Ranked, save_ranked
from datasets.partitions.runs import read_runs

_PAIRS = {"key": np.uint64, "category": np.int64, "count": np.int32}
_MISSING_KEY = keys_of(np.array([MISSING]))[0]


@dataclass(frozen=True)
class ItemRuns:
    """Runs that items come from.

    Args:
        histories: pairs with their counts.
        targets: items of the samples by split, with their counts.
        features: items with their features, in the order of the source.
        names: of the features, `category` among them.
    """

    histories: list[Path]
    targets: Mapping[str, list[Path]]
    features: list[Path]
    names: tuple[str, ...]


@dataclass(frozen=True)
class ItemPartition:
    """One partition of the items.

    Args:
        ranked: those that get a row, with their features.
        values: values of each feature and how many of these items have them.
        counts: what had to be bent, by the manifest's names.
    """

    ranked: Ranked
    values: dict[str, tuple[NDArray[np.int64], NDArray[np.int64]]]
    counts: dict[str, int]


def reduce_items(
    runs: ItemRuns, spill: Path, min_frequency: int, task: tuple[int, tuple[int, int]]
) -> ItemPartition:
    """Merge what all runs say of the items of one partition.

    Args:
        runs: of the source.
        spill: folder for the partition.
        min_frequency: history items seen fewer times get no row; targets always have one.
        task: number of the partition, and its span of fences.
    """
    place, span = task
    columns, _ = read_runs(runs.histories, span, _PAIRS)
    pairs = merge_pairs(columns.pop("key"), columns.pop("category"), columns.pop("count"))
    key, count, is_target = _totals(runs, span, pairs)
    keep = (key != _MISSING_KEY) & (is_target | (count >= min_frequency))
    key, count, is_target = key[keep], count[keep], is_target[keep]
    known, features, conflicting = _features(runs, span)
    found = find_in_order(known, key)
    table = {
        name: np.where(found >= 0, np.append(values, MISSING)[found], MISSING)
        for name, values in features.items()
    }
    table["category"], several = likeliest_category(key, table["category"], pairs)
    ranked = save_ranked(spill / "items" / f"{place:04d}", key, count, table)
    return ItemPartition(
        ranked,
        {name: np.unique(values, return_counts=True) for name, values in table.items()},
        {
            "conflicting_item_features": conflicting,
            "targets_without_features": int((is_target & (found < 0)).sum()),
            "category_conflicts": several,
        },
    )


def _totals(
    runs: ItemRuns, span: tuple[int, int], pairs: Pairs
) -> tuple[NDArray[np.uint64], NDArray[np.int64], NDArray[np.bool_]]:
    """Keys of all items, rising; how often histories and training have them; whether targets."""
    first = np.flatnonzero(first_of_runs(pairs.key))
    keys = [pairs.key[first]]
    counts = [np.add.reduceat(pairs.count, first) if len(first) else pairs.count]
    in_history = len(first)
    for split, folders in runs.targets.items():
        columns, _ = read_runs(folders, span, {"key": np.uint64, "count": np.int64})
        keys.append(columns["key"])
        # What is counted is what training sees.
        counts.append(columns["count"] * (split == "train"))
    key = np.concatenate(keys)
    order = sort_order(key)
    first = np.flatnonzero(first_of_runs(key[order]))
    if not len(first):
        return key, np.empty(0, np.int64), np.empty(0, bool)
    total = np.add.reduceat(np.concatenate(counts)[order], first)
    return key[order][first], total, np.logical_or.reduceat(order >= in_history, first)


def _features(
    runs: ItemRuns, span: tuple[int, int]
) -> tuple[NDArray[np.uint64], dict[str, NDArray[np.int64]], int]:
    """Keys of items with features, their first ones, and how many others there were."""
    columns, _ = read_runs(
        runs.features, span, {"key": np.uint64, **dict.fromkeys(runs.names, np.int64)}
    )
    key = columns.pop("key")
    rows = np.lexsort((*columns.values(), key))
    distinct = first_of_runs(key[rows], *(values[rows] for values in columns.values()))
    order = sort_order(key)
    first = order[first_of_runs(key[order])]
    features = {name: values[first] for name, values in columns.items()}
    return key[first], features, int(distinct.sum()) - len(first)
