"""Preparation of sources that give every user one history per split (a snapshot)."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import polars as pl
from numpy.typing import NDArray

from datasets.counting import PairCounter, likeliest_category
from datasets.errors import data_error
from datasets.hashing import prefix_fingerprints
from datasets.lookup import find_sorted
from datasets.manifest import check_destination
from datasets.samples import Samples
from datasets.store import StoreWriter
from datasets.vectors import VectorTable, write_vectors
from datasets.vocab import Vocabulary, build_vocabulary, count_values

log = logging.getLogger(__name__)
MISSING = 0


@dataclass(frozen=True)
class Snapshots:
    """Some users with their histories, under raw ids.

    Args:
        user_id: int64 [U].
        profile: profile features, each int64 [U], 0 = missing.
        items: events of all users, one user after another, oldest first, int64 [T].
        categories: their categories, int64 [T].
        lengths: events of each user, int64 [U].
    """

    user_id: NDArray[np.int64]
    profile: Mapping[str, NDArray[np.int64]]
    items: NDArray[np.int64]
    categories: NDArray[np.int64]
    lengths: NDArray[np.int64]

    @property
    def starts(self) -> NDArray[np.int64]:
        """Where each user's history begins in `items`, int64 [U]."""
        starts: NDArray[np.int64] = np.cumsum(self.lengths) - self.lengths
        return starts


class SnapshotSource(Protocol):
    """What a data set has to offer; splits are "train" and "test"."""

    path: Path
    profile: tuple[str, ...]

    def files(self) -> dict[str, int]:
        """Files read, by name, with their sizes in bytes."""

    def samples(self, split: str) -> Samples:
        """All samples of a split."""

    def snapshots(self, split: str) -> Iterator[Snapshots]:
        """Users of a split, in batches; every call starts again."""

    def users_place(self, split: str) -> str:
        """File or folder of the users of a split, for messages."""

    def item_features(self) -> pl.DataFrame:
        """Int64 columns `item`, `category` and others; 0 = missing."""

    def vectors(self) -> VectorTable | None:
        """Item vectors, if the source has any."""


@dataclass(frozen=True)
class Options:
    """What a preparation may choose.

    Args:
        min_frequency: history items seen fewer times share row 0; targets always have a row.
        user_min_frequency: users with fewer training samples share row 0 of table `user_id`.
    """

    min_frequency: int = 1
    user_min_frequency: int = 1


@dataclass(frozen=True)
class Users:
    """Users of a split without their events.

    Args:
        user_id: in the order of the source, int64 [U].
        profile: profile features, each int64 [U].
        length: events of each, int64 [U].
        fingerprint: of the whole history, uint64 [U].
    """

    user_id: NDArray[np.int64]
    profile: dict[str, NDArray[np.int64]]
    length: NDArray[np.int64]
    fingerprint: NDArray[np.uint64]

    def find(self, user_id: NDArray[np.int64]) -> NDArray[np.int64]:
        """Place of each id among these users, -1 where it is not, int64 [n]."""
        order, ids = self._sorted
        place = find_sorted(ids, user_id)
        place[place >= 0] = order[place[place >= 0]]
        return place

    @cached_property
    def _sorted(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        order = np.argsort(self.user_id, kind="stable")
        return order, self.user_id[order]


@dataclass
class Plan:
    """Which user owns which record.

    Args:
        users: users by split.
        record: record of each user by split, int64 [U].
        shared: train users whose record is that of the test split, bool [U].
    """

    users: dict[str, Users]
    record: dict[str, NDArray[np.int64]]
    shared: NDArray[np.bool_]


def prepare(
    source: SnapshotSource,
    out: Path,
    options: Options,
    *,
    name: str,
    created_by: str,
    overwrite: bool = False,
    source_note: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Prepare a store from snapshots.

    Args:
        source: the data set.
        out: the store's folder.
        options: see `Options`.
        name: name of the data set.
        created_by: module that asks for it.
        overwrite: replace a store that is already there.
        source_note: manifest entries that replace those made from `source`.

    Returns:
        The manifest.

    Raises:
        DataError: bad input, or `out` exists.
    """
    check_destination(out, overwrite)
    samples = {split: source.samples(split) for split in ("train", "test")}
    counter = PairCounter()
    plan = plan_records(source, counter)
    note = {
        "path": str(source.path),
        "files": source.files(),
        "options": vars(options),
        **(source_note or {}),
    }
    with StoreWriter(
        out, name=name, created_by=created_by, source=note, overwrite=overwrite
    ) as store:
        items = _write_items(store, source, samples, counter.result(), options)
        _write_users(store, source, samples["train"], plan, items, options)
        for split, table in samples.items():
            _write_split(store, split, table, plan, items)
        return store.finish()


def _read_users(
    source: SnapshotSource, split: str, counter: PairCounter, earlier: Users | None
) -> tuple[Users, NDArray[np.uint64]]:
    """Read the users of a split, and fingerprint as much of each history as `earlier` has of it."""
    parts: list[Snapshots] = []
    whole, prefix = [np.empty(0, np.uint64)], [np.empty(0, np.uint64)]
    nothing = np.empty(0, np.int64)
    for batch in source.snapshots(split):
        counter.add(batch.items, batch.categories)
        ends = batch.starts + batch.lengths
        whole.append(prefix_fingerprints(batch.items, batch.starts, ends))
        if earlier is not None:
            place = earlier.find(batch.user_id)
            known = np.zeros(len(place), np.int64)
            known[place >= 0] = earlier.length[place[place >= 0]]
            ends = batch.starts + np.minimum(known, batch.lengths)
            prefix.append(prefix_fingerprints(batch.items, batch.starts, ends))
        parts.append(Snapshots(batch.user_id, batch.profile, nothing, nothing, batch.lengths))
    users = Users(
        np.concatenate([nothing, *(part.user_id for part in parts)]),
        {
            name: np.concatenate([nothing, *(part.profile[name] for part in parts)])
            for name in source.profile
        },
        np.concatenate([nothing, *(part.lengths for part in parts)]),
        np.concatenate(whole),
    )
    ids, times = np.unique(users.user_id, return_counts=True)
    if len(ids) < len(users.user_id):
        problem = f"user comes {times.max()} times ({int((times > 1).sum())} such users)"
        raise data_error(
            problem,
            "Keep one row, or one unbroken run of rows, for each user",
            file=source.users_place(split),
            key=int(ids[np.argmax(times)]),
        )
    return users, np.concatenate(prefix)


def plan_records(source: SnapshotSource, counter: PairCounter) -> Plan:
    """Read all users once, count their events, and decide who owns which record.

    A user of both splits whose train history begins the test one, with an equal profile, has one
    record; the samples of each split see only as much of it as their own snapshot had.

    Args:
        source: the data set.
        counter: counts (item, category) pairs of all histories.

    Raises:
        DataError: a user comes twice in a split.
    """
    train, _ = _read_users(source, "train", counter, None)
    test, prefix = _read_users(source, "test", counter, train)
    place = train.find(test.user_id)
    both = np.flatnonzero(place >= 0)
    theirs = place[both]
    same = (train.length[theirs] <= test.length[both]) & (train.fingerprint[theirs] == prefix[both])
    for name in source.profile:
        same &= train.profile[name][theirs] == test.profile[name][both]
    shared = np.zeros(len(train.user_id), bool)
    shared[theirs[same]] = True
    own = int((~shared).sum())
    record = {"train": np.cumsum(~shared, dtype=np.int64), "test": np.empty(0, np.int64)}
    record["test"] = 1 + own + np.arange(len(test.user_id), dtype=np.int64)
    record["train"][theirs[same]] = record["test"][both[same]]
    log.info("%d users of both splits, %d of them with one record", len(both), int(same.sum()))
    return Plan({"train": train, "test": test}, record, shared)


def _write_items(
    store: StoreWriter,
    source: SnapshotSource,
    samples: Mapping[str, Samples],
    pairs: pl.DataFrame,
    options: Options,
) -> Vocabulary:
    """Write table `item`, its features and its vectors."""
    in_history = pairs.group_by("item").agg(pl.col("count").sum()).rename({"item": "raw"})
    targets = np.unique(np.concatenate([table.item for table in samples.values()]))
    items = build_vocabulary(
        pl.concat([in_history, count_values(samples["train"].item)]),
        min_frequency=options.min_frequency,
        always=pl.Series(targets),
        missing=(MISSING,),
    )
    store.add_table("item", items)
    features = source.item_features()
    distinct = features.unique("item", keep="first", maintain_order=True)
    store.count("conflicting_item_features", len(features) - len(distinct))
    known = distinct.filter(pl.col("item") != MISSING)
    without = len(np.setdiff1d(targets, known["item"].to_numpy())) - int(MISSING in targets)
    store.count("targets_without_features", without)
    kept = items.raw.alias("item").to_frame()
    table = kept.join(known, on="item", how="left", maintain_order="left").fill_null(MISSING)
    from_history, conflicts = likeliest_category(kept, pairs, table["category"])
    store.count("category_conflicts", conflicts)
    table = table.with_columns(from_history.alias("category"))
    for name in [column for column in table.columns if column != "item"]:
        vocabulary = build_vocabulary(count_values(table[name]), missing=(MISSING,))
        store.add_table(name, vocabulary)
        rows = vocabulary.rows(table[name])
        store.add_feature("item", name, np.concatenate([np.zeros(1, np.int32), rows]))
    vectors = source.vectors()
    if vectors is not None:
        write_vectors(store, items, vectors)
    return items


def _write_users(
    store: StoreWriter,
    source: SnapshotSource,
    train_samples: Samples,
    plan: Plan,
    items: Vocabulary,
    options: Options,
) -> None:
    """Write the histories and profile features of all records."""
    train = plan.users["train"]
    of_record = {"train": ~plan.shared, "test": np.ones(len(plan.record["test"]), bool)}
    known = train_samples.user_id[train.find(train_samples.user_id) >= 0]
    profile = {
        "user_id": build_vocabulary(
            count_values(known), min_frequency=options.user_min_frequency, missing=(MISSING,)
        )
    }
    for name in source.profile:
        profile[name] = build_vocabulary(count_values(train.profile[name]), missing=(MISSING,))
    for name, vocabulary in profile.items():
        store.add_table(name, vocabulary)
        columns = [np.zeros(1, np.int32)]
        for split, users in plan.users.items():
            raw = users.user_id if name == "user_id" else users.profile[name]
            columns.append(vocabulary.rows(raw[of_record[split]]))
        store.add_feature("user", name, np.concatenate(columns))
    histories = store.histories()
    outside = 0
    for split in plan.users:
        first = 0
        for batch in source.snapshots(split):
            keep = of_record[split][first : first + len(batch.user_id)]
            first += len(batch.user_id)
            rows = items.rows(batch.items[np.repeat(keep, batch.lengths)])
            outside += int((rows == 0).sum())
            histories.append(rows, batch.lengths[keep])
    store.count("events_outside_vocabulary", outside)


def _write_split(
    store: StoreWriter, split: str, samples: Samples, plan: Plan, items: Vocabulary
) -> None:
    users = plan.users[split]
    place = users.find(samples.user_id)
    known = place >= 0
    user = np.zeros(len(place), np.int32)
    history_end = np.zeros(len(place), np.int64)
    user[known] = plan.record[split][place[known]]
    history_end[known] = users.length[place[known]]
    item = items.rows(samples.item)
    store.count(f"{split}_samples_unknown_user", int((~known).sum()))
    store.count(f"{split}_samples_unknown_item", int((item == 0).sum()))
    store.add_split(split, user, item, history_end, samples.label)
