"""Configuration of the training loop."""

from __future__ import annotations

from dataclasses import dataclass

from ctr.config.checks import require, require_one_of


@dataclass
class TrainerConfig:
    """The training loop.

    Attributes:
        epochs: passes over the training split.
        max_steps: stop after so many steps; null for all.
        lr, weight_decay: of AdamW on the dense part; without decay it is Adam.
        schedule: of both learning rates over the run: constant, linear or cosine (down to 0).
        warmup: share of the run's samples in which they rise linearly from 0.
        clip_norm: largest norm of the dense gradient; null for no clipping.
        precision: fp32, or bf16 for autocast of the dense part.
        compile: let torch.compile make one graph of all that follows the lookups; the first step
            then takes a minute.
        pipeline: true to search, and to exchange ids, for the steps to come while one is computed;
            auto to do so on a GPU. The losses are the same.
        log_every: steps between metric rows; checkpoint_every: steps between checkpoints, null for
            one at each epoch's end; keep_checkpoints: newest ones kept.
        keep_best: metric of the validation split by which the best checkpoint is kept, too; null
            for none.
        patience: end the run after so many validations in a row that were not better than the best
            by keep_best; null to train to the end.
        plateau: what both learning rates are multiplied with after each such validation; null to
            leave them alone.
        async_checkpoints: write checkpoints beside training.
        on_save_failure: where a checkpoint cannot be written: stop, or continue with the last one.
        on_nonfinite: where a loss or a gradient is NaN or infinite: stop, with the batch and the
            state on disk for tools/replay_batch.py, or skip the step and count it.
        spike: standard deviations above the running mean at which a loss is reported; null for
            never.
        log_samples: write the sample ids of every step.
        progress: show a progress bar.
        timeout: seconds for which a process may stand still in a step before the job ends, with
            several processes; three times as many for validations, checkpoints and the first step.
    """

    epochs: int = 1
    max_steps: int | None = None
    lr: float = 1.0e-3
    weight_decay: float = 0.01
    schedule: str = "constant"
    warmup: float = 0.0
    clip_norm: float | None = None
    precision: str = "fp32"
    compile: bool = False
    pipeline: str = "auto"
    log_every: int = 20
    checkpoint_every: int | None = None
    keep_checkpoints: int = 2
    keep_best: str | None = None
    patience: int | None = None
    plateau: float | None = None
    async_checkpoints: bool = True
    on_save_failure: str = "stop"
    on_nonfinite: str = "stop"
    spike: float | None = 6.0
    log_samples: bool = False
    progress: bool = True
    timeout: float = 600.0

    def validate(self) -> None:
        """Raise ConfigError on a value that cannot run."""
        require_one_of("trainer.precision", self.precision, ("fp32", "bf16"))
        require_one_of("trainer.pipeline", self.pipeline, ("auto", "true", "false"))
        for key in ("epochs", "log_every", "keep_checkpoints"):
            value = getattr(self, key)
            require(value >= 1, f"trainer.{key}", value, "set at least 1")
        require(self.lr > 0, "trainer.lr", self.lr, "set a positive rate")
        require(self.timeout > 0, "trainer.timeout", self.timeout, "set seconds above 0")
        decay = self.weight_decay
        require(decay >= 0, "trainer.weight_decay", decay, "set at least 0")
        require_one_of("trainer.schedule", self.schedule, ("constant", "linear", "cosine"))
        require(0.0 <= self.warmup < 1.0, "trainer.warmup", self.warmup, "set a share in [0, 1)")
        require_one_of("trainer.on_save_failure", self.on_save_failure, ("stop", "continue"))
        require_one_of("trainer.on_nonfinite", self.on_nonfinite, ("stop", "skip"))
        if self.keep_best is not None:
            require_one_of("trainer.keep_best", self.keep_best, ("auc", "gauc", "log_loss"))
        for key in ("patience", "plateau"):
            value = getattr(self, key)
            require(
                value is None or self.keep_best is not None,
                f"trainer.{key}",
                value,
                "needs a metric to go by; set trainer.keep_best to auc, gauc or log_loss, or "
                f"trainer.{key}=null",
            )
        plateau = self.plateau
        require(
            plateau is None or 0.0 < plateau < 1.0,
            "trainer.plateau",
            plateau,
            "set a factor between 0 and 1, or null",
        )
        for key in ("max_steps", "checkpoint_every", "clip_norm", "patience", "spike"):
            value = getattr(self, key)
            require(value is None or value > 0, f"trainer.{key}", value, "set above 0, or null")
