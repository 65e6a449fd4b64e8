"""The steps of the items: their table, features and vectors."""

from __future__ import annotations

import logging
from functools import partial

import numpy as np

from datasets.partitions import items, reading, vectors
from datasets.partitions.keys import ranges
from datasets.partitions.work import SPLITS, Read, Work, join, merged_vocabulary

log = logging.getLogger(__name__)


def write_items(work: Work, read: Read, min_frequency: int) -> int:
    """Write table `item` and its features, and give all runs their rows; how many rows."""
    histories = [run for split in SPLITS for run in read.runs(split)]
    runs = items.ItemRuns(
        [run.folder for run in histories],
        {split: read.below(split, "items") for split in SPLITS},
        read.features,
        work.source.features,
    )
    entries = sum(run.pairs for run in histories)
    entries += sum(run.entries[0] for split in SPLITS for run in read.samples[split])
    spans = ranges(work.budget.parts(entries))
    reduce = partial(items.reduce_items, runs, work.spill, min_frequency)
    parts = work.map("items", reduce, list(enumerate(spans)))
    for folder in runs.histories:
        # No longer needed, and more than half of what is spilled.
        (folder / "category").unlink()
        (folder / "count").unlink()
    for name in ("conflicting_item_features", "targets_without_features", "category_conflicts"):
        work.store.count(name, sum(part.counts[name] for part in parts))
    size = sum(part.ranked.size for part in parts)
    vocabularies = {
        name: merged_vocabulary([part.values[name] for part in parts])
        for name in work.source.features
    }
    work.rank("item", [part.ranked for part in parts], vocabularies)
    resolved = [
        *runs.histories,
        *(folder for split in SPLITS for folder in runs.targets[split]),
    ]
    resolved += [folder for folder, _ in read.vector_keys]
    work.resolve("rows of items", resolved, [part.ranked for part in parts], spans)
    return size + 1


def write_vectors(work: Work, read: Read, size: int) -> None:
    """Write the vectors of the items, range of rows after range of rows."""
    kind = work.source.vector_kind()
    if kind is None:
        return
    file = work.store.reserve_vectors(size, kind.width, kind.dtype)
    width = kind.width * np.dtype(kind.dtype).itemsize
    parts = work.budget.parts(size * width // 16)
    bounds = np.unique(np.linspace(0, size, parts, endpoint=False, dtype=np.int64))
    tasks = reading.tasks(work.source, "vectors")
    runs = join(
        work.map(
            "vectors",
            partial(vectors.read_vectors, work.source, work.spill, bounds),
            list(zip(tasks, (folder for folder, _ in read.vector_keys), strict=True)),
        )
    )
    ends = [*bounds[1:].tolist(), size]
    found = work.map(
        "rows of vectors",
        partial(vectors.write_vectors_range, file, kind, runs),
        list(zip(range(len(bounds)), bounds.tolist(), ends, strict=True)),
    )
    keys = [folder for folder, _ in read.vector_keys]
    spans = ranges(work.budget.parts(sum(rows for _, rows in read.vector_keys)))
    repeats = work.map("repeated vectors", partial(vectors.count_repeats, keys), spans)
    work.store.count("duplicate_vector_keys", sum(repeats))
    zeros = sum(zero for _, zero in found)
    work.store.count("zero_vectors", zeros)
    having = sum(rows for rows, _ in found) - zeros
    log.info("%d of %d items have a vector", having, size - 1)
