"""Synthetic world with planted interests, written as raw Taobao-MM tables and then prepared.

It takes the same road as the real data. `datasets.world_truth` says what is planted; the raw
folder also gets `truth_<split>.parquet` with the click probability behind each label.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from tqdm import tqdm

from datasets import taobao_mm
from datasets.command import run
from datasets.errors import data_error
from datasets.manifest import check_destination
from datasets.remote_store import destination
from datasets.snapshots import Options
from datasets.temporary import TemporaryFolder
from datasets.world_events import make_histories
from datasets.world_samples import SPLITS, Exposure, make_exposure
from datasets.world_truth import Catalogue, People, WorldSize, make_catalogue, make_people, raw_ids
from remote.path import location

log = logging.getLogger(__name__)

_ITEM, _CATEGORY, _USER, _PROFILE, _BRAND, _SHOP, _STRANGER = range(1, 8)
_BOTH_SHARE = 0.1
_CHUNK_EVENTS = 2_000_000
_CHUNK_ITEMS = 1 << 17
_WITHOUT_VECTOR = 0.01
_PROFILE_VALUES = (10, 2, 48, 400, 5)


@dataclass(frozen=True)
class Population:
    """Users of the splits, by index into `People`.

    Args:
        train: int64 [n].
        test: int64 [m]; the first `both` of them are train users too.
        both: users of both splits.
    """

    train: NDArray[np.int64]
    test: NDArray[np.int64]
    both: int


def make_population(size: WorldSize) -> Population:
    """Split users: the test users are held out but for a tenth of them."""
    tested = max(2, int(size.users * size.test_share))
    both = max(1, int(tested * _BOTH_SHARE))
    train = np.arange(size.users)
    test = np.concatenate([train[:both], size.users + np.arange(tested - both)])
    return Population(train, test, both)


def _lists(values: NDArray[Any], lengths: NDArray[np.int64]) -> pa.Array:
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(values))


def _table(name: str, columns: Mapping[str, Any]) -> pa.Table:
    schema = taobao_mm.raw_schema(name)
    words = [taobao_mm.WORD[field.name] for field in schema]
    return pa.table([pa.array(columns[word]) for word in words], schema=schema)


class _Writer:
    """Writes the raw tables of one world."""

    def __init__(self, folder: Path, size: WorldSize) -> None:
        self.folder = folder
        self.size = size
        self._seeds = iter(np.random.SeedSequence(size.seed).spawn(6))
        self.catalogue: Catalogue = make_catalogue(size, self._random())
        self.population = make_population(size)
        everyone = int(self.population.test.max()) + 1
        self.people: People = make_people(size, self.catalogue, everyone, self._random())
        self.item_ids = raw_ids(_ITEM, size.items)
        self.category_ids = raw_ids(_CATEGORY, size.categories)
        self.user_ids = raw_ids(_USER, everyone)

    def _random(self) -> np.random.Generator:
        return np.random.default_rng(next(self._seeds))

    def _write(self, name: str, columns: Mapping[str, Any]) -> None:
        pq.write_table(_table(name, columns), self.folder / f"{name}.parquet", compression="zstd")

    def write(self) -> None:
        """Write all six tables and the truth."""
        exposure = make_exposure(
            self.size, self.catalogue, self.people, self.population, self._random()
        )
        self._write_samples(exposure, self._random())
        self._write_items(exposure, self._random())
        self._write_users(self._random())

    def _write_samples(self, exposure: Mapping[str, Exposure], random: np.random.Generator) -> None:
        for split, shown in exposure.items():
            users, items = self.user_ids[shown.user], self.item_ids[shown.item]
            # A few samples of strangers and of items nobody knows, as in any real log.
            few = random.permutation(len(users))[: max(4, len(users) // 500)]
            strange = raw_ids(_STRANGER, len(few))
            half = len(few) // 2
            users[few[:half]] = strange[:half]
            items[few[half:]] = strange[half:]
            items[few[-1]] = 0
            one_hot = np.stack([1 - shown.label, shown.label], axis=1).astype(np.int8)
            label = _lists(one_hot.reshape(-1), np.full(len(users), 2))
            columns = {"label": label, "user_id": users, "item": items}
            self._write(f"{split}_samples", columns)
            pl.DataFrame(
                {
                    "user_id": users,
                    "item": items,
                    "label": shown.label,
                    "probability": shown.probability,
                    "lifelong_match": shown.lifelong_match,
                    "recent_match": shown.recent_match,
                    "quality": self.catalogue.quality[shown.item],
                }
            ).write_parquet(self.folder / f"truth_{split}.parquet")

    def _write_items(self, exposure: Mapping[str, Exposure], random: np.random.Generator) -> None:
        targets = np.unique(np.concatenate([shown.item for shown in exposure.values()]))
        category = self.catalogue.item_style[targets] // self.catalogue.styles
        features = {
            "item": self.item_ids[targets],
            "category": self.category_ids[category],
            "brand": raw_ids(_BRAND, 500)[random.integers(0, 500, len(targets))],
            "shop": raw_ids(_SHOP, 120)[random.integers(0, 120, len(targets))],
        }
        self._write("item_features", features)
        having = np.flatnonzero(random.random(self.size.items) >= _WITHOUT_VECTOR)
        name = "scl_embedding_int8_p90"
        with pq.ParquetWriter(
            self.folder / f"{name}.parquet", taobao_mm.raw_schema(name), compression="zstd"
        ) as writer:
            for start in range(0, len(having), _CHUNK_ITEMS):
                part = having[start : start + _CHUNK_ITEMS]
                vectors = self.catalogue.item_vector[part]
                values = _lists(vectors.reshape(-1), np.full(len(part), vectors.shape[1]))
                writer.write_table(_table(name, {"item": self.item_ids[part], "vector": values}))

    def _write_users(self, random: np.random.Generator) -> None:
        everyone = len(self.user_ids)
        values = [raw_ids(_PROFILE + 16 * place, n) for place, n in enumerate(_PROFILE_VALUES)]
        profile = [ids[random.integers(0, len(ids), everyone)] for ids in values]
        profile[4][random.random(everyone) < 0.1] = 0
        seed = int(random.integers(0, 1 << 62))
        for split in SPLITS:
            users = getattr(self.population, split)
            later = np.zeros(len(users), np.int64)
            if split == "test":
                later[: self.population.both] = max(1, self.size.history_length // 20)
            name = f"{split}_user_features"
            chunk = max(1, _CHUNK_EVENTS // self.size.history_length)
            starts = range(0, len(users), chunk)
            with pq.ParquetWriter(
                self.folder / f"{name}.parquet", taobao_mm.raw_schema(name), compression="zstd"
            ) as writer:
                for start in tqdm(starts, desc=f"{split} histories", disable=None):
                    part = slice(start, start + chunk)
                    writer.write_table(
                        self._users_table(name, users[part], later[part], profile, seed)
                    )

    def _users_table(
        self,
        name: str,
        users: NDArray[np.int64],
        later: NDArray[np.int64],
        profile: list[NDArray[np.int64]],
        seed: int,
    ) -> pa.Table:
        history = make_histories(self.size, self.catalogue, self.people, users, later, seed)
        items = np.where(history.item >= 0, self.item_ids[history.item], 0)
        categories = np.where(history.item >= 0, self.category_ids[history.category], 0)
        columns: dict[str, Any] = {
            "user_id": self.user_ids[users],
            "history_item": _lists(items, history.length),
            "history_category": _lists(categories, history.length),
        }
        for word, values in zip(taobao_mm.PROFILE, profile, strict=True):
            columns[word] = values[users]
        return _table(name, columns)


def write_raw(folder: Path, size: WorldSize) -> None:
    """Write a world as raw Taobao-MM tables.

    Args:
        folder: made if it is not there.
        size: of the world.

    Raises:
        DataError: the sizes do not make a world, or the folder holds such tables.
    """
    if min(size.users, size.samples_per_user, size.history_length, size.categories) < 1:
        raise data_error("sizes of a world must be positive", "Choose larger ones")
    if size.items < size.categories * size.styles:
        problem = f"{size.items} items for {size.categories} categories of {size.styles} styles"
        raise data_error(problem, "Give --items at least one item for each style")
    if size.seed < 0:
        raise data_error(f"seed {size.seed}", "Give --seed a number of 0 or more")
    taobao_mm.check_no_tables(folder)
    folder.mkdir(parents=True, exist_ok=True)
    _Writer(folder, size).write()


def make_world(
    out: Path, size: WorldSize, *, raw: Path | None = None, overwrite: bool = False
) -> dict[str, Any]:
    """Write a world and prepare it.

    Args:
        out: the store's folder.
        size: of the world.
        raw: folder to keep the raw tables in; by default they are removed.
        overwrite: replace a store that is already there.

    Returns:
        The manifest.

    Raises:
        DataError: the sizes do not make a world, `out` exists, or `raw` holds such tables.
    """
    check_destination(out, overwrite)
    final = out.absolute()
    final.parent.mkdir(parents=True, exist_ok=True)
    if raw is not None:
        return _write_and_prepare(raw, out, size, str(raw), overwrite)
    with TemporaryFolder(final) as folder:
        return _write_and_prepare(folder / "raw", out, size, "generated", overwrite)


def _write_and_prepare(
    raw: Path, out: Path, size: WorldSize, origin: str, overwrite: bool
) -> dict[str, Any]:
    write_raw(raw, size)
    return taobao_mm.prepare_tree(
        raw,
        out,
        Options(),
        name="world",
        created_by="datasets.world",
        overwrite=overwrite,
        source_note={"options": asdict(size), "path": origin},
    )


def main(argv: list[str] | None = None) -> int:
    """Command line: make a synthetic world and prepare it."""
    parser = argparse.ArgumentParser(prog="datasets.world", description=__doc__)
    parser.add_argument("--out", required=True, help="folder of the store, or its URL")
    parser.add_argument("--raw", type=Path, help="keep the raw tables here")
    parser.add_argument("--overwrite", action="store_true")
    for name, value in asdict(WorldSize()).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(value), default=value)
    arguments = vars(parser.parse_args(argv))
    out, raw, overwrite = (arguments.pop(name) for name in ("out", "raw", "overwrite"))

    def command() -> None:
        with destination(location(out), overwrite) as folder:
            make_world(folder, WorldSize(**arguments), raw=raw, overwrite=overwrite)

    return run(command)


if __name__ == "__main__":
    sys.exit(main())
