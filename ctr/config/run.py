"""Configuration of a whole run: composed by Hydra, typed and checked here, once."""

from __future__ import annotations

import difflib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from omegaconf import OmegaConf
from omegaconf.errors import ConfigKeyError, OmegaConfBaseException

from ctr.config.checks import ConfigError, leaves, require, require_one_of, require_usable
from ctr.config.cluster import ClusterConfig
from ctr.config.data import DataConfig
from ctr.config.embedding import EmbeddingConfig
from ctr.config.model import ModelConfig
from ctr.config.trainer import TrainerConfig


@dataclass
class RunConfig:
    """Everything that decides a training run.

    Attributes:
        run: folder of the run.
        resume: true to go on from its newest checkpoint; auto to do so where there is a run.
        start_from: another run, of this store or of one that it goes on from, whose newest weights
            and optimizer states a new run begins with; null to begin with new ones.
        seed: of weights and shuffle.
        deterministic: refuse operations whose result may change from run to run (on a GPU).
        device: auto, cpu or cuda.
    """

    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    embedding: EmbeddingConfig = field(default_factory=EmbeddingConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    cluster: ClusterConfig = field(default_factory=ClusterConfig)
    run: str = "runs/latest"
    resume: str = "false"
    start_from: str | None = None
    seed: int = 42
    deterministic: bool = False
    device: str = "auto"

    @property
    def run_path(self) -> Path:
        """Folder of the run."""
        return Path(self.run)

    def validate(self) -> None:
        """Raise ConfigError on a value, or a pair of values, that cannot run."""
        for key, value in leaves(self, ""):
            require_usable(key, value)
        for part in (self.data, self.model, self.embedding, self.trainer, self.cluster):
            part.validate()
        require(self.seed >= 0, "seed", self.seed, "set at least 0")
        require_one_of("device", self.device, ("auto", "cpu", "cuda"))
        require_one_of("resume", self.resume, ("true", "false", "auto"))
        require(
            self.trainer.keep_best is None or self.data.valid_split is not None,
            "trainer.keep_best",
            self.trainer.keep_best,
            "needs a validation split; set data.valid_split, or trainer.keep_best=null",
        )
        require(
            self.start_from is None or self.embedding.optimizer != "adam",
            "start_from",
            self.start_from,
            "fbgemm keeps Adam's step count out of reach of a checkpoint; set another "
            "embedding.optimizer, as that run has",
        )
        self._check_vectors()
        longest = self.data.history_length
        for key in ("retrieved", "recent_length"):
            value = getattr(self.model, key)
            require(
                value <= longest,
                f"model.{key}",
                value,
                f"more than data.history_length={longest}; set at most that, or a longer history",
            )

    def _check_vectors(self) -> None:
        """Raise ConfigError where a part would send vectors themselves between processes."""
        for key in ("content_dim", "content_tower"):
            value = getattr(self.model, key)
            require(
                self.data.vectors != "sharded" or not value,
                f"model.{key}",
                value,
                "reads the vectors of every behaviour, and data.vectors=sharded keeps them on "
                "other processes; set data.vectors=replicated or pinned, or a model without it",
            )
        require(
            self.data.vectors != "pinned" or self.device != "cpu",
            "data.vectors",
            self.data.vectors,
            "is for a GPU; with device=cpu set replicated (the store's memory map) or sharded",
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
    config.trainer.pipeline = config.trainer.pipeline.lower()
    config.validate()
    return config


def _unknown_key(key: str, kind: type) -> str:
    known = sorted(_keys(kind(), ""))
    groups = {name.split(".")[0] for name in known}
    near = difflib.get_close_matches(key, [*known, *sorted(groups)], n=1, cutoff=0.5)
    hint = f"did you mean {near[0]}?" if near else f"known keys: {', '.join(known)}"
    return f"{key}: no such configuration key; {hint}"


def _keys(config: Any, prefix: str) -> list[str]:
    return [key for key, _ in leaves(config, prefix)]
