"""What a new run takes over from another: a pre-trained content tower."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from ctr import checkpoint
from ctr.config import ConfigError, ModelConfig, RunConfig
from ctr.distributed import Process, from_first
from ctr.run_folder import RunFolder
from ctr.schema import StoreSchema
from ctr.state import model_tensors

_TENSORS = "model.content."
# What the tower is made of, and what it learnt to look at.
_ALIKE = ("content_tower", "content_tower_dim", "activation", "content_tower_on")
_SEEN = {"recent": ("recent_length",), "retrieved": ("gsu", "retrieved")}


def load_content_tower(
    model: nn.Module, config: ModelConfig, schema: StoreSchema, process: Process
) -> None:
    """Fill the content tower from `model.content_tower_run`, if that is set; on all processes.

    The weights are those of the run's best checkpoint where it kept one, or else of its newest.

    Args:
        model: as it will train; config: of it.
        schema: of the store that it will train on; process: this one.

    Raises:
        ConfigError: no run there, or one of another store or with another tower.
        CheckpointError: a run without a sound checkpoint.
    """
    if config.content_tower_run is None:
        return
    folder = RunFolder(Path(config.content_tower_run))
    trained = _config_of(folder, config, schema)
    find = checkpoint.newest if trained.trainer.keep_best is None else checkpoint.best
    # One process checks the files, so that all read the same checkpoint.
    taken = from_first(lambda: find(folder.checkpoints), process)
    tensors = model_tensors(model)
    checkpoint.load(taken, {n: t for n, t in tensors.items() if n.startswith(_TENSORS)})


def _config_of(folder: RunFolder, config: ModelConfig, schema: StoreSchema) -> RunConfig:
    """The configuration of the run to take over from, if its tower fits."""
    key = f"model.content_tower_run={folder.path}"
    if not folder.config.is_file():
        raise ConfigError(
            f"{key}: no run there; pre-train the tower (model=make run={folder.path}), or set null "
            "to train it from scratch"
        )
    try:
        trained = folder.read_config()
        folder.check_store(schema)
    except ConfigError as error:
        raise ConfigError(f"{key}: {error}") from None
    for name in (*_ALIKE, *_SEEN[config.content_tower_on]):
        mine, theirs = getattr(config, name), getattr(trained.model, name)
        if mine != theirs:
            raise ConfigError(
                f"model.{name}={mine}: the tower of {folder.path} was trained with {theirs}; set "
                "that, or pre-train another"
            )
    return trained
