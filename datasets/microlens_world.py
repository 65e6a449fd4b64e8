"""A made-up MicroLens_1M_x1: files of its schema, with planted interests that a model can learn.

A user likes a few styles of items. Most of the sequence is of these styles, and so are half of the
targets; the closer a target is to a liked style and the better its item, the likelier label 1.
Vectors and tags tell an item's style, the levels how good it is.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from tqdm import tqdm

from datasets.command import run
from datasets.errors import data_error
from datasets.microlens_tables import HIGHEST_LEVEL, SCHEMAS, SPLITS, TAGS
from datasets.temporary import TemporaryFolder
from datasets.world_truth import Catalogue, WorldSize, make_catalogue, style_match

_LIKED_STYLES = 4
_LIKED_EVENTS = 0.8
_LIKED_TARGETS = 0.5
_NO_HISTORY = 0.01
_NO_LEVEL = 0.02
_MATCH_WEIGHT, _QUALITY_WEIGHT, _BIAS = 4.0, 1.0, -2.5
# Shares of a life after which rows are drawn; the other splits come at its end.
_MOMENTS = (0.4, 0.7, 1.0)
_CHUNK_ROWS = 1 << 15


@dataclass(frozen=True)
class MicroLensSize:
    """How large the made-up tables are and which random seed makes them.

    Args:
        rows: of train.
        valid_rows: of valid.
        test_rows: of test.
        users: who may have rows.
        items: of item_info, without the padding.
        categories: of the items; a category has `styles` styles.
        styles: of a category.
        sequence_length: entries of `item_seq`, padding included.
        seed: random seed.
    """

    rows: int = 36_000
    valid_rows: int = 2_000
    test_rows: int = 4_000
    users: int = 10_000
    items: int = 9_000
    categories: int = 30
    styles: int = 5
    sequence_length: int = 100
    seed: int = 0


@dataclass(frozen=True)
class _Lives:
    """Whole sequences of the users.

    Args:
        liked: styles, int64 [users, _LIKED_STYLES].
        item: place in the catalogue of every event, one user after another, int32 [T].
        length: events of each user, int64 [users].
    """

    liked: NDArray[np.int64]
    item: NDArray[np.int32]
    length: NDArray[np.int64]


def _items_of(
    catalogue: Catalogue, style: NDArray[np.int64], random: np.random.Generator
) -> NDArray[np.int64]:
    """An item of each style, the first ones more often."""
    start = catalogue.style_start[style]
    counts = catalogue.style_start[style + 1] - start
    return start + (counts * random.random(len(style)) ** 2).astype(np.int64)


def _styles_of(
    liked: NDArray[np.int64], share: float, styles: int, random: np.random.Generator
) -> NDArray[np.int64]:
    """One of the liked styles [n, k] in a share of the cases, else any: int64 [n]."""
    count = len(liked)
    own = liked[np.arange(count), random.integers(0, liked.shape[1], count)]
    return np.where(random.random(count) < share, own, random.integers(0, styles, count))


def _lives(size: MicroLensSize, catalogue: Catalogue, random: np.random.Generator) -> _Lives:
    styles = len(catalogue.twin)
    liked = random.integers(0, styles, (size.users, _LIKED_STYLES))
    length = random.integers(1, size.sequence_length + 1, size.users)
    length[random.random(size.users) < _NO_HISTORY] = 0
    length[0] = size.sequence_length
    user = np.repeat(np.arange(size.users), length)
    item = np.empty(len(user), np.int32)
    for start in range(0, len(user), 1 << 20):
        part = slice(start, start + (1 << 20))
        style = _styles_of(liked[user[part]], _LIKED_EVENTS, styles, random)
        item[part] = _items_of(catalogue, style, random)
    return _Lives(liked, item, length.astype(np.int64))


def _item_info(catalogue: Catalogue, size: MicroLensSize, random: np.random.Generator) -> pa.Table:
    """Row 0 is padding; the tags are padded with 0 on the left."""
    style = catalogue.item_style
    few = size.categories * (1 + size.styles)
    tags = np.zeros((size.items + 1, TAGS), np.int64)
    tags[1:, -1] = 1 + style // size.styles
    tags[1:, -2] = 1 + size.categories + style
    # Tags of nothing, on some of the items.
    noise = random.integers(few + 1, 2 * few + 2, size.items)
    tags[1:, -3] = np.where(random.random(size.items) < 0.5, noise, 0)
    width = catalogue.item_vector.shape[1]
    vectors = np.zeros((size.items + 1, width), np.float32)
    vectors[1:] = catalogue.item_vector / np.float32(127)
    columns = [np.arange(size.items + 1), _lists(tags), _lists(vectors)]
    return pa.table(columns, schema=SCHEMAS["item_info"])


def _lists(values: NDArray[np.generic]) -> pa.Array:
    """A matrix as a column of lists."""
    offsets = np.arange(len(values) + 1, dtype=np.int32) * values.shape[1]
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(values.reshape(-1)))


class _Writer:
    """Writes the tables of one world."""

    def __init__(self, folder: Path, size: MicroLensSize) -> None:
        self.folder, self.size = folder, size
        self.random = np.random.default_rng(size.seed)
        of_items = {"items": size.items, "categories": size.categories, "styles": size.styles}
        self.catalogue = make_catalogue(WorldSize(**of_items), self.random)
        self.lives = _lives(size, self.catalogue, self.random)
        self.starts = np.cumsum(self.lives.length) - self.lives.length
        place = self.catalogue.quality.argsort().argsort()
        self.level = 1 + place * HIGHEST_LEVEL // size.items

    def write(self) -> None:
        """Write all four tables."""
        info = _item_info(self.catalogue, self.size, self.random)
        pq.write_table(info, self.folder / "item_info.parquet", compression="zstd")
        counts = (self.size.rows, self.size.valid_rows, self.size.test_rows)
        for split, count in zip(SPLITS, counts, strict=True):
            file = self.folder / f"{split}.parquet"
            starts = range(0, count, _CHUNK_ROWS)
            with pq.ParquetWriter(file, SCHEMAS[split], compression="zstd") as writer:
                for start in tqdm(starts, desc=f"{split} rows", disable=None):
                    writer.write_table(self._rows(split, min(_CHUNK_ROWS, count - start)))

    def _rows(self, split: str, count: int) -> pa.Table:
        random, catalogue, lives = self.random, self.catalogue, self.lives
        user = random.integers(0, self.size.users, count)
        liked = lives.liked[user]
        style = _styles_of(liked, _LIKED_TARGETS, len(catalogue.twin), random)
        item = _items_of(catalogue, style, random)
        share = random.choice(_MOMENTS, count) if split == "train" else np.ones(count)
        match = style_match(catalogue, style, liked)
        logit = _MATCH_WEIGHT * match + _QUALITY_WEIGHT * catalogue.quality[item] + _BIAS
        columns = {
            "user_id": user + 1,
            "item_seq": self._sequences(user, (lives.length[user] * share).astype(np.int64)),
            "item_id": item + 1,
            "label": (random.random(count) < 1 / (1 + np.exp(-logit))).astype(np.int64),
        }
        for name in ("likes_level", "views_level"):
            noise = random.integers(-1, 2, count)
            level = np.clip(self.level[item] + noise, 1, HIGHEST_LEVEL)
            columns[name] = np.where(random.random(count) < _NO_LEVEL, 0, level)
        schema = SCHEMAS[split]
        return pa.table([columns[name] for name in schema.names], schema=schema)

    def _sequences(self, user: NDArray[np.int64], length: NDArray[np.int64]) -> pa.Array:
        """The first `length` events of each user, padded with 0 on the left."""
        width = self.size.sequence_length
        place = np.arange(width) - (width - length[:, None])
        event = self.starts[user][:, None] + np.maximum(place, 0)
        # Somebody without any events may be the last one.
        event = np.minimum(event, len(self.lives.item) - 1)
        return _lists(np.where(place >= 0, self.lives.item[event].astype(np.int64) + 1, 0))


def write_tables(out: Path, size: MicroLensSize) -> None:
    """Write made-up tables.

    Args:
        out: folder to make.
        size: of the tables.

    Raises:
        DataError: the sizes do not make a world, or `out` exists.
    """
    if min(size.rows, size.valid_rows, size.test_rows, size.users, size.sequence_length) < 1:
        raise data_error("sizes must be positive", "Choose larger ones")
    if min(size.categories, size.styles) < 1 or size.items < size.categories * size.styles:
        problem = f"{size.items} items for {size.categories} categories of {size.styles} styles"
        raise data_error(problem, "Give --items at least one item for each style")
    if size.seed < 0:
        raise data_error(f"seed {size.seed}", "Give --seed a number of 0 or more")
    if out.exists():
        raise data_error("already exists", "Choose another --out", file=out)
    out.absolute().parent.mkdir(parents=True, exist_ok=True)
    with TemporaryFolder(out) as folder:
        tables = folder / "tables"
        tables.mkdir()
        _Writer(tables, size).write()
        tables.rename(out)


def main(argv: list[str] | None = None) -> int:
    """Command line: write made-up tables of the schema of MicroLens_1M_x1."""
    parser = argparse.ArgumentParser(prog="datasets.microlens_world", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder of the tables")
    for name, value in asdict(MicroLensSize()).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=value)
    arguments = vars(parser.parse_args(argv))
    out = arguments.pop("out")
    return run(lambda: write_tables(out, MicroLensSize(**arguments)))


if __name__ == "__main__":
    sys.exit(main())
