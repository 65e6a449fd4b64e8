"""Samples by ranges of records: each range is sorted by itself and written in its place.

S samples of a run or a range; R ranges.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from datasets import npy
from datasets.partitions.keys import sort_order
from datasets.partitions.runs import fences, read_column, read_runs, write_run
from datasets.partitions.users import Plan

COLUMNS = {"user": np.int32, "item": np.int32, "history_end": np.int64, "label": np.uint8}
_HIGH = np.uint64(32)


@dataclass(frozen=True)
class Placed:
    """Samples of a run, by their records.

    Args:
        folder: of the run that is sorted by record.
        counts: samples in each range, int64 [R].
        unknown_user: samples of users who are not there.
        unknown_item: samples of items without a row.
    """

    folder: Path
    counts: NDArray[np.int64]
    unknown_user: int
    unknown_item: int


def range_bounds(own: int, records: int, parts: int) -> NDArray[np.int64]:
    """First record of each range: record 0, then so many of the train split's and of the test's.

    Args:
        own: records of the train split.
        records: of both, the unknown one included.
        parts: ranges of each split.
    """
    train = np.linspace(1, own + 1, parts, endpoint=False, dtype=np.int64)
    test = np.linspace(own + 1, max(own + 1, records), parts, endpoint=False, dtype=np.int64)
    return np.unique(np.concatenate([[0], train, test]))


def place_samples(
    plan_folder: Path, split: str, bounds_R: NDArray[np.int64], folder: Path
) -> Placed:
    """Find the records and rows of a run's samples, and sort it by record.

    Args:
        plan_folder: where the plan is.
        split: of the samples.
        bounds_R: from `range_bounds`.
        folder: of the run.
    """
    user = read_column(folder / "users", "row", np.int32)[read_column(folder, "user", np.int32)]
    item = read_column(folder / "items", "row", np.int32)[read_column(folder, "item", np.int32)]
    record = Plan.load(plan_folder).records(split, user)
    # Records in the high bits, where `sort_order` looks first.
    key = record.astype(np.uint64) << _HIGH
    order = sort_order(key)
    columns = {"item": item[order], "label": read_column(folder, "label", np.uint8)[order]}
    sorted_folder = folder / "by_record"
    write_run(sorted_folder, key[order], columns, bounds_R.astype(np.uint64) << _HIGH)
    counts = np.diff(fences(sorted_folder))
    return Placed(sorted_folder, counts, int((user < 0).sum()), int((item == 0).sum()))


@dataclass(frozen=True)
class SplitTask:
    """One range of a split.

    Args:
        number: of the range.
        first: sample that it begins with.
        last_record: record before which it ends.
        first_record: record that it begins with.
    """

    number: int
    first: int
    first_record: int
    last_record: int


def write_range(
    plan_folder: Path, users: Path, folder: Path, runs: Sequence[Path], task: SplitTask
) -> int:
    """Sort and write the samples of one range.

    Args:
        plan_folder: where the plan is.
        users: the store's folder `users`.
        folder: of the split in the store, with files of the full length.
        runs: sorted by record, in the order of the source.
        task: the range.

    Returns:
        Distinct records.
    """
    if task.first_record == 0:
        return _write_strangers(folder, runs, task)
    span = (task.number, task.number + 1)
    columns, _ = read_runs(runs, span, {"key": np.uint64, "item": np.int32, "label": np.uint8})
    order = sort_order(columns["key"])
    user = (columns["key"][order] >> _HIGH).astype(np.int64)
    offsets = npy.read_rows(users / "history_offsets.npy", task.first_record, task.last_record + 1)
    history_end = np.diff(offsets)[user - task.first_record]
    plan = Plan.load(plan_folder)
    if folder.name == "train" and task.first_record > plan.own:
        # Records of test users: a train sample sees as much of them as its own snapshot had.
        partners = np.argsort(plan.partner)
        place = np.searchsorted(plan.partner[partners], user - plan.own - 1)
        history_end = plan.length[partners[place]]
    found = {
        "user": user.astype(np.int32),
        "item": columns["item"][order],
        "history_end": history_end,
        "label": columns["label"][order],
    }
    for name, values in found.items():
        npy.write_rows(folder / f"{name}.npy", task.first, values)
    return len(np.unique(user))


def _write_strangers(folder: Path, runs: Sequence[Path], task: SplitTask) -> int:
    """Samples of record 0 are in order as they are, so they are never held together."""
    first = task.first
    for run in runs:
        stop = int(fences(run)[1])
        for name in ("item", "label"):
            values = read_column(run, name, COLUMNS[name], 0, stop)
            npy.write_rows(folder / f"{name}.npy", first, values)
        first += stop
    return int(first > task.first)
