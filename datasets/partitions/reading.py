"""First step: every table of the source is read once, in pieces, and spilled as runs.

Histories and targets are encoded batch by batch: an event becomes the place of its (item, category)
pair among those of the batch, a sample's target that of its item. What rows of the vocabulary the
pairs have is found later, partition by partition, without looking at the events again.
U users and T events of a batch; D distinct pairs; S samples.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from datasets.counting import MISSING, count_pairs
from datasets.parquet import Piece
from datasets.partitions.keys import first_of_runs, keys_of, sort_order
from datasets.partitions.runs import reserve, write_column, write_run
from datasets.partitions.source import Snapshots, SnapshotSource

# A task of one piece of one table: its split, its place among the pieces, the piece.
PieceTask = tuple[str, int, Piece]


@dataclass(frozen=True)
class SampleRun:
    """Spilled samples: `item` and `user` are places in the runs `items` and `users` below it.

    Args:
        folder: of the run.
        samples: how many.
        positives: of them.
        entries: distinct items and users.
    """

    folder: Path
    samples: int
    positives: int
    entries: tuple[int, int]


@dataclass(frozen=True)
class HistoryRun:
    """Spilled histories: pairs as a run, `code` of every event, and a run `users` of the users.

    Args:
        folder: of the run.
        users: how many.
        events: of all of them.
        pairs: distinct ones.
    """

    folder: Path
    users: int
    events: int
    pairs: int


@dataclass(frozen=True)
class HistoryPiece:
    """Histories of one piece.

    Args:
        runs: spilled.
        max_length: events of the longest.
        profile: values of each profile feature and how many users have them.
        continued: see `Snapshots`.
        ends: see `Snapshots`; None for a piece without rows.
    """

    runs: list[HistoryRun]
    max_length: int
    profile: dict[str, tuple[NDArray[np.int64], NDArray[np.int64]]] = field(default_factory=dict)
    continued: bool = False
    ends: tuple[tuple[int, ...], tuple[int, ...]] | None = None


def _distinct(
    ids_N: NDArray[np.int64],
) -> tuple[NDArray[np.uint64], NDArray[np.int64], NDArray[np.int32]]:
    """Distinct keys, rising, how often each comes, and each id's place among them."""
    pairs, place = count_pairs(ids_N, np.zeros(len(ids_N), np.int64))
    return pairs.key, pairs.count, place


def read_samples(source: SnapshotSource, spill: Path, task: PieceTask) -> list[SampleRun]:
    """Spill the samples of a piece."""
    split, place, piece = task
    runs = []
    for number, batch in enumerate(source.samples(split, piece)):
        folder = spill / f"{split}_samples" / f"{place:06d}-{number:04d}"
        entries = []
        for name, ids in (("items", batch.item), ("users", batch.user_id)):
            keys, count, code = _distinct(ids)
            write_run(folder / name, keys, {"count": count})
            reserve(folder / name / "row", len(keys), np.int32)
            write_column(folder, name.removesuffix("s"), code)
            entries.append(len(keys))
        write_column(folder, "label", batch.label)
        positives = int(batch.label.sum(dtype=np.int64))
        runs.append(SampleRun(folder, len(batch.label), positives, (entries[0], entries[1])))
    return runs


def read_histories(
    source: SnapshotSource, spill: Path, share: float, task: PieceTask
) -> HistoryPiece:
    """Spill the users of a piece with their histories."""
    split, place, piece = task
    runs = []
    longest = 0
    values: dict[str, list[tuple[NDArray[np.int64], NDArray[np.int64]]]] = {}
    continued, ends = False, None
    for number, batch in enumerate(source.snapshots(split, piece, share)):
        continued = continued if number else batch.continued
        ends = (batch.ends[0] if ends is None else ends[0], batch.ends[1])
        folder = spill / f"{split}_histories" / f"{place:06d}-{number:04d}"
        runs.append(_spill_histories(folder, batch))
        longest = max(longest, int(batch.lengths.max(initial=0)))
        for name, column in batch.profile.items():
            values.setdefault(name, []).append(np.unique(column, return_counts=True))
    profile = {name: _add_up(parts) for name, parts in values.items()}
    return HistoryPiece(runs, longest, profile, continued, ends)


def _add_up(
    parts: list[tuple[NDArray[np.int64], NDArray[np.int64]]],
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    values, inverse = np.unique(np.concatenate([part[0] for part in parts]), return_inverse=True)
    counts = np.bincount(inverse, np.concatenate([part[1] for part in parts]), len(values))
    return values, counts.astype(np.int64)


def _spill_histories(folder: Path, batch: Snapshots) -> HistoryRun:
    pairs, code_T = count_pairs(batch.items, batch.categories)
    count = pairs.count.astype(np.int32)
    write_run(folder, pairs.key, {"category": pairs.category, "count": count})
    reserve(folder / "row", len(pairs.key), np.int32)
    write_column(folder, "code", code_T)
    write_column(folder, "length", batch.lengths)
    for name, values in batch.profile.items():
        write_column(folder, f"profile_{name}", values)
    keys = keys_of(batch.user_id)
    order = sort_order(keys)
    write_run(folder / "users", keys[order], {"place": order})
    reserve(folder / "users" / "row", len(keys), np.int32)
    return HistoryRun(folder, len(keys), len(code_T), len(pairs.key))


def read_features(source: SnapshotSource, spill: Path, task: PieceTask) -> list[Path]:
    """Spill the items of a piece that have some feature."""
    _, place, piece = task
    folders = []
    for number, batch in enumerate(source.item_features(piece)):
        told = np.zeros(len(batch["item"]), bool)
        for name in source.features:
            told |= batch[name] != MISSING
        rows = {name: values[told] for name, values in batch.items()}
        keys = keys_of(rows.pop("item"))
        order = sort_order(keys)
        # Most of the joined form's rows say again what the row before said.
        keys = keys[order]
        columns = [rows[name][order] for name in source.features]
        first = first_of_runs(keys, *columns)
        folder = spill / "features" / f"{place:06d}-{number:04d}"
        kept = {name: values[first] for name, values in zip(source.features, columns, strict=True)}
        write_run(folder, keys[first], kept)
        folders.append(folder)
    return folders


def read_vector_keys(source: SnapshotSource, spill: Path, task: PieceTask) -> tuple[Path, int]:
    """Spill the items of a piece of the vectors."""
    _, place, piece = task
    keys = keys_of(np.concatenate([np.empty(0, np.int64), *source.vector_keys(piece)]))
    order = sort_order(keys)
    folder = spill / "vector_keys" / f"{place:06d}"
    write_run(folder, keys[order], {"place": order})
    reserve(folder / "row", len(keys), np.int32)
    return folder, len(keys)


def tasks(source: SnapshotSource, table: str, split: str = "") -> list[PieceTask]:
    """The tasks that read a table."""
    name = f"{split}_{table}" if split else table
    return [(split, place, piece) for place, piece in enumerate(source.pieces(name))]
