"""Typed configuration: one dataclass per conf group, validated once, when a run starts."""

from __future__ import annotations

import dataclasses
import difflib
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from omegaconf import OmegaConf
from omegaconf.errors import ConfigKeyError, OmegaConfBaseException

from ctr.errors import UserError


class ConfigError(UserError):
    """A configuration that cannot run; names the key and says what to set instead."""


def _require(condition: bool, key: str, given: object, accepted: str) -> None:
    if not condition:
        raise ConfigError(f"{key}={given}: {accepted}")


def _require_one_of(key: str, given: str, accepted: tuple[str, ...]) -> None:
    _require(given in accepted, key, given, f"set one of {', '.join(accepted)}")


@dataclass
class DataConfig:
    """What is read, and how.

    Attributes:
        store: folder of a prepared store.
        train_split, valid_split, test_split: names in its manifest; valid_split may be null.
        batch_size: samples a process and step.
        history_length: latest behaviours a sample may see.
        shuffle: shuffle users (their samples stay together) each epoch.
        workers: threads that build batches; prefetch: batches built ahead.
    """

    store: str = "stores/world"
    train_split: str = "train"
    valid_split: str | None = None
    test_split: str = "test"
    batch_size: int = 1000
    history_length: int = 1000
    shuffle: bool = True
    workers: int = 1
    prefetch: int = 4

    def validate(self) -> None:
        """Raise ConfigError on a value that cannot run."""
        for key in ("batch_size", "history_length", "workers", "prefetch"):
            value = getattr(self, key)
            _require(value >= 1, f"data.{key}", value, "set at least 1")


@dataclass
class ModelConfig:
    """Which parts make the network (MUSE, arXiv 2512.07216).

    Attributes:
        recent_length: latest behaviours of the recent branch.
        gsu: strategy that picks the long branch's behaviours; none leaves the branch out (DIN).
        retrieved: K, behaviours picked.
        attention: of the long branch; sa_ta is the reference code's form, sa_ta_paper the paper's.
        simtier: histogram of similarities; code and paper forms as published.
        simtier_bins: code form: 22; paper form: any number of equal tiers of [-1, 1].
        simtier_on: sequences it counts.
        hidden: widths of the tower; activation: between its layers.
    """

    recent_length: int = 50
    gsu: str = "cosine"
    retrieved: int = 50
    attention: str = "sa_ta"
    simtier: str = "code"
    simtier_bins: int = 22
    simtier_on: list[str] = field(default_factory=lambda: ["recent", "retrieved"])
    hidden: list[int] = field(default_factory=lambda: [256, 128, 64])
    activation: str = "dice"

    def validate(self) -> None:
        """Raise ConfigError on a value that cannot run."""
        _require_one_of("model.gsu", self.gsu, ("cosine", "category", "id_soft", "recent", "none"))
        _require_one_of("model.attention", self.attention, ("sa_ta", "sa_ta_paper", "target"))
        _require_one_of("model.simtier", self.simtier, ("code", "paper", "none"))
        _require_one_of("model.activation", self.activation, ("dice", "prelu", "relu"))
        for key in ("recent_length", "retrieved", "simtier_bins"):
            value = getattr(self, key)
            _require(value >= 1, f"model.{key}", value, "set at least 1")
        for name in self.simtier_on:
            _require_one_of("model.simtier_on", name, ("recent", "retrieved"))
        _require(
            self.simtier != "code" or self.simtier_bins == 22,
            "model.simtier_bins",
            self.simtier_bins,
            "the code form has 22 bins; set 22, or model.simtier=paper",
        )
        _require(
            self.gsu != "none" or self.simtier == "none" or "retrieved" not in self.simtier_on,
            "model.simtier_on",
            self.simtier_on,
            "model.gsu=none retrieves nothing to count; set [recent], or model.simtier=none",
        )
        _require(
            bool(self.hidden) and min(self.hidden) > 0, "model.hidden", self.hidden, "set widths"
        )


@dataclass
class EmbeddingConfig:
    """Embedding tables, their optimizer and how they may be sharded.

    Attributes:
        dim: width of a table; narrow_dim: of one with fewer rows than narrow_below.
        init_std: of a truncated normal.
        optimizer: fused into the backward pass; adam needs a GPU.
        lr, eps: of that optimizer.
        sharding: TorchRec sharding types the planner may choose from.
    """

    dim: int = 16
    narrow_dim: int = 8
    narrow_below: int = 16
    init_std: float = 0.001
    optimizer: str = "rowwise_adagrad"
    lr: float = 0.05
    eps: float = 1.0e-8
    sharding: list[str] = field(default_factory=lambda: ["table_wise", "row_wise"])

    def validate(self) -> None:
        """Raise ConfigError on a value that cannot run."""
        _require_one_of(
            "embedding.optimizer", self.optimizer, ("rowwise_adagrad", "adagrad", "sgd", "adam")
        )
        for key in ("dim", "narrow_dim"):
            value = getattr(self, key)
            _require(value > 0 and value % 4 == 0, f"embedding.{key}", value, "set a multiple of 4")
        _require(self.init_std > 0, "embedding.init_std", self.init_std, "set above 0")
        _require(self.lr > 0, "embedding.lr", self.lr, "set a positive rate")
        _require(self.eps >= 0, "embedding.eps", self.eps, "set at least 0")
        _require(bool(self.sharding), "embedding.sharding", self.sharding, "set at least one type")
        for name in self.sharding:
            _require_one_of("embedding.sharding", name, ("table_wise", "row_wise", "column_wise"))


@dataclass
class TrainerConfig:
    """The training loop.

    Attributes:
        epochs: passes over the training split.
        max_steps: stop after so many steps; null for all.
        lr, weight_decay: of AdamW on the dense part.
        schedule: of both learning rates over the run: constant, linear or cosine (down to 0).
        warmup: share of the run's samples in which they rise linearly from 0.
        clip_norm: largest norm of the dense gradient; null for no clipping.
        precision: fp32, or bf16 for autocast of the dense part.
        log_every: steps between metric rows; checkpoint_every: steps between checkpoints, null for
            one at each epoch's end; keep_checkpoints: newest ones kept.
        keep_best: metric of the validation split by which the best checkpoint is kept, too; null
            for none.
        async_checkpoints: write checkpoints beside training.
        on_save_failure: where a checkpoint cannot be written: stop, or continue with the last one.
        on_nonfinite: where a loss or a gradient is NaN or infinite: stop, with the batch and the
            state on disk for tools/replay_batch.py, or skip the step and count it.
        spike: standard deviations above the running mean at which a loss is reported; null for
            never.
        log_samples: write the sample ids of every step.
        progress: show a progress bar.
    """

    epochs: int = 1
    max_steps: int | None = None
    lr: float = 1.0e-3
    weight_decay: float = 0.01
    schedule: str = "constant"
    warmup: float = 0.0
    clip_norm: float | None = None
    precision: str = "fp32"
    log_every: int = 20
    checkpoint_every: int | None = None
    keep_checkpoints: int = 2
    keep_best: str | None = None
    async_checkpoints: bool = True
    on_save_failure: str = "stop"
    on_nonfinite: str = "stop"
    spike: float | None = 6.0
    log_samples: bool = False
    progress: bool = True

    def validate(self) -> None:
        """Raise ConfigError on a value that cannot run."""
        _require_one_of("trainer.precision", self.precision, ("fp32", "bf16"))
        for key in ("epochs", "log_every", "keep_checkpoints"):
            value = getattr(self, key)
            _require(value >= 1, f"trainer.{key}", value, "set at least 1")
        _require(self.lr > 0, "trainer.lr", self.lr, "set a positive rate")
        decay = self.weight_decay
        _require(decay >= 0, "trainer.weight_decay", decay, "set at least 0")
        _require_one_of("trainer.schedule", self.schedule, ("constant", "linear", "cosine"))
        _require(0.0 <= self.warmup < 1.0, "trainer.warmup", self.warmup, "set a share in [0, 1)")
        _require_one_of("trainer.on_save_failure", self.on_save_failure, ("stop", "continue"))
        _require_one_of("trainer.on_nonfinite", self.on_nonfinite, ("stop", "skip"))
        if self.keep_best is not None:
            _require_one_of("trainer.keep_best", self.keep_best, ("auc", "gauc", "log_loss"))
        for key in ("max_steps", "checkpoint_every", "clip_norm", "spike"):
            value = getattr(self, key)
            _require(value is None or value > 0, f"trainer.{key}", value, "set above 0, or null")


@dataclass
class RunConfig:
    """Everything that decides a training run.

    Attributes:
        run: folder of the run.
        resume: true to go on from its newest checkpoint; auto to do so where there is a run.
        seed: of weights and shuffle.
        deterministic: refuse operations whose result may change from run to run (on a GPU).
        device: auto, cpu or cuda.
    """

    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    embedding: EmbeddingConfig = field(default_factory=EmbeddingConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    run: str = "runs/latest"
    resume: str = "false"
    seed: int = 42
    deterministic: bool = False
    device: str = "auto"

    @property
    def run_path(self) -> Path:
        """Folder of the run."""
        return Path(self.run)

    def validate(self) -> None:
        """Raise ConfigError on a value, or a pair of values, that cannot run."""
        for key, value in _leaves(self, ""):
            _require_usable(key, value)
        for part in (self.data, self.model, self.embedding, self.trainer):
            part.validate()
        _require(self.seed >= 0, "seed", self.seed, "set at least 0")
        _require_one_of("device", self.device, ("auto", "cpu", "cuda"))
        _require_one_of("resume", self.resume, ("true", "false", "auto"))
        _require(
            self.trainer.keep_best is None or self.data.valid_split is not None,
            "trainer.keep_best",
            self.trainer.keep_best,
            "needs a validation split; set data.valid_split, or trainer.keep_best=null",
        )
        longest = self.data.history_length
        for key in ("retrieved", "recent_length"):
            value = getattr(self.model, key)
            _require(
                value <= longest,
                f"model.{key}",
                value,
                f"more than data.history_length={longest}; set at most that, or a longer history",
            )


T = TypeVar("T")


def parse_as(kind: type[T], raw: Any) -> T:
    """Check a composed configuration against a dataclass and return it typed.

    Raises:
        ConfigError: unknown key (with the nearest known one) or wrong type.
    """
    try:
        config = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(kind), raw))
    except ConfigKeyError as error:
        raise ConfigError(_unknown_key(str(error.full_key or error.key), kind)) from None
    except OmegaConfBaseException as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(f"{getattr(error, 'full_key', None) or 'config'}: {reason}") from None
    if not isinstance(config, kind):
        raise ConfigError("config: expected keys and values")
    return config


def parse_config(raw: Any) -> RunConfig:
    """Check a composed configuration of a training run and return it typed.

    Raises:
        ConfigError: unknown key, wrong type or impossible value.
    """
    config = parse_as(RunConfig, raw)
    # YAML's and the command line's true and false arrive as "True" and "False".
    config.resume = config.resume.lower()
    config.validate()
    return config


def _unknown_key(key: str, kind: type) -> str:
    known = sorted(_keys(kind(), ""))
    groups = {name.split(".")[0] for name in known}
    near = difflib.get_close_matches(key, [*known, *sorted(groups)], n=1, cutoff=0.5)
    hint = f"did you mean {near[0]}?" if near else f"known keys: {', '.join(known)}"
    return f"{key}: no such configuration key; {hint}"


def _keys(config: Any, prefix: str) -> list[str]:
    return [key for key, _ in _leaves(config, prefix)]


def _leaves(config: Any, prefix: str) -> list[tuple[str, Any]]:
    leaves = []
    for item in dataclasses.fields(config):
        value = getattr(config, item.name)
        if dataclasses.is_dataclass(value):
            leaves += _leaves(value, f"{prefix}{item.name}.")
        else:
            leaves.append((prefix + item.name, value))
    return leaves


def _require_usable(key: str, value: object) -> None:
    """Raise ConfigError on what passes a comparison such as `lr > 0` and fails a run later."""
    for entry in value if isinstance(value, list) else [value]:
        if isinstance(entry, float):
            _require(math.isfinite(entry), key, value, "set a finite number")
        elif isinstance(entry, list | dict):
            _require(False, key, value, "set a list of single values")
        elif isinstance(entry, int):
            _require(-(2**63) <= entry < 2**63, key, value, "set a number of 64 bits")
