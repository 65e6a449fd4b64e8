"""The steps of the users: who is repeated, who shares a record, and the writing of all records."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from datasets.errors import data_error
from datasets.partitions import users
from datasets.partitions.keys import ranges
from datasets.partitions.runs import read_column, reserve
from datasets.partitions.work import SPLITS, Read, Work, merged_vocabulary
from datasets.vocab import VOCABULARY_ROWS

log = logging.getLogger(__name__)


def plan_users(
    work: Work, read: Read, min_frequency: int
) -> tuple[list[users.UserPartition], users.Plan]:
    """Find repeated users, the users of the samples, and who shares a record."""
    first = {}
    for split in SPLITS:
        counts = np.array([run.users for run in read.runs(split)], np.int64)
        first[split] = np.cumsum(counts) - counts
    runs = users.UserRuns(
        {split: [run.folder / "users" for run in read.runs(split)] for split in SPLITS},
        first,
        {split: read.below(split, "users") for split in SPLITS},
    )
    entries = sum(run.entries[1] for split in SPLITS for run in read.samples[split])
    entries += sum(run.users for split in SPLITS for run in read.runs(split))
    spans = list(enumerate(ranges(work.budget.parts(entries))))
    reduce = partial(users.reduce_users, runs, work.spill, min_frequency)
    parts = work.map("users", reduce, spans)
    for split in SPLITS:
        _refuse_repeated(work, split, [part.repeated.get(split) for part in parts])
    plan = _share_records(work, read, first, parts)
    plan.save(work.spill / "plan")
    return parts, plan


def _refuse_repeated(
    work: Work, split: str, repeated: Sequence[tuple[int, int, int] | None]
) -> None:
    found = [entry for entry in repeated if entry is not None]
    if found:
        times, key = min((-times, key) for times, key, _ in found)
        problem = f"user comes {-times} times ({sum(entry[2] for entry in found)} such users)"
        raise data_error(
            problem,
            "Keep one row, or one unbroken run of rows, for each user",
            file=work.source.users_place(split),
            key=key,
        )


def _share_records(
    work: Work,
    read: Read,
    first: Mapping[str, NDArray[np.int64]],
    parts: Sequence[users.UserPartition],
) -> users.Plan:
    """Compare the snapshots of users of both splits."""
    train = np.concatenate([part.both["train"] for part in parts])
    test = np.concatenate([part.both["test"] for part in parts])
    order = np.argsort(train)
    train, test = train[order], test[order]
    then = _describe(work, read, "train", first["train"], train, None)
    by_test = np.argsort(test)
    later = _describe(work, read, "test", first["test"], test[by_test], then.length[by_test])
    back = np.argsort(by_test)
    same = then.length <= later.length[back]
    same &= then.fingerprint == later.fingerprint[back]
    for name in work.source.profile:
        same &= then.profile[name] == later.profile[name][back]
    log.info("%d users of both splits, %d of them with one record", len(train), same.sum())
    people = sum(run.users for run in read.runs("train"))
    own = people - int(same.sum())
    return users.Plan(own, train[same], test[same], then.length[same])


def _describe(
    work: Work,
    read: Read,
    split: str,
    first: NDArray[np.int64],
    index: NDArray[np.int64],
    wanted: NDArray[np.int64] | None,
) -> users.Described:
    """Look again at some users of a split, by their rising indices."""
    cuts = np.append(np.searchsorted(index, first), len(index))
    tasks = [
        (
            run.folder,
            index[start:stop] - begin,
            None if wanted is None else wanted[start:stop],
        )
        for run, begin, start, stop in zip(
            read.runs(split), first, cuts[:-1], cuts[1:], strict=True
        )
        if stop > start
    ]
    profile = work.source.profile
    found = work.map(f"{split} users of both splits", partial(users.describe_users, profile), tasks)
    none = np.empty(0, np.int64)
    return users.Described(
        np.concatenate([none, *(part.length for part in found)]),
        {name: np.concatenate([none, *(p.profile[name] for p in found)]) for name in profile},
        np.concatenate([none.view(np.uint64), *(part.fingerprint for part in found)]),
    )


def write_users(
    work: Work, read: Read, parts: Sequence[users.UserPartition], plan: users.Plan
) -> None:
    """Write the histories, profile features and raw users of all records."""
    ranked = [part.ranked for part in parts]
    work.rank("user_id", ranked, {})
    runs = [run.folder / "users" for split in SPLITS for run in read.runs(split)]
    work.resolve("rows of users", runs, ranked, ranges(len(parts)))
    profile = {
        name: merged_vocabulary(
            [piece.profile[name] for piece in read.histories["train"] if piece.profile]
        )
        for name in work.source.profile
    }
    tasks, records, events = _record_tasks(read, plan)
    longest = [piece.max_length for split in SPLITS for piece in read.histories[split]]
    folder = work.store.reserve_histories(records, events, max(longest, default=0))
    work.store.reserve_feature("user", "user_id", records)
    for name, vocabulary in profile.items():
        work.store.add_table(name, vocabulary)
        work.store.reserve_feature("user", name, records)
    raw = work.spill / "raw_users"
    reserve(raw, records - 1, np.int64)
    outside = work.map("records", partial(users.write_records, folder, raw, profile), tasks)
    work.store.add_raw_users(_in_parts(raw, records - 1), pl.Int64)
    work.store.count("events_outside_vocabulary", sum(outside))


def _in_parts(file: Path, rows: int) -> Iterator[pl.Series]:
    """A column of int64 that need not fit in memory."""
    for start in range(0, rows, VOCABULARY_ROWS):
        stop = start + VOCABULARY_ROWS
        yield pl.Series(read_column(file.parent, file.name, np.int64, start, stop))


def _record_tasks(read: Read, plan: users.Plan) -> tuple[list[users.RecordTask], int, int]:
    """Which run writes which records and events; how many of each there are."""
    tasks = []
    record, event, first = 1, 0, 0
    none = np.empty(0, np.int64)
    for split in SPLITS:
        for run in read.runs(split):
            dropped, lost = none, 0
            if split == "train":
                low, high = np.searchsorted(plan.shared, [first, first + run.users])
                dropped, lost = plan.shared[low:high] - first, int(plan.length[low:high].sum())
                first += run.users
            tasks.append(users.RecordTask(run.folder, dropped, record, event))
            record += run.users - len(dropped)
            event += run.events - lost
    return tasks, record, event
