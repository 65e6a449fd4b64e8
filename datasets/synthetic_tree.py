"""Raw Taobao-MM tables of any size, for measuring preparation: quick to make, nothing to learn.

Sizes keep the proportions of the published tables: items and their popularity, lengths, users of
both splits, items with features and with vectors. `datasets.world` makes smaller trees with planted
interests.
Every event is a hash of its user and place, so that a user of both splits has one life.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from tqdm import tqdm

from datasets import taobao_mm
from datasets.command import run
from datasets.errors import data_error
from datasets.hashing import splitmix64

_ITEM, _CATEGORY, _USER, _PROFILE, _BRAND, _SHOP = range(1, 7)
_EVENT, _ITEM_CATEGORY, _LENGTH, _SAMPLE_USER, _SAMPLE_ITEM, _LABEL, _VECTOR = range(16, 23)
# Of the published tables: 6,929,606 train users, of whom 194,382 are among 2,063,682 test users.
_TEST_SHARE, _BOTH_SHARE = 0.298, 0.028
# Items for each user; a seventh of them have 90% of the events (density ~ rank ** (1 / a - 1)).
_ITEMS_PER_USER, _POPULARITY = 27.0, 18.4
_FEATURES_SHARE, _VECTORS_SHARE = 0.0171, 0.146
_SAMPLES_PER_USER, _CLICK_RATE = 11, 0.137
_CATEGORIES, _BRANDS, _SHOPS = 26_397, 542, 121
_PROFILE_VALUES = (11, 3, 49, 493, 6)
_MISSING_EVENTS = 0.001
_LATER_EVENTS = 50
_GROUP_EVENTS = 1_500_000
_GROUP_ROWS = 1 << 18


@dataclass(frozen=True)
class TreeSize:
    """How large the tree is and which random seed makes it.

    Args:
        users: users of the training split; everything else follows from them.
        history_length: events of the longest history; the mean is three quarters of it.
        seed: random seed.
    """

    users: int
    history_length: int = 1000
    seed: int = 0

    @property
    def items(self) -> int:
        """Items of the catalogue, with a history of 1000 events a user as published."""
        return max(100, int(self.users * _ITEMS_PER_USER * self.history_length / 1000))


def _hash(kind: int, index: NDArray[Any], seed: int = 0) -> NDArray[np.uint64]:
    base = splitmix64(np.array([kind | seed << 8], np.uint64))
    return splitmix64(base ^ index.astype(np.uint64))


def _ids(kind: int, index: NDArray[Any]) -> NDArray[np.int64]:
    """Made-up ids over the whole int64 range, one for each index; 0 stays free for "missing"."""
    ids = _hash(kind, index).view(np.int64)
    ids[ids == 0] = 1
    return ids


def _share(words: NDArray[np.uint64]) -> NDArray[np.float64]:
    """Evenly over (0, 1]."""
    return ((words >> np.uint64(11)) + np.uint64(1)).astype(np.float64) * 2.0**-53


def _category(item: NDArray[Any]) -> NDArray[np.int64]:
    return (_share(_hash(_ITEM_CATEGORY, item)) ** 2 * (_CATEGORIES - 1)).astype(np.int64)


def _lists(values: NDArray[Any], lengths: NDArray[np.int64]) -> pa.Array:
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(values))


def _write(folder: Path, name: str, groups: Iterator[Mapping[str, Any]]) -> None:
    schema = taobao_mm.raw_schema(name)
    # Random ids: a dictionary or a compressor would find next to nothing.
    options = {"use_dictionary": False, "compression": "none", "write_statistics": False}
    with pq.ParquetWriter(folder / f"{name}.parquet", schema, **options) as writer:
        for columns in tqdm(groups, desc=name, disable=None):
            arrays = [pa.array(columns[taobao_mm.WORD[field.name]]) for field in schema]
            writer.write_table(pa.table(arrays, schema=schema))


def _groups(count: int, size: int) -> list[NDArray[np.int64]]:
    return [np.arange(start, min(start + size, count)) for start in range(0, count, size)]


def _split_users(size: TreeSize) -> dict[str, NDArray[np.int64]]:
    """Users of each split, by index; the test users begin with those of both splits."""
    both = max(1, int(size.users * _BOTH_SHARE))
    alone = max(1, int(size.users * _TEST_SHARE) - both)
    train = np.arange(size.users)
    return {"train": train, "test": np.append(train[:both], size.users + np.arange(alone))}


def _histories(
    size: TreeSize, users: NDArray[np.int64], later: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Item ids and category ids [T] of all users' histories, and their lengths [U]."""
    share = _share(_hash(_LENGTH, users, size.seed))
    first = np.minimum(size.history_length, (2.2 * share * size.history_length).astype(np.int64))
    # A history of more than the longest loses its oldest events.
    ends = first + later
    begins = np.maximum(0, ends - size.history_length)
    lengths = ends - begins
    place_T = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths - begins, lengths)
    words_T = _hash(_EVENT, (np.repeat(users, lengths) << 24) | place_T, size.seed)
    item_T = (size.items * np.exp(_POPULARITY * np.log(_share(words_T)))).astype(np.int64)
    items, categories = _ids(_ITEM, item_T), _ids(_CATEGORY, _category(item_T))
    # The low bits took no part in the choice of the item.
    missing = np.flatnonzero((words_T & np.uint64(2047)) < np.uint64(2048 * _MISSING_EVENTS))
    items[missing] = categories[missing] = 0
    return items, categories, lengths


def _user_groups(
    size: TreeSize, split: str, users: NDArray[np.int64]
) -> Iterator[Mapping[str, Any]]:
    for part in _groups(len(users), max(1, _GROUP_EVENTS // size.history_length)):
        chosen = users[part]
        later = np.where((split == "test") & (chosen < size.users), _LATER_EVENTS, 0)
        items, categories, lengths = _histories(size, chosen, later)
        columns: dict[str, Any] = {
            "user_id": _ids(_USER, chosen),
            "history_item": _lists(items, lengths),
            "history_category": _lists(categories, lengths),
        }
        for kind, (word, count) in enumerate(zip(taobao_mm.PROFILE, _PROFILE_VALUES, strict=True)):
            value = _hash(_PROFILE, chosen << 3 | kind, size.seed) % np.uint64(count)
            columns[word] = _ids(_PROFILE, value << np.uint64(3) | np.uint64(kind))
        yield columns


def _sample_groups(
    size: TreeSize, split: str, users: NDArray[np.int64]
) -> Iterator[Mapping[str, Any]]:
    seed = size.seed << 1 | (split == "test")
    for part in _groups(len(users) * _SAMPLES_PER_USER, _GROUP_ROWS):
        # As published, a user's samples follow one another.
        chosen = users[part // _SAMPLES_PER_USER]
        stranger = _hash(_SAMPLE_USER, part, seed) % np.uint64(500) == 0
        target = _share(_hash(_SAMPLE_ITEM, part, seed)) ** 3 * (size.items * _FEATURES_SHARE)
        clicked = (_share(_hash(_LABEL, part, seed)) < _CLICK_RATE).astype(np.int8)
        one_hot = np.stack([1 - clicked, clicked], axis=1).reshape(-1)
        yield {
            "label": _lists(one_hot, np.full(len(part), 2)),
            "user_id": np.where(stranger, _ids(_SAMPLE_USER, part), _ids(_USER, chosen)),
            "item": _ids(_ITEM, target.astype(np.int64)),
        }


def _feature_groups(size: TreeSize) -> Iterator[Mapping[str, Any]]:
    for item in _groups(max(1, int(size.items * _FEATURES_SHARE)), _GROUP_ROWS):
        yield {
            "item": _ids(_ITEM, item),
            "category": _ids(_CATEGORY, _category(item)),
            "brand": _ids(_BRAND, _hash(_BRAND, item) % np.uint64(_BRANDS)),
            "shop": _ids(_SHOP, _hash(_SHOP, item) % np.uint64(_SHOPS)),
        }


def _vector_groups(size: TreeSize) -> Iterator[Mapping[str, Any]]:
    words = taobao_mm.VECTOR_WIDTH // 8
    for item in _groups(max(1, int(size.items * _VECTORS_SHARE)), _GROUP_ROWS):
        place = (item[:, None] * words + np.arange(words)).reshape(-1)
        values = _hash(_VECTOR, place, size.seed).view(np.int8)
        lengths = np.full(len(item), taobao_mm.VECTOR_WIDTH)
        yield {"item": _ids(_ITEM, item), "vector": _lists(values, lengths)}


def write_tree(folder: Path, size: TreeSize) -> None:
    """Write the six tables.

    Args:
        folder: made if it is not there.
        size: of the tree.

    Raises:
        DataError: there is no user or no event, a negative seed, or the folder holds such tables.
    """
    if min(size.users, size.history_length) < 1:
        raise data_error("sizes of a tree must be positive", "Choose larger ones")
    if size.seed < 0:
        raise data_error(f"seed {size.seed}", "Give --seed a number of 0 or more")
    taobao_mm.check_no_tables(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for split, users in _split_users(size).items():
        _write(folder, f"{split}_user_features", _user_groups(size, split, users))
        _write(folder, f"{split}_samples", _sample_groups(size, split, users))
    _write(folder, "item_features", _feature_groups(size))
    _write(folder, "scl_embedding_int8_p90", _vector_groups(size))


def main(argv: list[str] | None = None) -> int:
    """Command line: write a tree."""
    parser = argparse.ArgumentParser(prog="datasets.synthetic_tree", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder of the raw tables")
    parser.add_argument("--users", type=int, required=True, help="of the training split")
    parser.add_argument("--history-length", type=int, default=TreeSize.history_length)
    parser.add_argument("--seed", type=int, default=TreeSize.seed)
    arguments = parser.parse_args(argv)
    size = TreeSize(arguments.users, arguments.history_length, arguments.seed)
    return run(lambda: write_tree(arguments.out, size))


if __name__ == "__main__":
    sys.exit(main())
