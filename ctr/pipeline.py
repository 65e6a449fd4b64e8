"""Steps of training on their way to the model, several at once.

While step t is in its forward and backward pass, the ids of step t + 1 travel to the processes that
hold their rows, those of t + 2 are announced (how many go where), t + 3 is searched in a thread (on
a GPU on a stream of its own), and the loader's threads build what follows and copy it from
page-locked memory. Every stage does what the model would do in place, in the same order, so the
losses are equal to the last bit.

TorchRec's pipelines find the lookups of a model by tracing it, and start them from the batch alone.
Here what is looked up depends on what the search finds, which no tracer can follow; of TorchRec
this uses the stages of a sharded collection (input distribution; lookup and output distribution).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from itertools import islice

import torch

from ctr.data.batch import Batch
from ctr.data.loader import Loader
from ctr.model.embeddings import EmbeddingTables
from ctr.model.network import Network
from ctr.model.prepared import Prepared
from ctr.stages import SEARCHED, Stages
from ctr.streams import Mark, SideStream, keep_for_this_stream


@dataclass(frozen=True)
class Step:
    """What the model is given.

    Attributes:
        host: the batch as the loader built it.
        batch: the same on the device.
        inputs: of the model: the batch, or what was prepared of it.
    """

    host: Batch
    batch: Batch
    inputs: Batch | Prepared


class _Flight:
    """A step on its way. Each stage does what the one before has not done yet.

    Args:
        host: the batch; batch: the same on the device, from the moment `copied` on.
    """

    def __init__(self, host: Batch, batch: Batch, copied: Mark) -> None:
        self.host, self.batch, self.copied = host, batch, copied
        self.searching: Future[tuple[Prepared, Mark]] | None = None
        self.ready: Prepared | None = None
        self.sent = Mark()
        self.exchanged = False

    def announce(self, tables: EmbeddingTables, sending: SideStream, stages: Stages) -> None:
        """Tell the other processes how many ids go where, once it is searched."""
        if self.searching is None or self.ready is not None:
            return
        with stages.running(SEARCHED):
            found, searched = self.searching.result()
        with stages.running("announce ids"), sending.running(searched) as self.sent:
            keep_for_this_stream(found)
            self.ready = found.send(tables)

    def exchange(self, tables: EmbeddingTables, sending: SideStream, stages: Stages) -> None:
        """Let the ids travel."""
        self.announce(tables, sending, stages)
        if self.ready is not None and not self.exchanged:
            with stages.running("send ids"), sending.running() as self.sent:
                self.ready.exchange()
            self.exchanged = True

    def land(self) -> Step:
        """The step, for the current stream to read."""
        self.copied.wait()
        keep_for_this_stream(self.batch)
        if self.ready is None:
            return Step(self.host, self.batch, self.batch)
        self.sent.wait()
        keep_for_this_stream(self.ready)
        return Step(self.host, self.batch, self.ready)


class Pipeline:
    """Hands out the steps of an epoch, with as much of each done ahead as is wanted.

    Args:
        network: sharded, on `device`.
        device: of this process.
        ahead: whether to work ahead; False does each step in its turn.
        stages: told what runs.
    """

    # Steps on their way beside the one that the model has: ids travel, ids are announced, search.
    _DEPTH = 3

    def __init__(
        self, network: Network, device: torch.device, ahead: bool, stages: Stages | None = None
    ) -> None:
        self.network, self.device, self.ahead = network, device, ahead
        self.stages = stages or Stages()
        self._copying, self._searching, self._sending = (SideStream(device) for _ in range(3))

    def steps(self, loader: Loader) -> Generator[Step]:
        """The rest of the loader's epoch; a step counts as read when it is handed out.

        All processes must go through it alike.
        """
        with closing(loader.batches()) as batches:
            ahead = self._ahead(batches) if self.ahead else self._in_turn(batches)
            with closing(ahead) as steps:
                for step in steps:
                    loader.count(step.host)
                    yield step
        loader.end_epoch()

    def _in_turn(self, batches: Iterator[Batch]) -> Generator[Step]:
        for host in self._loaded(batches):
            batch = host.to(self.device, non_blocking=True)
            yield Step(host, batch, batch)

    def _ahead(self, batches: Iterator[Batch]) -> Generator[Step]:
        flights: deque[_Flight] = deque()
        with ThreadPoolExecutor(1, thread_name_prefix="search") as searcher:
            for host in self._loaded(batches):
                flights.append(self._start(host, searcher))
                if len(flights) > self._DEPTH:
                    yield self._next(flights)
            while flights:
                yield self._next(flights)

    def _loaded(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        while True:
            with self.stages.running("wait for the loader"):
                batch = next(batches, None)
            if batch is None:
                return
            yield batch

    def _start(self, host: Batch, searcher: ThreadPoolExecutor) -> _Flight:
        with self.stages.running("copy"), self._copying.running() as copied:
            batch = host.to(self.device, non_blocking=True)
        flight = _Flight(host, batch, copied)
        if self.network.searches_ahead:
            flight.searching = searcher.submit(self._prepare, batch, copied)
        return flight

    def _prepare(self, batch: Batch, copied: Mark) -> tuple[Prepared, Mark]:
        """In the searcher's thread."""
        with self.stages.running("search"), self._searching.running(copied) as searched:
            keep_for_this_stream(batch)
            found = self.network.prepare(batch)
        return found, searched

    def _next(self, flights: deque[_Flight]) -> Step:
        """The oldest step, once those behind it have moved on.

        What it and the one behind it need was started in the calls before, except at the start of
        an epoch.
        """
        outward = self.network.tables, self._sending, self.stages
        for flight in islice(flights, 2):
            flight.exchange(*outward)
        for flight in islice(flights, 2, 3):
            flight.announce(*outward)
        return flights.popleft().land()
