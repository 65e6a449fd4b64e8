"""Typed configuration: one dataclass per conf group, validated once, when a run starts."""

from ctr.config.checks import ConfigError
from ctr.config.cluster import ClusterConfig
from ctr.config.data import DataConfig
from ctr.config.embedding import EmbeddingConfig
from ctr.config.model import ModelConfig
from ctr.config.run import RunConfig, parse_as, parse_config
from ctr.config.trainer import TrainerConfig

__all__ = [
    "ClusterConfig",
    "ConfigError",
    "DataConfig",
    "EmbeddingConfig",
    "ModelConfig",
    "RunConfig",
    "TrainerConfig",
    "parse_as",
    "parse_config",
]
