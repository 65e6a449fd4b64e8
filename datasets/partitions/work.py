"""What the steps of a preparation share: the source, the store, the engine and the memory."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
import polars as pl
from numpy.typing import NDArray

from datasets.counting import MISSING
from datasets.partitions import ranking
from datasets.partitions.budget import Budget
from datasets.partitions.engine import Engine, Result, Task
from datasets.partitions.reading import HistoryPiece, HistoryRun, SampleRun
from datasets.partitions.source import SnapshotSource
from datasets.store import StoreWriter
from datasets.vocab import Vocabulary, build_vocabulary

log = logging.getLogger(__name__)

SPLITS = ("train", "test")
Entry = TypeVar("Entry")
# Seconds of a step that is worth a line.
_LONG_STEP = 10


@dataclass(frozen=True)
class Read:
    """What the first step spilled.

    Args:
        samples: runs by split.
        histories: pieces by split.
        features: runs of items with features.
        vector_keys: runs of the items of the vectors, with their rows.
    """

    samples: dict[str, list[SampleRun]]
    histories: dict[str, list[HistoryPiece]]
    features: list[Path]
    vector_keys: list[tuple[Path, int]]

    def runs(self, split: str) -> list[HistoryRun]:
        """History runs of a split, in the order of the source."""
        return [run for piece in self.histories[split] for run in piece.runs]

    def below(self, split: str, name: str) -> list[Path]:
        """Runs `items` or `users` of the samples of a split."""
        return [run.folder / name for run in self.samples[split]]


@dataclass(frozen=True)
class Work:
    """A preparation at work.

    Args:
        source: the data set.
        store: being written.
        engine: runs the tasks.
        budget: of memory.
        spill: folder for what is spilled.
    """

    source: SnapshotSource
    store: StoreWriter
    engine: Engine
    budget: Budget
    spill: Path

    def map(
        self, step: str, function: Callable[[Task], Result], tasks: Sequence[Task]
    ) -> list[Result]:
        """See `Engine.map`; a step that took long is logged."""
        begin = time.monotonic()
        results = self.engine.map(step, function, tasks)
        seconds = time.monotonic() - begin
        level = logging.INFO if seconds >= _LONG_STEP else logging.DEBUG
        log.log(level, "%s: %d tasks, %.0f s", step, len(tasks), seconds)
        return results

    def rank(
        self,
        table: str,
        parts: Sequence[ranking.Ranked],
        features: Mapping[str, Vocabulary],
    ) -> None:
        """Give the ids of a table their rows, and write its vocabulary and features."""
        size = sum(part.size for part in parts)
        files = {
            name: (self.store.reserve_feature("item", name, size + 1), vocabulary)
            for name, vocabulary in features.items()
        }
        ranked = ranking.Table(self.spill / "vocab" / table, size, files)
        ranking.rank(self.map, self.budget, f"table {table}", parts, ranked)
        self.store.add_table_parts(table, size, ranking.read_table(ranked))
        for name, vocabulary in features.items():
            self.store.add_table(name, vocabulary)

    def resolve(
        self,
        step: str,
        runs: list[Path],
        parts: Sequence[ranking.Ranked],
        spans: Sequence[tuple[int, int]],
    ) -> None:
        """Tell runs the rows of their keys."""
        tasks = [(part.folder, span) for part, span in zip(parts, spans, strict=True)]
        self.map(step, partial(ranking.resolve, runs), tasks)


def join(parts: Sequence[list[Entry]]) -> list[Entry]:
    """The entries of all parts."""
    return [entry for part in parts for entry in part]


def merged_vocabulary(parts: Sequence[tuple[NDArray[np.int64], NDArray[np.int64]]]) -> Vocabulary:
    """A vocabulary from values and how often each comes."""
    none = np.empty(0, np.int64)
    raw = np.concatenate([none, *(values for values, _ in parts)])
    count = np.concatenate([none, *(counts for _, counts in parts)])
    return build_vocabulary(pl.DataFrame({"raw": raw, "count": count}), missing=(MISSING,))
