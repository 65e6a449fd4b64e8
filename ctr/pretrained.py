"""What a new run takes over from another: all that was trained, or a pre-trained content tower."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from ctr import checkpoint
from ctr.config import ConfigError, ModelConfig, RunConfig
from ctr.distributed import Process, from_first
from ctr.run_folder import RunFolder
from ctr.schema import StoreSchema
from ctr.state import model_tensors
from ctr.step import Parts

_TENSORS = "model.content."
# What the tower is made of, and what it learnt to look at.
_ALIKE = ("content_tower", "content_tower_dim", "activation", "content_tower_on")
_SEEN = {"recent": ("recent_length",), "retrieved": ("gsu", "retrieved")}


def take_over(parts: Parts, config: RunConfig, schema: StoreSchema, process: Process) -> None:
    """Fill what a new run does not begin with anew, as configured; on all processes.

    Args:
        parts: of the run, which has taken no step; config: of it.
        schema: of the store that it will train on; process: this one.

    Raises:
        ConfigError: no run there, or one of another store or of another kind.
        CheckpointError: a run without a sound checkpoint, or of another model.
    """
    if config.start_from is not None:
        _start_from(RunFolder(Path(config.start_from)), parts, config, schema, process)
    elif config.model.content_tower_run is not None:
        folder = RunFolder(Path(config.model.content_tower_run))
        _load_content_tower(folder, parts.model, config.model, schema, process)


def _start_from(
    folder: RunFolder, parts: Parts, config: RunConfig, schema: StoreSchema, process: Process
) -> None:
    """Fill weights and optimizer states from a run's newest checkpoint.

    Rows of ids that are new since then keep what they have.
    """
    key = f"start_from={folder.path}"
    if not folder.config.is_file():
        raise ConfigError(f"{key}: no run there; name the folder of a run, or set null")
    try:
        trained = folder.read_config()
        folder.check_store(schema, or_later=True)
    except ConfigError as error:
        raise ConfigError(f"{key}: {error}") from None
    mine, theirs = config.embedding.optimizer, trained.embedding.optimizer
    if mine != theirs:
        raise ConfigError(
            f"embedding.optimizer={mine}: {folder.path} was trained with {theirs}, and its states "
            "are taken over; set that"
        )
    taken = from_first(lambda: checkpoint.newest(folder.checkpoints), process)
    checkpoint.load(taken, parts.tensors(), may_have_grown=True)


def _load_content_tower(
    folder: RunFolder, model: nn.Module, config: ModelConfig, schema: StoreSchema, process: Process
) -> None:
    """Fill the content tower from a run's best checkpoint where it kept one, or else its newest."""
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
