"""Preparation of sources that give every user one history per split (a snapshot).

Every step is a pure function on pieces or partitions (`datasets.partitions`); here is only their
order. docs/preparation.md says what is partitioned how, and what memory depends on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from datasets.errors import data_error
from datasets.manifest import check_destination
from datasets.partitions import reading, samples
from datasets.partitions.budget import Budget
from datasets.partitions.engine import Engine, Inline
from datasets.partitions.item_steps import write_items, write_vectors
from datasets.partitions.source import SnapshotSource
from datasets.partitions.user_steps import plan_users, write_users
from datasets.partitions.users import Plan
from datasets.partitions.work import SPLITS, Read, Work, join
from datasets.store import StoreWriter


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
class Means:
    """What a preparation works with; the store does not depend on it.

    Args:
        engine: runs the steps.
        budget: of memory.
    """

    engine: Engine
    budget: Budget


def prepare(
    source: SnapshotSource,
    out: Path,
    options: Options,
    *,
    name: str,
    created_by: str,
    overwrite: bool = False,
    source_note: Mapping[str, Any] | None = None,
    means: Means | None = None,
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
        means: by default this process alone, with the default memory.

    Returns:
        The manifest.

    Raises:
        DataError: bad input, or `out` exists.
        ChildProcessError: a process of the engine died.
    """
    check_destination(out, overwrite)
    means = means or Means(Inline(), Budget())
    note = {
        "path": str(source.path),
        "files": source.files(),
        "options": vars(options),
        **(source_note or {}),
    }
    with (
        StoreWriter(
            out, name=name, created_by=created_by, source=note, overwrite=overwrite
        ) as store,
        means.engine,
    ):
        work = Work(source, store, means.engine, means.budget, store.scratch())
        read = _read(work)
        parts, plan = plan_users(work, read, options.user_min_frequency)
        size = write_items(work, read, options.min_frequency)
        write_vectors(work, read, size)
        write_users(work, read, parts, plan)
        _write_samples(work, read, plan)
        return store.finish()


def _read(work: Work) -> Read:
    """Read and spill all tables of the source."""
    source, spill = work.source, work.spill
    shown = {
        split: join(
            work.map(
                f"{split} samples",
                partial(reading.read_samples, source, spill),
                reading.tasks(source, "samples", split),
            )
        )
        for split in SPLITS
    }
    for split, runs in shown.items():
        if not sum(run.samples for run in runs):
            advice = "Check the source, so that every split gets samples"
            raise data_error(f"split '{split}' has no samples", advice)
    read = partial(reading.read_histories, source, spill, work.budget.batch_share)
    histories = {}
    for split in SPLITS:
        tasks = reading.tasks(source, "users", split)
        histories[split] = work.map(f"{split} histories", read, tasks)
        _check_edges(work, split, tasks, histories[split])
    features = work.map(
        "item features",
        partial(reading.read_features, source, spill),
        reading.tasks(source, "items"),
    )
    keys: list[tuple[Path, int]] = []
    if source.vector_kind() is not None:
        tasks = reading.tasks(source, "vectors")
        keys = work.map(
            "items of the vectors", partial(reading.read_vector_keys, source, spill), tasks
        )
    return Read(shown, histories, join(features), keys)


def _check_edges(
    work: Work,
    split: str,
    tasks: list[reading.PieceTask],
    pieces: list[reading.HistoryPiece],
) -> None:
    """Refuse a piece that goes on with a user of the piece before by another history."""
    last: tuple[tuple[int, ...], tuple[int, ...]] | None = None
    for task, piece in zip(tasks, pieces, strict=True):
        if piece.continued and last and piece.ends and piece.ends[0] != last[1]:
            raise work.source.changed_history(split, task[2])
        last = piece.ends or last


def _write_samples(work: Work, read: Read, plan: Plan) -> None:
    """Write the samples of both splits, range of records after range of records."""
    people = sum(run.users for run in read.runs("test"))
    records = 1 + plan.own + people
    plan_folder = work.spill / "plan"
    for split in SPLITS:
        total = sum(run.samples for run in read.samples[split])
        parts = work.budget.parts(total)
        bounds = samples.range_bounds(plan.own, records, parts)
        placed = work.map(
            f"records of {split} samples",
            partial(samples.place_samples, plan_folder, split, bounds),
            [run.folder for run in read.samples[split]],
        )
        sizes = np.sum([part.counts for part in placed], axis=0)
        starts = (np.cumsum(sizes) - sizes).tolist()
        ends = [*bounds[1:].tolist(), records]
        ranges_ = zip(range(len(bounds)), starts, bounds.tolist(), ends, strict=True)
        tasks = [samples.SplitTask(*entry) for entry in ranges_]
        folder = work.store.reserve_split(split, samples.COLUMNS, total)
        write = partial(
            samples.write_range,
            plan_folder,
            folder.parent.parent / "users",
            folder,
            [part.folder for part in placed],
        )
        having = sum(work.map(f"{split} split", write, tasks))
        positives = sum(run.positives for run in read.samples[split])
        work.store.describe_split(split, total, positives, having)
        for name in ("unknown_user", "unknown_item"):
            bent = sum(getattr(part, name) for part in placed)
            work.store.count(f"{split}_samples_{name}", bent)
