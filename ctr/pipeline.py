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

import torch

from ctr.data.batch import Batch
from ctr.data.loader import Loader
from ctr.model.network import Network
from ctr.model.prepared import Prepared
from ctr.stages import Stages
from ctr.streams import SideStream, keep_for_this_stream


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


@dataclass
class _Flight:
    """A step on its way: `prepared` while it is searched, then `ready`."""

    host: Batch
    batch: Batch
    prepared: Future[Prepared] | None = None
    ready: Prepared | None = None


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
        with self.stages.running("copy"), self._copying.running():
            batch = host.to(self.device, non_blocking=True)
        flight = _Flight(host, batch)
        if self.network.searches_ahead:
            flight.prepared = searcher.submit(self._prepare, batch)
        return flight

    def _prepare(self, batch: Batch) -> Prepared:
        """In the searcher's thread."""
        with self.stages.running("search"), self._searching.running(after=self._copying):
            keep_for_this_stream(batch)
            return self.network.prepare(batch)

    def _next(self, flights: deque[_Flight]) -> Step:
        """The oldest step, once those behind it have moved on.

        What it and the one behind it need was started in the calls before, except at the start of
        an epoch.
        """
        for place in range(3):
            if place < len(flights):
                self._move(flights[place], receive=place < 2)
        flight = flights.popleft()
        self._copying.wait()
        keep_for_this_stream(flight.batch)
        if flight.ready is None:
            return Step(flight.host, flight.batch, flight.batch)
        self._sending.wait()
        keep_for_this_stream(flight.ready)
        return Step(flight.host, flight.batch, flight.ready)

    def _move(self, flight: _Flight, receive: bool) -> None:
        """Announce a flight's ids as soon as it is searched, or let them travel."""
        if flight.prepared is not None:
            with self.stages.running("wait for the search"):
                found = flight.prepared.result()
            flight.prepared = None
            with self.stages.running("announce ids"), self._sending.running(after=self._searching):
                keep_for_this_stream(found)
                flight.ready = found.send(self.network.tables)
        if receive and flight.ready is not None:
            with self.stages.running("send ids"), self._sending.running():
                flight.ready.exchange()
