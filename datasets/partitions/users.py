"""Users by partitions: who is there, in which splits, and which record each one has.

A user of both splits whose train history begins the test one, with an equal profile, has one
record; the samples of each split see only as much of it as their own snapshot had. Records are
those of the train users that have their own, in the order of the source, then those of the test
users.
U users; B users of both splits.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from datasets import npy
from datasets.counting import MISSING
from datasets.hashing import prefix_fingerprints
from datasets.partitions.keys import find_in_order, first_of_runs, ids_of, sort_order
from datasets.partitions.ranking import Ranked, fill_rows, save_ranked
from datasets.partitions.runs import read_column, read_runs, write_column, write_rows
from datasets.vocab import Vocabulary


@dataclass(frozen=True)
class UserRuns:
    """Runs that users come from, by split.

    Args:
        users: keys and places of the users of each history run.
        first: index of the first user of each of them.
        samples: users of the samples with their counts; `row` gets the index of each, -1 = none.
    """

    users: Mapping[str, list[Path]]
    first: Mapping[str, NDArray[np.int64]]
    samples: Mapping[str, list[Path]]


@dataclass(frozen=True)
class UserPartition:
    """One partition of the users.

    Args:
        ranked: train users that get a row of table `user_id`.
        both: indices of users of both splits, by split, int64 [B].
        repeated: by split, where a user comes several times: most times, smallest such id, how many
            such users.
    """

    ranked: Ranked
    both: dict[str, NDArray[np.int64]]
    repeated: dict[str, tuple[int, int, int]] = field(default_factory=dict)


def reduce_users(
    runs: UserRuns, spill: Path, min_frequency: int, task: tuple[int, tuple[int, int]]
) -> UserPartition:
    """Find the users of one partition and tell the samples of them.

    Args:
        runs: of the source.
        spill: folder for the partition.
        min_frequency: users with fewer training samples get no row of table `user_id`.
        task: number of the partition, and its span of fences.
    """
    place, span = task
    keys, index, repeated = {}, {}, {}
    for split in ("train", "test"):
        columns, lengths = read_runs(runs.users[split], span, {"key": np.uint64, "place": np.int64})
        key = columns["key"]
        order = sort_order(key)
        first = first_of_runs(key[order])
        if not first.all():
            times = np.diff(np.append(np.flatnonzero(first), len(first)))
            ids = ids_of(key[order][first])
            repeated[split] = (
                int(times.max()), int(ids[times == times.max()].min()), int((times > 1).sum())
            )  # fmt: skip
        keys[split] = key[order][first]
        index[split] = (columns["place"] + np.repeat(runs.first[split], lengths))[order][first]
        fill_rows(runs.samples[split], span, keys[split], index[split].astype(np.int32), -1)
    columns, _ = read_runs(runs.samples["train"], span, {"key": np.uint64, "count": np.int64})
    order = sort_order(columns["key"])
    found = find_in_order(keys["train"], columns["key"][order])
    known = found >= 0
    count = np.bincount(found[known], columns["count"][order][known], len(keys["train"]))
    keep = (count >= max(1, min_frequency)) & (ids_of(keys["train"]) != MISSING)
    ranked = save_ranked(
        spill / "users" / f"{place:04d}", keys["train"][keep], count[keep].astype(np.int64), {}
    )
    partner = find_in_order(keys["train"], keys["test"])
    both = {
        "train": index["train"][partner[partner >= 0]],
        "test": index["test"][partner >= 0],
    }
    return UserPartition(ranked, both, repeated)


@dataclass(frozen=True)
class Described:
    """Some users of one run.

    Args:
        length: events of each, int64 [n].
        profile: profile features, each int64 [n].
        fingerprint: of the beginning of each history, uint64 [n].
    """

    length: NDArray[np.int64]
    profile: dict[str, NDArray[np.int64]]
    fingerprint: NDArray[np.uint64]


def describe_users(
    profile: tuple[str, ...], task: tuple[Path, NDArray[np.int64], NDArray[np.int64] | None]
) -> Described:
    """Look at some users of a history run again.

    Args:
        profile: names of the profile features.
        task: the run; places of the users in it, rising; how many events of each to fingerprint,
            or None for all. A history that is shorter is fingerprinted as a whole.
    """
    folder, places, wanted = task
    lengths = read_column(folder, "length", np.int64)
    starts = np.cumsum(lengths) - lengths
    length = lengths[places]
    code = read_column(folder, "code", np.int32)
    events = np.repeat(starts[places], length) + _within(length)
    items = read_column(folder, "key", np.uint64)[code[events]].view(np.int64)
    begin = np.cumsum(length) - length
    upto = length if wanted is None else np.minimum(length, wanted)
    return Described(
        length,
        {name: read_column(folder, f"profile_{name}", np.int64)[places] for name in profile},
        prefix_fingerprints(items, begin, begin + upto),
    )


def _within(lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """0, 1, 2, ... for each of the lists."""
    return np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)


@dataclass(frozen=True)
class Plan:
    """Which record every user has.

    Args:
        own: train users with a record of their own.
        shared: train users without, rising, int64 [B].
        partner: test user whose record each of them has, int64 [B].
        length: events of each of them in the train split, int64 [B].
    """

    own: int
    shared: NDArray[np.int64]
    partner: NDArray[np.int64]
    length: NDArray[np.int64]

    def records(self, split: str, index: NDArray[np.int32]) -> NDArray[np.int32]:
        """Record of each user; -1, a user who is not there, has record 0."""
        if split == "test":
            record = 1 + self.own + index.astype(np.int64)
        else:
            below = np.searchsorted(self.shared, index)
            record = 1 + index - below
            if len(self.shared):
                place = np.minimum(below, len(self.shared) - 1)
                theirs = self.shared[place] == index
                record[theirs] = 1 + self.own + self.partner[place[theirs]]
        return np.where(index < 0, 0, record).astype(np.int32)

    def save(self, folder: Path) -> None:
        """Write it for the tasks to load."""
        folder.mkdir()
        write_column(folder, "own", np.array([self.own]))
        for name in ("shared", "partner", "length"):
            write_column(folder, name, getattr(self, name))

    @staticmethod
    def load(folder: Path) -> Plan:
        """Read what `save` wrote."""
        names = ("shared", "partner", "length")
        columns = [read_column(folder, name, np.int64) for name in names]
        return Plan(int(read_column(folder, "own", np.int64)[0]), *columns)


@dataclass(frozen=True)
class RecordTask:
    """Users of a run that become records.

    Args:
        run: folder of the history run.
        dropped: places of users who have no record of their own, rising.
        record: of the first user that has.
        event: first event of that record.
    """

    run: Path
    dropped: NDArray[np.int64]
    record: int
    event: int


def write_records(
    users: Path, raw: Path, profile: Mapping[str, Vocabulary], task: RecordTask
) -> int:
    """Write the records of a run into the store's files.

    Args:
        users: the store's folder `users`.
        raw: column of the raw users of all records but 0.
        profile: vocabularies of the profile features.
        task: which records.

    Returns:
        Events whose item has no row.
    """
    lengths = read_column(task.run, "length", np.int64)
    kept = np.ones(len(lengths), bool)
    kept[task.dropped] = False
    code = read_column(task.run, "code", np.int32)
    if len(task.dropped):
        code = code[np.repeat(kept, lengths)]
    rows = read_column(task.run, "row", np.int32)[code]
    npy.write_rows(users / "history_item.npy", task.event, rows)
    ends = task.event + np.cumsum(lengths[kept], dtype=np.int64)
    npy.write_rows(users / "history_offsets.npy", task.record + 1, ends)
    for name, vocabulary in profile.items():
        values = read_column(task.run, f"profile_{name}", np.int64)[kept]
        npy.write_rows(users / f"feature_{name}.npy", task.record, vocabulary.rows(values))
    place = read_column(task.run / "users", "place", np.int64)
    user_row, user = np.empty(len(lengths), np.int32), np.empty(len(lengths), np.int64)
    user_row[place] = read_column(task.run / "users", "row", np.int32)
    npy.write_rows(users / "feature_user_id.npy", task.record, user_row[kept])
    user[place] = ids_of(read_column(task.run / "users", "key", np.uint64))
    write_rows(raw, task.record - 1, user[kept])
    return int(len(rows) - np.count_nonzero(rows))
