"""The training loop: steps, metrics, checkpoints. Knows no model and no feature."""

from __future__ import annotations

import logging
import math
import resource
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torchrec.distributed import DistributedModelParallel
from tqdm import tqdm

from ctr import checkpoint
from ctr.config import TrainerConfig
from ctr.data.batch import Batch
from ctr.data.loader import Loader
from ctr.distributed import Process, from_first
from ctr.errors import UserError
from ctr.loss import click_loss
from ctr.run_folder import RunFolder
from ctr.run_log import RunLog
from ctr.state import dense_optimizer_tensors, model_tensors, sparse_optimizer_tensors

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


@dataclass
class _Window:
    """What happened since the last metric row."""

    loss: Tensor
    samples: int = 0
    steps: int = 0
    started: float = field(default_factory=time.perf_counter)


class Trainer:
    """Trains until the configured number of epochs or steps is done.

    Args:
        parts: what to train; process: this process.
        config: of the loop; folder: of the run.
    """

    def __init__(
        self, parts: Parts, process: Process, config: TrainerConfig, folder: RunFolder
    ) -> None:
        self.parts, self.process, self.config, self.folder = parts, process, config, folder
        self.step = 0
        self.saved_step = 0
        self.seconds = 0.0
        self.samples = 0
        self.window = _Window(torch.zeros((), device=process.device))

    def resume(self) -> None:
        """Go on from the run's newest complete checkpoint, or from the start if there is none yet.

        Raises:
            CheckpointError: it does not fit the model, or is damaged.
        """
        # One process looks, so that all read the same one on storage that shows them late.
        found = from_first(lambda: checkpoint.newest_or_none(self.folder.checkpoints), self.process)
        if found is None:
            _log.warning("%s: no checkpoint yet; starting over", self.folder.path)
            return
        checkpoint.load(found, self._tensors())
        self.step = self.saved_step = found.progress["step"]
        self.samples, self.seconds = found.progress["samples"], found.progress["seconds"]
        self.parts.loader.load_state_dict(found.progress["loader"])

    def train(self) -> dict[str, float]:
        """Run the loop; returns a summary: steps, samples, samples/s, seconds, peak memory.

        samples/s counts everything between the first step and the end of the last one but
        validation and checkpoints: loading, forward, backward, updates, metrics. What was done
        before a resume counts too; peak memory is this process's resident set on the host.

        Raises:
            TrainingError: the loss is not finite.
        """
        log = RunLog(self.folder, self.process.is_first, self.step)
        try:
            self.parts.model.train()
            while self.parts.loader.epoch < self.config.epochs and not self._done():
                self._epoch(log)
            self._save()
            summary = self._summary()
            log.write("summary", self.step, summary)
        finally:
            log.close()
        return summary

    def _epoch(self, log: RunLog) -> None:
        epoch = self.parts.loader.epoch
        hidden = not (self.config.progress and self.process.is_first)
        with tqdm(
            total=len(self.parts.loader.split),
            initial=self.parts.loader.samples_done,
            unit="sample",
            desc=f"epoch {epoch + 1}/{self.config.epochs}",
            disable=hidden,
        ) as bar:
            self._steps(log, bar)
        if not self._done():
            self._save()
        if self.parts.validate is not None:
            log.write("valid", self.step, self.parts.validate())

    def _steps(self, log: RunLog, bar: tqdm) -> None:
        self.window = _Window(torch.zeros((), device=self.process.device))
        started = time.perf_counter()
        for batch in self.parts.loader:
            self._train_step(batch.to(self.process.device, non_blocking=True))
            bar.update(batch.step_samples)
            every = self.config.checkpoint_every
            due = bool(every) and self.step % (every or 1) == 0
            if due or self.step % self.config.log_every == 0 or self._done():
                self._log(log, bar)
            if due:
                self.seconds += time.perf_counter() - started
                self._save()
                started = self.window.started = time.perf_counter()
            if self._done():
                break
        if self.window.steps:
            self._log(log, bar)
        self.seconds += time.perf_counter() - started

    def _done(self) -> bool:
        return self.config.max_steps is not None and self.step >= self.config.max_steps

    def _train_step(self, batch: Batch) -> None:
        parts, device = self.parts, self.process.device
        with torch.autocast(
            device.type, dtype=torch.bfloat16, enabled=self.config.precision == "bf16"
        ):
            logit_B = parts.model(batch)
        loss = click_loss(logit_B, batch.label_B, batch.step_samples, self.process.world_size)
        loss.backward()
        if self.config.clip_norm is not None:
            nn.utils.clip_grad_norm_(parts.dense.values(), self.config.clip_norm)
        parts.optimizer.step()
        parts.optimizer.zero_grad(set_to_none=True)
        self.step += 1
        self.samples += batch.step_samples
        self.window.loss += loss.detach() * (batch.step_samples / self.process.world_size)
        self.window.samples += batch.step_samples
        self.window.steps += 1

    def _log(self, log: RunLog, bar: tqdm) -> None:
        window = self.window
        if self.process.world_size > 1:
            dist.all_reduce(window.loss)
        loss = float(window.loss) / window.samples
        # Also ahead of every checkpoint, so that none holds a model that diverged.
        if not math.isfinite(loss):
            raise TrainingError(
                f"step {self.step}: the mean loss of the last {window.steps} steps is {loss}; "
                "lower trainer.lr or embedding.lr, or set trainer.clip_norm"
            )
        rate = window.samples / (time.perf_counter() - window.started)
        bar.set_postfix(loss=f"{loss:.4f}", refresh=False)
        row = {"samples": self.samples, "loss": loss, "samples_per_s": rate}
        log.write("train", self.step, {"epoch": self.parts.loader.epoch, **row})
        self.window = _Window(torch.zeros((), device=self.process.device))

    def _save(self) -> None:
        if self.step == self.saved_step:
            return
        progress = {
            "loader": self.parts.loader.state_dict(),
            "samples": self.samples,
            "seconds": self.seconds,
        }
        keep = self.config.keep_checkpoints
        checkpoint.save(self.folder.checkpoints, self.step, self._tensors(), progress, keep)
        self.saved_step = self.step

    def _tensors(self) -> dict[str, Tensor]:
        return {
            **model_tensors(self.parts.model),
            **sparse_optimizer_tensors(self.parts.model),
            **dense_optimizer_tensors(self.parts.optimizer, self.parts.dense),
        }

    def _summary(self) -> dict[str, float]:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024.0
        return {
            "steps": self.step,
            "samples": self.samples,
            "seconds": self.seconds,
            "samples_per_s": self.samples / self.seconds if self.seconds else 0.0,
            "peak_memory_mib": peak,
        }
