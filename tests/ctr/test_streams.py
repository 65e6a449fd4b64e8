"""What the pipeline puts on which stream of a GPU, and in which order: on streams that only tell.

A stream here knows all work that is certain to be done before its next one: what was put on it, and
what the events it waits for knew.
"""

import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace

import pytest
import torch
from torchrec import KeyedJaggedTensor
from torchrec.distributed.embedding_types import KJTList

import ctr.pipeline
import ctr.streams
from ctr.pipeline import Pipeline
from ctr.streams import SideStream, keep_for_this_stream

STEPS = 7
GPU = torch.device("cuda", 0)


@dataclass(eq=False)
class FakeStream:
    name: str
    known: set = field(default_factory=set)

    def record_event(self):
        return frozenset(self.known)

    def wait_event(self, event):
        self.known |= event


class FakeCuda:
    """Stands for torch.cuda; `work` notes what is put on the current stream, and what it knows."""

    def __init__(self):
        self.main = FakeStream("main")
        self.names = iter(["copying", "searching", "sending"])
        self.local = threading.local()
        self.before, self.order, self.kept = {}, [], []

    def Stream(self, device):  # noqa: N802
        return FakeStream(next(self.names))

    def current_stream(self, device=None):
        return getattr(self.local, "stream", self.main)

    @contextmanager
    def stream(self, stream):
        outer, self.local.stream = self.current_stream(), stream
        yield
        self.local.stream = outer

    def work(self, *name):
        known = self.current_stream().known
        self.before[name] = frozenset(known)
        known.add(name)
        self.order.append(name)

    def keep(self, value):
        self.kept.append((value.name, self.current_stream().name))


@dataclass
class FakeBatch:
    cuda: FakeCuda
    number: int

    @property
    def name(self):
        return "batch", self.number

    def to(self, device, non_blocking):
        assert device == GPU
        assert non_blocking
        self.cuda.work("copy", self.number)
        return self


@dataclass
class FakePrepared:
    cuda: FakeCuda
    number: int

    @property
    def name(self):
        return "prepared", self.number

    def send(self, tables):
        self.cuda.work("announce", self.number)
        return self

    def exchange(self):
        self.cuda.work("exchange", self.number)


@pytest.fixture
def cuda(monkeypatch):
    cuda = FakeCuda()
    monkeypatch.setattr(ctr.streams, "torch", SimpleNamespace(cuda=cuda))
    monkeypatch.setattr(ctr.pipeline, "keep_for_this_stream", cuda.keep)
    return cuda


def train(cuda, searches_ahead):
    """All steps of an epoch, each with a forward pass on the main stream."""

    def prepare(batch):
        cuda.work("search", batch.number)
        return FakePrepared(cuda, batch.number)

    network = SimpleNamespace(prepare=prepare, searches_ahead=searches_ahead, tables=None)
    loader = SimpleNamespace(
        batches=lambda: (FakeBatch(cuda, number) for number in range(STEPS)),
        count=lambda batch: None,
        end_epoch=lambda: None,
    )
    pipeline = Pipeline(network, GPU, ahead=True)
    for number, step in enumerate(pipeline.steps(loader)):
        assert step.inputs.number == number
        cuda.work("forward", number)


@pytest.fixture
def trained(cuda):
    train(cuda, searches_ahead=True)
    return cuda


def test_each_stage_waits_for_the_one_before(trained):
    chain = ("copy", "search", "announce", "exchange", "forward")
    for number in range(STEPS):
        for place, stage in enumerate(chain):
            expected = {(earlier, number) for earlier in chain[:place]}
            assert expected <= trained.before[stage, number], (stage, number)


def test_no_stage_waits_for_a_later_step(trained):
    for (stage, number), before in trained.before.items():
        if stage in ("copy", "search"):
            assert not {n for s, n in before if s not in ("copy", "search")}
        later = {(s, n) for s, n in before if n > number and s in ("copy", "search", "forward")}
        assert not later, (stage, number)
        if stage == "forward":
            assert not {n for _, n in before if n > number}


def test_the_steps_behind_have_moved_on_before_one_is_handed_out(trained):
    place = {work: at for at, work in enumerate(trained.order)}
    for number in range(STEPS - 3):
        for stage, ahead in (("exchange", 1), ("announce", 2), ("copy", 3)):
            assert place[stage, number + ahead] < place["forward", number]
        # No further, or they would hold memory for nothing.
        assert place["forward", number] < place["announce", number + 3]


def test_memory_is_kept_for_every_stream_that_reads_it(trained):
    expected = [
        (name, stream)
        for number in range(STEPS)
        for name, stream in (
            (("batch", number), "searching"),
            (("batch", number), "main"),
            (("prepared", number), "sending"),
            (("prepared", number), "main"),
        )
    ]
    assert sorted(trained.kept) == sorted(expected)


def test_a_step_that_is_not_searched_ahead_waits_for_its_copy(cuda):
    train(cuda, searches_ahead=False)
    for number in range(STEPS):
        assert ("copy", number) in cuda.before["forward", number]
        assert ("copy", number + 1) not in cuda.before["forward", number]
    assert cuda.kept == [(("batch", number), "main") for number in range(STEPS)]


def test_without_a_gpu_there_is_no_stream():
    side = SideStream(torch.device("cpu"))
    with side.running() as first:
        assert side.stream is None
    with side.running(first) as second:
        pass
    second.wait()


def test_all_tensors_of_a_value_are_kept(monkeypatch):
    class OnGpu(torch.Tensor):
        is_cuda = True

        def record_stream(self, stream):
            kept.append(self.tolist())

    def tensor(value, **kind):
        return torch.tensor(value, **kind).as_subclass(OnGpu)

    kept = []
    monkeypatch.setattr(
        ctr.streams, "torch", SimpleNamespace(cuda=SimpleNamespace(current_stream=lambda _: None))
    )
    jagged = KeyedJaggedTensor(
        ["a"], tensor([4]), lengths=tensor([1]), offsets=tensor([0, 1], dtype=torch.int32)
    )

    @dataclass
    class Holder:
        one: torch.Tensor
        many: dict
        nothing: None = None

    keep_for_this_stream(
        (Holder(tensor(7), {"x": [tensor(8)]}), KJTList([jagged]), torch.tensor(9), "text")
    )
    assert sorted(kept, key=str) == [7, 8, [0, 1], [1], [4]]
