"""Store -> batches: columnar, user-grouped, split over processes, resumable at any sample.

Shape legend: B samples, U distinct users of a batch, T history events of a batch, R runs (all
samples of one user record in the split).
"""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass

import numpy as np
import torch

from ctr.data.batch import Batch
from ctr.data.store import Split, Store
from ctr.schema import StoreError


class EpochOrder:
    """The order in which an epoch reads a split: users shuffled, their samples kept together.

    Args:
        user: int32 [S]; user record of each sample, sorted.
        seed: of the shuffle; None keeps the split's order.
    """

    def __init__(self, user: np.ndarray, seed: tuple[int, int] | None) -> None:
        starts_R = np.flatnonzero(np.diff(user, prepend=-1))
        lengths_R = np.diff(starts_R, append=len(user))
        if seed is not None:
            order_R = np.random.default_rng(seed).permutation(len(starts_R))
            starts_R, lengths_R = starts_R[order_R], lengths_R[order_R]
        self.starts_R = starts_R
        self.ends_R = np.cumsum(lengths_R)
        self.begins_R = self.ends_R - lengths_R

    def rows(self, begin: int, end: int) -> np.ndarray:
        """Split rows at places `[begin, end)` of the order: int64 [end - begin]."""
        if begin >= end:
            return np.zeros(0, dtype=np.int64)
        first = int(np.searchsorted(self.ends_R, begin, side="right"))
        last = int(np.searchsorted(self.ends_R, end, side="left")) + 1
        ends = np.minimum(self.ends_R[first:last], end)
        begins = np.maximum(self.begins_R[first:last], begin)
        shift = self.starts_R[first:last] - self.begins_R[first:last]
        return np.arange(begin, end) + np.repeat(shift, ends - begins)


class BatchBuilder:
    """Builds a Batch from split rows; holds no state, so any thread may call it.

    Args:
        store: prepared store.
        split: its samples.
        history_length: latest behaviours that a sample may see.
    """

    def __init__(self, store: Store, split: Split, history_length: int) -> None:
        self.store, self.split, self.history_length = store, split, history_length

    def build(self, rows: np.ndarray, step_samples: int) -> Batch:
        """The batch of the given split rows, samples of a user adjacent and in split order.

        Raises:
            StoreError: an event whose row is not in its table.
        """
        user = self.split.user[rows]
        end_B = self.split.history_end[rows]
        begin_B = np.maximum(end_B - self.history_length, 0)
        changed = np.flatnonzero(np.diff(user, prepend=-1))
        user_B = np.repeat(np.arange(len(changed)), np.diff(changed, append=len(user)))
        record_U = user[changed]
        # Within a user `history_end` rises, so the first sample begins and the last one ends.
        low_U = begin_B[changed]
        high_U = end_B[np.append(changed[1:], len(user))[: len(changed)] - 1]
        offsets_U = np.concatenate([[0], np.cumsum(high_U - low_U)])
        base_U = self.store.history_offsets[record_U]
        segment_U = self.store.segments_of(base_U)
        # Counted from where the segment begins, a record's events stand in the segment's files.
        base_U = base_U - self.store.segment_begins[segment_U]
        stretches = list(
            zip(
                segment_U.tolist(),
                (base_U + low_U).tolist(),
                (base_U + high_U).tolist(),
                strict=True,
            )
        )
        places = offsets_U.tolist()
        return Batch(
            user_features_U={
                name: torch.from_numpy(column[record_U].astype(np.int64))
                for name, column in self.store.user_features.items()
            },
            history_item_T=self._events(
                "history_item", self.store.history_item, "item", stretches, places
            ),
            history_events_T={
                f.name: self._events(
                    f"event_{f.name}", self.store.events[f.name], f.table, stretches, places
                )
                for f in self.store.schema.event
            },
            history_offsets_U=torch.from_numpy(offsets_U),
            user_B=torch.from_numpy(user_B),
            history_begin_B=torch.from_numpy(begin_B - low_U[user_B]),
            history_end_B=torch.from_numpy(end_B - low_U[user_B]),
            target_item_B=torch.from_numpy(self.split.item[rows].astype(np.int64)),
            sample_features_B={
                name: torch.from_numpy(column[rows].astype(np.int64))
                for name, column in self.split.features.items()
            },
            label_B=self._labels(rows),
            sample_B=torch.from_numpy(rows),
            step_samples=step_samples,
        )

    def _labels(self, rows: np.ndarray) -> torch.Tensor:
        if self.split.label is None:
            return torch.full((len(rows),), torch.nan)
        return torch.from_numpy(self.split.label[rows].astype(np.float32))

    def _events(
        self,
        name: str,
        segments: tuple[np.ndarray, ...],
        table: str,
        stretches: list[tuple[int, int, int]],
        places: list[int],
    ) -> torch.Tensor:
        store = self.store
        gathered_T = _gather(segments, stretches, places)
        rows = store.schema.table_rows[table]
        # Checked here, since a store has too many events to look at them all when it is opened. A
        # negative row is a large one without its sign.
        if gathered_T.view(np.uint32).max(initial=0) >= rows:
            place = int(np.argmax((gathered_T < 0) | (gathered_T >= rows)))
            segment = stretches[bisect_right(places, place) - 1][0]
            raise StoreError(
                f"{store.events_file(name, segment)}: an event of row {gathered_T[place]}, its "
                f"table has {rows}; prepare the store again"
            )
        return torch.from_numpy(gathered_T)


def _gather(
    segments: tuple[np.ndarray, ...], stretches: list[tuple[int, int, int]], places: list[int]
) -> np.ndarray:
    out = np.empty(places[-1], dtype=segments[0].dtype)
    for place, (segment, begin, end) in zip(places, stretches, strict=False):
        out[place : place + end - begin] = segments[segment][begin:end]
    return out


@dataclass(frozen=True)
class Shard:
    """Which part of every step this process reads."""

    rank: int = 0
    world_size: int = 1


class Loader:
    """Iterates one epoch at a time; every sample is read once an epoch, whatever the world size.

    A step takes the next `batch_size * world_size` samples of the epoch's order, and each process
    an equal part of them, so all processes take the same number of steps; the last step shares out
    what is left.

    Args:
        store: prepared store; split: what to read, samples of its users.
        batch_size: samples a process and step.
        history_length: latest behaviours that a sample may see.
        shard: this process.
        seed: of the shuffle, None for the split's order.
        workers: threads that build batches; prefetch: batches built ahead.
        pin_memory: build batches in page-locked memory, for a GPU.
    """

    def __init__(
        self,
        store: Store,
        split: Split,
        *,
        batch_size: int,
        history_length: int,
        shard: Shard | None = None,
        seed: int | None = None,
        workers: int = 1,
        prefetch: int = 4,
        pin_memory: bool = False,
    ) -> None:
        self.split = split
        self.builder = BatchBuilder(store, split, history_length)
        self.shard = shard or Shard()
        self.step_size = batch_size * self.shard.world_size
        self.seed, self.workers, self.prefetch = seed, workers, prefetch
        self.pin_memory = pin_memory
        self.epoch = 0
        self.samples_done = 0

    def __len__(self) -> int:
        """Steps left in this epoch."""
        return -(-(len(self.split) - self.samples_done) // self.step_size)

    def __iter__(self) -> Iterator[Batch]:
        """The rest of this epoch; a batch counts as read when it is handed out."""
        with closing(self.batches()) as batches:
            for batch in batches:
                self.count(batch)
                yield batch
        self.end_epoch()

    def batches(self) -> Generator[Batch]:
        """The rest of this epoch for who counts by `count` and `end_epoch` what he has used."""
        seed = None if self.seed is None else (self.seed, self.epoch)
        order = EpochOrder(self.split.user, seed)
        begins = range(self.samples_done, len(self.split), self.step_size)
        pending: deque[Future[Batch]] = deque()
        todo = iter(begins)
        with ThreadPoolExecutor(self.workers, thread_name_prefix="loader") as pool:
            for _ in begins:
                while len(pending) <= self.prefetch and (ahead := next(todo, None)) is not None:
                    pending.append(pool.submit(self._build, order, ahead))
                yield pending.popleft().result()

    def count(self, batch: Batch) -> None:
        """Take the samples of a step as read."""
        self.samples_done += batch.step_samples

    def end_epoch(self) -> None:
        """Go on with the next epoch."""
        self.epoch, self.samples_done = self.epoch + 1, 0

    def _build(self, order: EpochOrder, begin: int) -> Batch:
        samples = min(self.step_size, len(self.split) - begin)
        rank, world = self.shard.rank, self.shard.world_size
        rows = order.rows(begin + samples * rank // world, begin + samples * (rank + 1) // world)
        batch = self.builder.build(rows, samples)
        return batch.pin_memory() if self.pin_memory else batch

    def state_dict(self) -> dict[str, int]:
        """Where reading stands, in samples: valid for any number of processes."""
        return {"epoch": self.epoch, "samples_done": self.samples_done}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on where `state_dict` was taken."""
        self.epoch, self.samples_done = state["epoch"], state["samples_done"]
