"""What tools that look into a trained model have in common: their options, and the model."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ctr.config import ConfigError, RunConfig
from ctr.data.store import Split, Store
from ctr.distributed import Process, process_group
from ctr.inference import open_store, reading_config, trained_model
from ctr.model.network import Network
from ctr.run_folder import RunFolder


@dataclass(frozen=True)
class TrainedRun:
    """A run's model, ready to be asked, and what it was trained on.

    Attributes:
        folder, config: of the run; store: of its data.
        split: that is looked at; split_name: in the store.
        network: with the weights of a checkpoint, in evaluation mode, on the process's device.
        process: this one, alone.
    """

    folder: RunFolder
    config: RunConfig
    store: Store
    split: Split
    split_name: str
    network: Network
    process: Process


def add_run_options(parser: argparse.ArgumentParser) -> None:
    """The run, and which of its checkpoints, splits and devices."""
    add = parser.add_argument
    add("run", metavar="RUN", type=Path, help="folder of the run")
    add("--split", help="of the run's store (default: its test split)")
    add("--checkpoint", default="newest", choices=["newest", "best"], help="default: newest")
    add("--store", help="of the run's data, where it moved")
    add("--device", default="auto", choices=["auto", "cpu", "cuda"], help="default: auto")


def with_dashes(arguments: Sequence[str], keys: Sequence[str]) -> list[str]:
    """A command line in which `key=value` stands for `--key value`, and `run=value` for the run.

    Args:
        arguments: as given; keys: that may be written so.
    """
    found = []
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if equals and key == "run":
            found.append(value)
        else:
            found += [f"--{argument}"] if equals and key in keys else [argument]
    return found


@contextmanager
def opened_run(options: argparse.Namespace) -> Iterator[TrainedRun]:
    """The run that a command line names, in a process group of one.

    Args:
        options: of `add_run_options`.

    Raises:
        ConfigError: no run there, another store, or several processes.
        StoreError: the store or the split cannot be used.
        CheckpointError: no sound checkpoint.
    """
    folder = RunFolder(options.run)
    config = reading_config(folder, options.store, None, options.device)
    with process_group(options.device) as process:
        if process.world_size > 1:
            raise ConfigError("started by torchrun: this tool is one process; start it with python")
        store = open_store(folder, config)
        name = options.split or config.data.test_split
        split = store.split(name, need_labels=False)
        model = trained_model(folder, store, config, process, options.checkpoint)
        yield TrainedRun(folder, config, store, split, name, model.module, process)
