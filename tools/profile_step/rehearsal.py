"""Training steps in three manners: in turn, with the pipeline, and with the search done before."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import islice, pairwise
from pathlib import Path

import torch
import torch.distributed as dist

from ctr.checkpoint import Checkpointer
from ctr.config import RunConfig
from ctr.data.loader import Loader
from ctr.data.store import Store
from ctr.distributed import Process
from ctr.faults import SpikeWatch, StopRequest
from ctr.model.prepared import Prepared
from ctr.parts import make_parts
from ctr.pipeline import Pipeline, Step
from ctr.progress import Progress, Window
from ctr.run_folder import RunFolder
from ctr.run_log import RunLog
from ctr.stages import Span, Stages
from ctr.step import Parts, TrainStep
from tools.profile_step.ids import ids_per_sample, ids_sent
from tools.profile_step.spans import Interval

IN_TURN, AHEAD, BEFORE = "in turn", "pipeline", "searched before"


class Searched(Pipeline):
    """Steps whose search and ids are ready before the first is handed out: a search for nothing."""

    def __init__(self, pipeline: Pipeline, steps: int) -> None:
        super().__init__(pipeline.network, pipeline.device, False, pipeline.stages)
        self.count = steps

    def steps(self, loader: Loader) -> Generator[Step]:
        """The loader's first steps."""
        ready: list[Step] = []
        for host in loader:
            batch = host.to(self.device)
            ready.append(Step(host, batch, self.network.prepare(batch)))
            if len(ready) == self.count:
                break
        yield from ready


@dataclass(frozen=True)
class Rehearsal:
    """Steps that were taken in one manner.

    Attributes:
        steps: from when to when, by `time.perf_counter`, but the first ones, which warm up.
        spans: of their stages.
        loss: sum over all samples, to be the same in every manner.
        samples: a step, on all processes.
        distinct, asked: ids a step that this process sends, and that it would send if each sample
            brought its own.
    """

    steps: list[Interval]
    spans: list[Span]
    loss: float
    samples: int
    distinct: float
    asked: float

    def seconds(self) -> float:
        """Median of the steps."""
        return statistics.median(end - begin for begin, end in self.steps)


def rehearse(
    config: RunConfig, store: Store, process: Process, manner: str, steps: int, warmup: int
) -> Rehearsal:
    """Train a new model for some steps.

    Args:
        config: of a run; store: of its data; process: this one.
        manner: IN_TURN, AHEAD or BEFORE.
        steps: to be timed, after `warmup` others.
    """
    config = replace(config, trainer=replace(config.trainer, pipeline=str(manner == AHEAD).lower()))
    stages = Stages(recorded=True)
    parts = make_parts(config, store, process, stages)
    if manner == BEFORE:
        parts = replace(parts, pipeline=Searched(parts.pipeline, steps + warmup))
    with tempfile.TemporaryDirectory() as folder:
        return _take(parts, process, config, Path(folder), warmup, steps)


def _take(
    parts: Parts, process: Process, config: RunConfig, path: Path, warmup: int, steps: int
) -> Rehearsal:
    folder = RunFolder(path)
    taker = TrainStep(
        parts, process, config.trainer, folder, Checkpointer(folder.checkpoints, config.trainer)
    )
    window = Window(torch.zeros((), device=process.device))
    progress = Progress(SpikeWatch(None), window)
    log = RunLog(folder, False, 0)
    stop, ends, ids = StopRequest(), [], []
    parts.model.train()
    with closing(parts.pipeline.steps(parts.loader)) as every:
        for step in islice(every, warmup + steps):
            ids.append(_ids(step))
            taker.take(step, progress, log, stop)
            if process.device.type == "cuda":
                torch.cuda.synchronize(process.device)
            ends.append(time.perf_counter())
    if process.world_size > 1:
        dist.all_reduce(window.loss)
    timed = list(pairwise(ends[warmup - 1 :]))
    return Rehearsal(
        steps=timed,
        spans=[span for span in parts.pipeline.stages.spans if span.begin >= timed[0][0]],
        loss=float(window.loss),
        samples=progress.samples // len(ends),
        distinct=sum(found for found, _ in ids) / len(ids),
        asked=sum(asked for _, asked in ids) / len(ids),
    )


def _ids(step: Step) -> tuple[int, int]:
    ready = step.inputs
    return (ids_sent(ready), ids_per_sample(ready)) if isinstance(ready, Prepared) else (0, 0)
