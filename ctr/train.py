"""Train a CTR model: `torchrun --nproc-per-node N ctr/train.py [experiment=...] [key=value]`."""

from __future__ import annotations

import os
import signal
import sys
from dataclasses import fields, is_dataclass

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from ctr.command import errors_to_exit
from ctr.config import RunConfig, parse_config
from ctr.data.store import Store
from ctr.distributed import Process, gather_objects, make_deterministic, process_group
from ctr.parts import make_parts
from ctr.pretrained import take_over
from ctr.run_folder import RunFolder, check_resumable
from ctr.stages import Stages
from ctr.trainer import StoppedError, Trainer
from ctr.watchdog import Watchdog, group_timeout


def resumed_config(given: RunConfig, folder: RunFolder, overrides: list[str]) -> RunConfig:
    """The configuration of the run to resume, with the keys that the command line sets.

    A command line that names conf groups (experiment=..., model=...) means its whole configuration,
    so the command that started the run resumes it too.

    Raises:
        ConfigError: it would change what the run is.
    """
    old = folder.read_config()
    scalars = {item.name for item in fields(RunConfig) if not is_dataclass(getattr(old, item.name))}
    overrides = [override.lstrip("+") for override in overrides]
    keys = [override.split("=")[0] for override in overrides]
    if all("." in key or key in scalars for key in keys):
        given = parse_config(
            OmegaConf.merge(OmegaConf.structured(old), OmegaConf.from_dotlist(overrides))
        )
    check_resumable(old, given)
    return given


def resumes(config: RunConfig, folder: RunFolder) -> bool:
    """Whether this start goes on with a run that is there.

    `resume=auto` does where there is one, and so does a start by torchrun after a process died.
    """
    restarted = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0
    if config.resume == "auto" or (config.resume == "false" and restarted):
        return folder.config.is_file()
    return config.resume == "true"


def run(config: RunConfig, process: Process) -> dict[str, float]:
    """Train what `config` says and return the summary of the trainer."""
    folder = RunFolder(config.run_path)
    store = Store(config.data.store)
    # A host that joins again does not know of the restart that made room for it.
    resume = any(gather_objects(resumes(config, folder), process))
    if resume:
        folder.check_store(store.schema)
    elif process.is_first:
        folder.check_unused()
    stages, timeout = Stages(), config.trainer.timeout
    with Watchdog(stages, process, timeout, orderly=(StoppedError,)) as watchdog:
        parts = make_parts(config, store, process, stages)
        trainer = Trainer(parts, process, config.trainer, folder)
        prepare(trainer, config, store, resume)
        watchdog.count(lambda: trainer.progress.step)
        return trainer.train()


def prepare(trainer: Trainer, config: RunConfig, store: Store, resume: bool) -> None:
    """Give a trainer the state to begin with, and its folder what tells of the run."""
    process, folder = trainer.process, trainer.folder
    # A run that was stopped before its first checkpoint starts over, and so takes over again.
    if not (resume and trainer.resume()):
        take_over(trainer.parts, config, store.schema, process)
    if resume and process.is_first:
        folder.write_config(config)
    elif process.is_first:
        # Only now: a mistake that building reveals leaves no folder behind.
        folder.create(config, store.schema)


@hydra.main(version_base="1.3", config_path="../conf", config_name="train")
def main(raw: DictConfig) -> None:
    """Compose the configuration, join the other processes, train."""
    with errors_to_exit():
        config = parse_config(raw)
        folder = RunFolder(config.run_path)
        if resumes(config, folder):
            overrides = list(HydraConfig.get().overrides.task)
            config = resumed_config(config, folder, overrides)
        with process_group(config.device, group_timeout(config.trainer.timeout)) as process:
            make_deterministic(config.deterministic)
            try:
                summary = run(config, process)
            except StoppedError as reason:
                if process.is_first:
                    print(f"{config.run}: {reason}; resume=true goes on", file=sys.stderr)
                raise SystemExit(128 + signal.SIGTERM) from None
            if process.is_first:
                print(
                    f"{config.run}: {summary['samples']:,} samples in {summary['seconds']:.1f} s, "
                    f"{summary['samples_per_s']:,.0f} samples/s, "
                    f"peak memory {summary['peak_memory_mib']:,.0f} MiB"
                )


if __name__ == "__main__":
    main()
