"""The training loop: epochs, steps, metrics, checkpoints. Knows no model and no feature."""

from __future__ import annotations

import logging
import resource
import time
from collections.abc import Iterator
from contextlib import closing

import torch
import torch.distributed as dist
from tqdm import tqdm

from ctr import checkpoint
from ctr.checkpoint import Checkpointer
from ctr.config import TrainerConfig
from ctr.distributed import Process, from_first
from ctr.faults import SpikeWatch, StopRequest
from ctr.pipeline import Step
from ctr.progress import Progress, Stopwatch, Window
from ctr.run_folder import RunFolder
from ctr.run_log import RunLog, SampleLog
from ctr.schedule import RateSchedule
from ctr.stages import CHECKPOINT, VALIDATION
from ctr.state import random_tensors, restore_random
from ctr.step import Parts, TrainStep
from ctr.validation import Validation

_log = logging.getLogger(__name__)


class StoppedError(Exception):
    """The run was asked to stop, has saved its state and can be resumed."""


class Trainer:
    """Trains until the configured number of epochs or steps is done. Made on all processes at once.

    Args:
        parts: what to train; process: this process.
        config: of the loop; folder: of the run.
    """

    def __init__(
        self, parts: Parts, process: Process, config: TrainerConfig, folder: RunFolder
    ) -> None:
        self.parts, self.process, self.config, self.folder = parts, process, config, folder
        self.checkpointer = Checkpointer(folder.checkpoints, config)
        self.step = TrainStep(parts, process, config, folder, self.checkpointer)
        self.validation = Validation(parts.validate, config, process)
        self.stop = StopRequest()
        self.progress = Progress(SpikeWatch(config.spike), self._new_window())
        self.stopwatch = Stopwatch(lambda: self._costs().get("search_seconds", 0.0))
        self.saved = 0, self.validation.standing
        run_samples = config.epochs * len(parts.loader.split)
        self.rates = RateSchedule(parts.model, parts.optimizer, config, run_samples)

    def resume(self) -> bool:
        """Go on from the run's newest sound checkpoint, or from the start if there is none yet.

        Returns:
            whether there was one.

        Raises:
            CheckpointError: it does not fit the model, or all there are are damaged.
        """
        # One process looks, so that all read the same one on storage that shows them late.
        found = from_first(lambda: checkpoint.newest_or_none(self.folder.checkpoints), self.process)
        if found is None:
            _log.warning("%s: no checkpoint yet; starting over", self.folder.path)
            return False
        self._restore(found)
        return True

    def train(self) -> dict[str, float]:
        """Run the loop; returns a summary: steps, samples, seconds, and what they cost.

        samples/s counts everything between the first step and the end of the last one but
        validation and checkpoints: loading, forward, backward, updates, metrics. search_seconds
        are those of the search in that time, in this process. What was done before a resume counts
        too; peak memory is this process's resident set on the host since it was started.

        Raises:
            TrainingError: a loss or a gradient is not finite, and trainer.on_nonfinite is stop.
            CheckpointError: a checkpoint cannot be written, and trainer.on_save_failure is stop.
            StoppedError: SIGTERM came; the state is saved.
        """
        log = RunLog(self.folder, self.process.is_first, self.progress.step)
        samples = None
        if self.config.log_samples:
            rank, world_size = self.process.rank, self.process.world_size
            samples = SampleLog(self.folder.samples, rank, world_size, self.progress.step)
        try:
            with self.stop.listening():
                self.parts.model.train()
                while not (self._done() or self.validation.exhausted):
                    self._epoch(log, samples)
                self._save()
                with self.parts.pipeline.stages.running(CHECKPOINT):
                    self.checkpointer.wait()
            if self.process.is_first:
                self.checkpointer.prune(self.validation.standing.best)
            summary = self._summary()
            log.write("summary", self.progress.step, summary)
        finally:
            log.close()
            if samples is not None:
                samples.close()
        return summary

    def _epoch(self, log: RunLog, samples: SampleLog | None) -> None:
        epoch = self.parts.loader.epoch
        hidden = not (self.config.progress and self.process.is_first)
        bar = tqdm(
            total=len(self.parts.loader.split),
            initial=self.parts.loader.samples_done,
            unit="sample",
            desc=f"epoch {epoch + 1}/{self.config.epochs}",
            disable=hidden,
        )
        # Closed before anything else runs: what is in flight may talk to the other processes.
        with bar, closing(self.parts.pipeline.steps(self.parts.loader)) as steps:
            self._steps(steps, log, samples, bar)
        # Before the checkpoint, so that a run killed in between validates again.
        with self.parts.pipeline.stages.running(VALIDATION):
            self.validation.run(self.progress.step, log)
        self._save()

    def _steps(
        self, steps: Iterator[Step], log: RunLog, samples: SampleLog | None, bar: tqdm
    ) -> None:
        self.progress.window.started = self.stopwatch.start()
        for step in steps:
            batch = step.host
            self._set_rates(batch.step_samples)
            stop = self.step.take(step, self.progress, log, self.stop)
            if samples is not None:
                samples.write(self.progress.step, batch.sample_B.tolist())
            bar.update(batch.step_samples)
            # The checkpoint of an epoch's end comes after validation.
            due = self._every(self.config.checkpoint_every) and len(self.parts.loader) > 0
            if due or self._every(self.config.log_every) or self._last_step():
                self._log(log, bar)
            if due or stop:
                self.stopwatch.stop(self.progress)
                self._save()
                self.progress.window.started = self.stopwatch.start()
            if stop:
                with self.parts.pipeline.stages.running(CHECKPOINT):
                    self.checkpointer.wait()
                raise StoppedError(f"stopped by SIGTERM after step {self.progress.step}")
            if self._last_step():
                break
        if self.progress.window.steps:
            self._log(log, bar)
        self.stopwatch.stop(self.progress)

    def _set_rates(self, step_samples: int) -> None:
        loader = self.parts.loader
        read = loader.epoch * len(loader.split) + loader.samples_done
        self.rates.set(read - step_samples, self.validation.standing.rate_factor)

    def _every(self, steps: int | None) -> bool:
        return steps is not None and self.progress.step % steps == 0

    def _last_step(self) -> bool:
        return self.config.max_steps is not None and self.progress.step >= self.config.max_steps

    def _done(self) -> bool:
        return self.parts.loader.epoch >= self.config.epochs or self._last_step()

    def _log(self, log: RunLog, bar: tqdm) -> None:
        progress, window = self.progress, self.progress.window
        progress.window = self._new_window()
        if self.process.world_size > 1:
            dist.all_reduce(window.loss)
        rate = window.samples / (time.perf_counter() - window.started)
        row = {"epoch": self.parts.loader.epoch, "samples": progress.samples}
        # None, where every step was skipped.
        loss = float(window.loss) / window.samples if window.samples else None
        log.write("train", progress.step, {**row, "loss": loss, "samples_per_s": rate})
        if loss is None:
            return
        bar.set_postfix(loss=f"{loss:.4f}", refresh=False)
        if progress.spikes.add(loss):
            _log.warning("step %d: the loss jumped to %.4f", progress.step, loss)
            log.write("spike", progress.step, {"loss": loss})

    def _save(self) -> None:
        # A validation may follow a checkpoint of its step.
        state = self.progress.step, self.validation.standing
        if state == self.saved:
            return
        with self.parts.pipeline.stages.running(CHECKPOINT):
            # A checkpoint that is still being written uses the same group in its thread.
            self.checkpointer.wait()
            loader = self.parts.loader.state_dict()
            stored = self.progress.stored(loader, self.process, self.checkpointer.group)
            stored |= self.validation.stored()
            tensors = {**self.parts.tensors(), **random_tensors(self.process)}
            self.checkpointer.save(self.progress.step, tensors, stored)
        self.saved = state

    def _restore(self, found: checkpoint.Checkpoint) -> None:
        stored = found.progress
        tensors, random = self.parts.tensors(), random_tensors(self.process)
        # A GPU's generators are not in the checkpoint of a run that had none.
        there = (
            checkpoint.names(found) if stored["world_size"] == self.process.world_size else set()
        )
        random = {name: state for name, state in random.items() if name in there}
        checkpoint.load(found, {**tensors, **random})
        restore_random(random, self.process)
        self.progress.restore(stored, self.process)
        self.validation.restore(stored)
        self.saved = self.progress.step, self.validation.standing
        self.parts.loader.load_state_dict(stored["loader"])

    def _new_window(self) -> Window:
        return Window(torch.zeros((), device=self.process.device))

    def _costs(self) -> dict[str, float]:
        return self.parts.costs() if self.parts.costs is not None else {}

    def _summary(self) -> dict[str, float]:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024.0
        progress = self.progress
        summary = {
            "steps": progress.step,
            "samples": progress.samples,
            "seconds": progress.seconds,
            "samples_per_s": progress.samples / progress.seconds if progress.seconds else 0.0,
            "peak_memory_mib": peak,
            "skipped_steps": progress.skipped,
            "failed_checkpoints": self.checkpointer.failures,
            "stopped_early": self.validation.exhausted,
        }
        if costs := self._costs():
            dense, embedding = costs["parameters_dense"], costs["parameters_embedding"]
            summary["parameters"] = dense + embedding
            summary |= {"parameters_dense": dense, "parameters_embedding": embedding}
            summary["search_seconds"] = progress.search_seconds
        return summary
