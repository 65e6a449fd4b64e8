"""The training loop: steps, metrics, checkpoints. Knows no model and no feature."""

from __future__ import annotations

import logging
import math
import resource
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torchrec.distributed import DistributedModelParallel
from tqdm import tqdm

from ctr import checkpoint
from ctr.checkpoint import Checkpointer
from ctr.config import TrainerConfig
from ctr.data.batch import Batch
from ctr.data.loader import Loader
from ctr.distributed import Process, broadcast_first, from_first
from ctr.errors import UserError
from ctr.evidence import write_batch
from ctr.faults import SpikeWatch, Statistics, StopRequest, Votes, gradient_norm
from ctr.loss import click_loss
from ctr.progress import Progress, Window
from ctr.run_folder import RunFolder
from ctr.run_log import RunLog, SampleLog
from ctr.schedule import RateSchedule
from ctr.state import (
    dense_optimizer_tensors,
    model_tensors,
    random_tensors,
    restore_random,
    sparse_optimizer_tensors,
)

_log = logging.getLogger(__name__)


class TrainingError(UserError):
    """Training that cannot go on; says at which step and what to try."""


@dataclass(frozen=True)
class Parts:
    """What a Trainer drives.

    Attributes:
        model: batch -> logits; embedding tables update themselves in the backward pass.
        loader: of this process's part of the training split.
        optimizer: of `dense`, the parameters that no fused optimizer updates, by name.
        validate: metrics of the validation split, called on all processes; or None.
    """

    model: DistributedModelParallel
    loader: Loader
    optimizer: torch.optim.Optimizer
    dense: dict[str, nn.Parameter]
    validate: Callable[[], dict[str, float]] | None


class StoppedError(Exception):
    """The run was asked to stop, has saved its state and can be resumed."""


class Trainer:
    """Trains until the configured number of epochs or steps is done. Made on all processes at once.

    Args:
        parts: what to train; process: this process.
        config: of the loop; folder: of the run.
    """

    # Batches of skipped steps that are worth their space on disk.
    _EVIDENCE = 4

    def __init__(
        self, parts: Parts, process: Process, config: TrainerConfig, folder: RunFolder
    ) -> None:
        self.parts, self.process, self.config, self.folder = parts, process, config, folder
        self.checkpointer = Checkpointer(folder.checkpoints, config)
        self.votes, self.stop = Votes(), StopRequest()
        self.progress = Progress(SpikeWatch(config.spike), self._new_window())
        self.saved_step = 0
        self.statistics = Statistics(parts.model, config.on_nonfinite == "skip")
        self.run_samples = config.epochs * len(parts.loader.split)
        self.rates = RateSchedule(parts.model, parts.optimizer, config, self.run_samples)

    def resume(self) -> None:
        """Go on from the run's newest sound checkpoint, or from the start if there is none yet.

        Raises:
            CheckpointError: it does not fit the model, or all there are are damaged.
        """
        # One process looks, so that all read the same one on storage that shows them late.
        found = from_first(lambda: checkpoint.newest_or_none(self.folder.checkpoints), self.process)
        if found is None:
            _log.warning("%s: no checkpoint yet; starting over", self.folder.path)
            return
        self._restore(found)

    def train(self) -> dict[str, float]:
        """Run the loop; returns a summary: steps, samples, samples/s, seconds, peak memory.

        samples/s counts everything between the first step and the end of the last one but
        validation and checkpoints: loading, forward, backward, updates, metrics. What was done
        before a resume counts too; peak memory is this process's resident set on the host.

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
                while self.parts.loader.epoch < self.config.epochs and not self._done():
                    self._epoch(log, samples)
                self._save()
                self.checkpointer.wait()
            if self.process.is_first:
                self.checkpointer.prune(self.progress.best)
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
        with tqdm(
            total=len(self.parts.loader.split),
            initial=self.parts.loader.samples_done,
            unit="sample",
            desc=f"epoch {epoch + 1}/{self.config.epochs}",
            disable=hidden,
        ) as bar:
            self._steps(log, samples, bar)
        # Before the checkpoint, so that a run killed in between validates again.
        self._validate(log)
        self._save()

    def _steps(self, log: RunLog, samples: SampleLog | None, bar: tqdm) -> None:
        self.progress.window.started = started = time.perf_counter()
        for batch in self.parts.loader:
            stop = self._train_step(batch.to(self.process.device, non_blocking=True), log)
            if samples is not None:
                samples.write(self.progress.step, batch.sample_B.tolist())
            bar.update(batch.step_samples)
            # The checkpoint of an epoch's end comes after validation.
            due = self._every(self.config.checkpoint_every) and len(self.parts.loader) > 0
            if due or self._every(self.config.log_every) or self._done():
                self._log(log, bar)
            if due or stop:
                self.progress.seconds += time.perf_counter() - started
                self._save()
                started = self.progress.window.started = time.perf_counter()
            if stop:
                self.checkpointer.wait()
                raise StoppedError(f"stopped by SIGTERM after step {self.progress.step}")
            if self._done():
                break
        if self.progress.window.steps:
            self._log(log, bar)
        self.progress.seconds += time.perf_counter() - started

    def _every(self, steps: int | None) -> bool:
        return steps is not None and self.progress.step % steps == 0

    def _done(self) -> bool:
        return self.config.max_steps is not None and self.progress.step >= self.config.max_steps

    def _train_step(self, batch: Batch, log: RunLog) -> bool:
        """Take a step; returns whether some process was asked to stop."""
        parts, device, progress = self.parts, self.process.device, self.progress
        read = parts.loader.epoch * len(parts.loader.split) + parts.loader.samples_done
        self.rates.set(read - batch.step_samples)
        self.statistics.keep()
        with torch.autocast(
            device.type, dtype=torch.bfloat16, enabled=self.config.precision == "bf16"
        ):
            logit_B = parts.model(batch)
        loss = click_loss(logit_B, batch.label_B, batch.step_samples, self.process.world_size)
        bad, stop = self.votes.any(not bool(loss.isfinite()), self.stop.received)
        if bad:
            self._nonfinite("loss", batch, log)
        else:
            loss.backward()
            if self._update(batch, log):
                share = batch.step_samples / self.process.world_size
                progress.window.loss += loss.detach() * share
                progress.window.samples += batch.step_samples
                progress.window.steps += 1
        parts.optimizer.zero_grad(set_to_none=True)
        progress.step += 1
        progress.samples += batch.step_samples
        return stop

    def _update(self, batch: Batch, log: RunLog) -> bool:
        """Update the dense part; returns False where its gradient is not finite.

        The gradients are those of all processes together, so all decide alike.
        """
        dense = list(self.parts.dense.values())
        norm = gradient_norm(dense)
        if not bool(norm.isfinite()):
            self._nonfinite("gradient", batch, log)
            return False
        if self.config.clip_norm is not None:
            nn.utils.clip_grads_with_norm_(dense, self.config.clip_norm, norm)
        self.parts.optimizer.step()
        return True

    def _nonfinite(self, what: str, batch: Batch, log: RunLog) -> None:
        step = self.progress.step + 1
        if self.progress.skipped < self._EVIDENCE:
            name = f"step-{step:09d}.rank-{self.process.rank:04d}.pt"
            write_batch(self.folder.nonfinite / name, batch)
            progress = {"world_size": self.process.world_size, "what": what}
            writer = checkpoint.Writer(self.folder.nonfinite, step, progress, self._EVIDENCE)
            # The group may be in use by a checkpoint that is still being written.
            self.checkpointer.wait()
            checkpoint.save(self._tensors(), writer, self.checkpointer.group)
        if self.config.on_nonfinite == "stop":
            raise TrainingError(
                f"step {step}: the {what} is not finite; batch and state are in "
                f"{self.folder.nonfinite} (python -m tools.replay_batch {self.folder.path} --step "
                f"{step}); lower trainer.lr or embedding.lr, set trainer.clip_norm, or skip such "
                "steps with trainer.on_nonfinite=skip"
            )
        self.statistics.put_back()
        self.progress.skipped += 1
        log.write("skipped", step, {"what": what, "skipped": self.progress.skipped})

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

    def _validate(self, log: RunLog) -> None:
        if self.parts.validate is None:
            return
        # Only the first process has the metrics, and all must agree on the best.
        found = broadcast_first(self.parts.validate(), self.process)
        log.write("valid", self.progress.step, found)
        metric, best = self.config.keep_best, self.progress.best
        # A metric may be undefined, and nothing is better than what is no number.
        if metric is None or not math.isfinite(found[metric]):
            return
        sign = -1.0 if metric == "log_loss" else 1.0
        if best is None or sign * found[metric] > sign * best["value"]:
            self.progress.best = {"step": self.progress.step, "value": found[metric]}

    def _save(self) -> None:
        if self.progress.step == self.saved_step:
            return
        # A checkpoint that is still being written uses the same group in its thread.
        self.checkpointer.wait()
        loader = self.parts.loader.state_dict()
        stored = self.progress.stored(loader, self.process, self.checkpointer.group)
        tensors = {**self._tensors(), **random_tensors(self.process)}
        self.checkpointer.save(self.progress.step, tensors, stored)
        self.saved_step = self.progress.step

    def _restore(self, found: checkpoint.Checkpoint) -> None:
        stored = found.progress
        tensors, random = self._tensors(), random_tensors(self.process)
        alike = stored["world_size"] == self.process.world_size
        checkpoint.load(found, {**tensors, **random} if alike else tensors)
        if alike:
            restore_random(random, self.process)
        self.progress.restore(stored, self.process)
        self.saved_step = self.progress.step
        self.parts.loader.load_state_dict(stored["loader"])

    def _new_window(self) -> Window:
        return Window(torch.zeros((), device=self.process.device))

    def _tensors(self) -> dict[str, Tensor]:
        return {
            **model_tensors(self.parts.model),
            **sparse_optimizer_tensors(self.parts.model),
            **dense_optimizer_tensors(self.parts.optimizer, self.parts.dense),
        }

    def _summary(self) -> dict[str, float]:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024.0
        progress = self.progress
        return {
            "steps": progress.step,
            "samples": progress.samples,
            "seconds": progress.seconds,
            "samples_per_s": progress.samples / progress.seconds if progress.seconds else 0.0,
            "peak_memory_mib": peak,
            "skipped_steps": progress.skipped,
            "failed_checkpoints": self.checkpointer.failures,
        }
