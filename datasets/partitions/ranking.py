"""Vocabularies too large for one process: rows by falling count, then by rising raw id.

Every partition sorts its own ids that way. Splitters, chosen from a sample of them all, cut each
partition into the same buckets; a bucket's rows follow those of the buckets before it.
N ids of a partition; n of a bucket.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from datasets import npy
from datasets.partitions.budget import Budget
from datasets.partitions.keys import find_in_order, ids_of, sort_order
from datasets.partitions.runs import fences, read_column, reserve, write_column, write_rows
from datasets.vocab import VOCABULARY_ROWS, Vocabulary

_SAMPLE = 256


@dataclass(frozen=True)
class Ranked:
    """Ids of one partition in the order of their rows.

    Args:
        folder: with columns `key`, `raw`, `count`, features, and `row`, filled in later.
        size: how many ids.
        count: of evenly chosen ones, int64.
        raw: of the same, int64.
    """

    folder: Path
    size: int
    count: NDArray[np.int64]
    raw: NDArray[np.int64]


@dataclass(frozen=True)
class Table:
    """Where a vocabulary is written.

    Args:
        folder: for columns `raw` and `count` in the order of the rows.
        size: ids, row 0 not among them.
        features: columns of the partitions, with the .npy file and the vocabulary of each.
    """

    folder: Path
    size: int
    features: Mapping[str, tuple[Path, Vocabulary]] = field(default_factory=dict)


def save_ranked(
    folder: Path,
    key_N: NDArray[np.uint64],
    count_N: NDArray[np.int64],
    columns: Mapping[str, NDArray[np.int64]],
) -> Ranked:
    """Sort and write the ids of a partition.

    Args:
        folder: made here.
        key_N: distinct.
        count_N: how often each was seen.
        columns: features, raw, each int64 [N].
    """
    raw_N = ids_of(key_N)
    order = np.lexsort((raw_N, -count_N))
    folder.mkdir(parents=True, exist_ok=True)
    sorted_columns = {"key": key_N[order], "raw": raw_N[order], "count": count_N[order]}
    sorted_columns |= {name: values[order] for name, values in columns.items()}
    for name, values in sorted_columns.items():
        write_column(folder, name, values)
    reserve(folder / "row", len(order), np.int32)
    step = max(1, len(order) // _SAMPLE)
    return Ranked(folder, len(order), count_N[order][::step], raw_N[order][::step])


def _splitters(partitions: Sequence[Ranked], buckets: int) -> list[tuple[int, int]]:
    """(count, raw id) that each bucket but the first begins with."""
    count = np.concatenate([part.count for part in partitions])
    raw = np.concatenate([part.raw for part in partitions])
    weights = [np.full(len(part.raw), part.size / max(1, len(part.raw))) for part in partitions]
    order = np.lexsort((raw, -count))
    above = np.cumsum(np.concatenate(weights)[order])
    wanted = np.arange(1, buckets) * (above[-1] / buckets if len(above) else 0)
    chosen = order[np.unique(np.minimum(np.searchsorted(above, wanted), len(order) - 1))]
    return [(int(count[place]), int(raw[place])) for place in chosen]


def _cut(splitters: list[tuple[int, int]], folder: Path) -> list[int]:
    """Where the buckets of a partition begin, and the end of the last."""
    falling = -read_column(folder, "count", np.int64)
    raw = read_column(folder, "raw", np.int64)
    cuts = [0]
    for count, first in splitters:
        low, high = (
            np.searchsorted(falling, -count, "left"),
            np.searchsorted(falling, -count, "right"),
        )
        cuts.append(int(low + np.searchsorted(raw[low:high], first)))
    return [*cuts, len(raw)]


def _rank_bucket(table: Table, task: tuple[int, list[tuple[Path, int, int]]]) -> None:
    """Merge a bucket's slices of all partitions, and give out its rows."""
    before, slices = task

    def column(name: str, dtype: Any = np.int64) -> NDArray[Any]:
        parts = [read_column(folder, name, dtype, start, stop) for folder, start, stop in slices]
        return np.concatenate([np.empty(0, dtype), *parts])

    count, raw = column("count"), column("raw")
    order = np.lexsort((raw, -count))
    write_rows(table.folder / "count", before, count[order])
    write_rows(table.folder / "raw", before, raw[order])
    for name, (file, vocabulary) in table.features.items():
        npy.write_rows(file, before + 1, vocabulary.rows(column(name)[order]))
    row = np.empty(len(order), np.int32)
    row[order] = np.arange(before + 1, before + 1 + len(order), dtype=np.int32)
    ends = np.cumsum([stop - start for _, start, stop in slices])
    for (folder, start, _), part in zip(slices, np.split(row, ends[:-1]), strict=True):
        write_rows(folder / "row", start, part)


def rank(
    run: Callable[..., Any], budget: Budget, step: str, partitions: Sequence[Ranked], table: Table
) -> None:
    """Give all ids their rows.

    Args:
        run: `map` of an engine.
        budget: of memory.
        step: name, for messages.
        partitions: from `save_ranked`.
        table: where to.
    """
    table.folder.mkdir(parents=True)
    for name in ("raw", "count"):
        reserve(table.folder / name, table.size, np.int64)
    folders = [part.folder for part in partitions]
    splitters = _splitters(partitions, budget.parts(table.size)) if table.size else []
    cuts = np.array(run(f"{step}: cut", partial(_cut, splitters), folders))
    buckets = []
    for bucket, (starts, stops) in enumerate(zip(cuts.T[:-1], cuts.T[1:], strict=True)):
        slices = list(zip(folders, starts.tolist(), stops.tolist(), strict=True))
        buckets.append((int(cuts[:, bucket].sum()), slices))
    run(f"{step}: rank", partial(_rank_bucket, table), buckets)


def read_table(table: Table) -> Iterator[tuple[pl.Series, pl.Series]]:
    """Raw ids and counts in the order of the rows, in parts for `write_vocabulary`."""
    for start in range(0, table.size, VOCABULARY_ROWS):
        stop = min(table.size, start + VOCABULARY_ROWS)
        raw, count = (
            pl.Series(read_column(table.folder, name, np.int64, start, stop))
            for name in ("raw", "count")
        )
        yield raw, count


def resolve(runs: Sequence[Path], task: tuple[Path, tuple[int, int]]) -> None:
    """Write the rows of one partition's ids into column `row` of runs; other keys keep row 0.

    Args:
        runs: any with the keys of ids.
        task: folder of the partition, and its span of fences.
    """
    folder, span = task
    key = read_column(folder, "key", np.uint64)
    order = sort_order(key)
    fill_rows(runs, span, key[order], read_column(folder, "row", np.int32)[order], 0)


def fill_rows(
    runs: Sequence[Path],
    span: tuple[int, int],
    key_N: NDArray[np.uint64],
    value_N: NDArray[np.int32],
    absent: int,
) -> None:
    """Write into column `row` of runs what belongs to their keys.

    Args:
        runs: any with such keys.
        span: fences that the keys lie between.
        key_N: distinct, rising.
        value_N: of each key.
        absent: for other keys.
    """
    for run in runs:
        cuts = fences(run)
        start, stop = int(cuts[span[0]]), int(cuts[span[1]])
        if stop > start:
            place = find_in_order(key_N, read_column(run, "key", np.uint64, start, stop))
            row = np.full(len(place), absent, np.int32)
            row[place >= 0] = value_N[place[place >= 0]]
            write_rows(run / "row", start, row)
