"""One step of training: forward, backward, update, and the answer to numbers that are none."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torchrec.distributed import DistributedModelParallel

from ctr import checkpoint
from ctr.checkpoint import Checkpointer
from ctr.config import TrainerConfig
from ctr.data.batch import Batch
from ctr.data.loader import Loader
from ctr.distributed import Process
from ctr.errors import UserError
from ctr.evidence import write_batch
from ctr.faults import Statistics, StopRequest, Votes, gradient_norm
from ctr.loss import click_loss
from ctr.pipeline import Pipeline, Step
from ctr.progress import Progress
from ctr.run_folder import RunFolder
from ctr.run_log import RunLog
from ctr.stages import CHECKPOINT
from ctr.state import dense_optimizer_tensors, model_tensors, sparse_optimizer_tensors


class TrainingError(UserError):
    """Training that cannot go on; says at which step and what to try."""


@dataclass(frozen=True)
class Parts:
    """What a Trainer drives.

    Attributes:
        model: batch -> logits; embedding tables update themselves in the backward pass.
        loader: of this process's part of the training split.
        pipeline: takes the loader's batches to the model.
        optimizer: of `dense`, the parameters that no fused optimizer updates, by name.
        validate: metrics of the validation split, called on all processes; or None.
        costs: `parameters_dense`, `parameters_embedding` of the whole model, and `search_seconds`
            that this process has spent in the search since it was started; or None.
    """

    model: DistributedModelParallel
    loader: Loader
    pipeline: Pipeline
    optimizer: torch.optim.Optimizer
    dense: dict[str, nn.Parameter]
    validate: Callable[[], dict[str, float]] | None
    costs: Callable[[], dict[str, float]] | None = None

    def tensors(self) -> dict[str, Tensor]:
        """Everything that training changes, by name: what a checkpoint holds."""
        return {
            **model_tensors(self.model),
            **sparse_optimizer_tensors(self.model),
            **dense_optimizer_tensors(self.optimizer, self.dense),
        }


class TrainStep:
    """Takes steps; made on all processes at once.

    Args:
        parts: what to train; process: this process.
        config: of the loop; folder: of the run.
        checkpointer: which may be writing a checkpoint meanwhile.
    """

    # Batches of skipped steps that are worth their space on disk.
    _EVIDENCE = 4

    def __init__(
        self,
        parts: Parts,
        process: Process,
        config: TrainerConfig,
        folder: RunFolder,
        checkpointer: Checkpointer,
    ) -> None:
        self.parts, self.process, self.config = parts, process, config
        self.folder, self.checkpointer = folder, checkpointer
        self.votes = Votes()
        self.statistics = Statistics(parts.model)

    def take(self, step: Step, progress: Progress, log: RunLog, stop: StopRequest) -> bool:
        """Take a step and count it.

        Args:
            step: of the pipeline.
            progress: of the run, which it changes; log: of the run.
            stop: looked at as late as the vote with the other processes.

        Returns:
            whether any process was asked to stop.

        Raises:
            TrainingError: the loss or the gradient is not finite, and trainer.on_nonfinite is stop.
        """
        parts, batch, stages = self.parts, step.batch, self.parts.pipeline.stages
        self.statistics.keep()
        half = self.config.precision == "bf16"
        with (
            stages.running("forward"),
            torch.autocast(self.process.device.type, dtype=torch.bfloat16, enabled=half),
        ):
            logit_B = parts.model(step.inputs)
        loss = click_loss(logit_B, batch.label_B, batch.step_samples, self.process.world_size)
        bad, asked = self.votes.any(not bool(loss.isfinite()), stop.received)
        if bad:
            self._nonfinite("loss", batch, progress, log)
        else:
            with stages.running("backward"):
                loss.backward()
            if self._update(batch, progress, log):
                share = batch.step_samples / self.process.world_size
                progress.window.loss += loss.detach() * share
                progress.window.samples += batch.step_samples
                progress.window.steps += 1
        parts.optimizer.zero_grad(set_to_none=True)
        progress.step += 1
        progress.samples += batch.step_samples
        return asked

    def _update(self, batch: Batch, progress: Progress, log: RunLog) -> bool:
        """Update the dense part; returns False where its gradient is not finite.

        The gradients are those of all processes together, so all decide alike.
        """
        dense = list(self.parts.dense.values())
        norm = gradient_norm(dense)
        if not bool(norm.isfinite()):
            self._nonfinite("gradient", batch, progress, log)
            return False
        if self.config.clip_norm is not None:
            nn.utils.clip_grads_with_norm_(dense, self.config.clip_norm, norm)
        with self.parts.pipeline.stages.running("update"):
            self.parts.optimizer.step()
        return True

    def _nonfinite(self, what: str, batch: Batch, progress: Progress, log: RunLog) -> None:
        step = progress.step + 1
        # As they were before the step: what is looked at later must not bear its traces.
        self.statistics.put_back()
        if progress.skipped < self._EVIDENCE:
            with self.parts.pipeline.stages.running(CHECKPOINT):
                self._write_evidence(what, step, batch)
        if self.config.on_nonfinite == "stop":
            raise TrainingError(
                f"step {step}: the {what} is not finite; batch and state are in "
                f"{self.folder.nonfinite} (python -m tools.replay_batch {self.folder.path} --step "
                f"{step}); lower trainer.lr or embedding.lr, set trainer.clip_norm, or skip such "
                "steps with trainer.on_nonfinite=skip"
            )
        progress.skipped += 1
        log.write("skipped", step, {"what": what, "skipped": progress.skipped})

    def _write_evidence(self, what: str, step: int, batch: Batch) -> None:
        """The batch of each process and the state, for `tools.replay_batch`.

        Rows of tables with a finite gradient have taken the step already, where it is a gradient
        that is not finite.
        """
        name = f"step-{step:09d}.rank-{self.process.rank:04d}.pt"
        write_batch(self.folder.nonfinite / name, batch)
        about = {"world_size": self.process.world_size, "what": what}
        writer = checkpoint.Writer(
            self.folder.nonfinite, step, about, self._EVIDENCE, drop_later=False
        )
        # The group may be in use by a checkpoint that is still being written.
        self.checkpointer.wait()
        checkpoint.save(self.parts.tensors(), writer, self.checkpointer.group)
