"""The folder of a run: configuration, versions, metrics, checkpoints, predictions."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import platform
import subprocess
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from yaml import YAMLError

from ctr.config import ConfigError, RunConfig, parse_config
from ctr.schema import StoreSchema

# What may differ between a run and its resumption: batch_size, since another number of processes
# needs another one to make the same steps.
_FREE = {"data.store", "data.batch_size", "data.workers", "data.prefetch"}
_PACKAGES = ("torch", "torchrec", "fbgemm-gpu", "fbgemm-gpu-cpu", "numpy", "polars", "pyarrow")


@dataclasses.dataclass(frozen=True)
class RunFolder:
    """Paths of a run."""

    path: Path

    @property
    def config(self) -> Path:
        """The full configuration, YAML."""
        return self.path / "config.yaml"

    @property
    def environment(self) -> Path:
        """Versions, commit and store of the run, JSON."""
        return self.path / "environment.json"

    @property
    def metrics(self) -> Path:
        """One JSON object a line: progress of training."""
        return self.path / "metrics.jsonl"

    @property
    def checkpoints(self) -> Path:
        """Folder of all checkpoints."""
        return self.path / "checkpoints"

    @property
    def tensorboard(self) -> Path:
        """Folder of TensorBoard events."""
        return self.path / "tensorboard"

    @property
    def samples(self) -> Path:
        """Folder of the sample ids of every step, where they are logged."""
        return self.path / "samples"

    @property
    def nonfinite(self) -> Path:
        """Folder of batches and states that made a number that is not finite."""
        return self.path / "nonfinite"

    def evaluation(self, split: str) -> Path:
        """Metrics of an evaluation, JSON."""
        return self.path / f"evaluation_{split}.json"

    def predictions(self, split: str) -> Path:
        """Predictions of an evaluation, Parquet."""
        return self.path / f"predictions_{split}.parquet"

    def check_unused(self) -> None:
        """Raise ConfigError if the folder already holds a run."""
        if self.config.exists():
            raise ConfigError(
                f"run={self.path}: holds a run already; set resume=true to go on with it, or "
                "another run folder"
            )

    def create(self, config: RunConfig, schema: StoreSchema) -> None:
        """Start the folder of a new run.

        Raises:
            ConfigError: the folder already holds a run, or cannot be written.
        """
        self.check_unused()
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self.environment.write_text(json.dumps(_environment(schema), indent=2) + "\n")
        except OSError as error:
            raise ConfigError(f"run={self.path}: cannot be written ({error})") from None
        self.write_config(config)

    def write_config(self, config: RunConfig) -> None:
        """Write the configuration, aside and renamed.

        Raises:
            ConfigError: the folder cannot be written.
        """
        aside = self.config.with_suffix(".tmp")
        try:
            OmegaConf.save(OmegaConf.structured(config), aside)
            aside.replace(self.config)
        except OSError as error:
            raise ConfigError(f"run={self.path}: cannot be written ({error})") from None

    def read_config(self) -> RunConfig:
        """The configuration of the run.

        Raises:
            ConfigError: no run here, or a configuration of another release.
        """
        if not self.config.is_file():
            raise ConfigError(f"run={self.path}: no config.yaml; is this the folder of a run?")
        try:
            raw = OmegaConf.load(self.config)
        except (OSError, ValueError, YAMLError) as error:
            raise ConfigError(f"{self.config}: cannot be read ({error})") from None
        config = parse_config(raw)
        return dataclasses.replace(config, run=str(self.path))

    def check_store(self, schema: StoreSchema) -> None:
        """Raise ConfigError unless the store is the one that the run was trained on."""
        try:
            trained_on = json.loads(self.environment.read_text())["store_digest"]
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise ConfigError(
                f"{self.environment}: cannot be read ({error}); the run is damaged"
            ) from None
        if trained_on != schema.digest:
            raise ConfigError(
                f"run={self.path}: trained on another store than this '{schema.name}' "
                f"(manifest digest {trained_on}, here {schema.digest}); rows of its tables "
                "would mean other ids; set data.store to the original one"
            )


def check_resumable(old: RunConfig, new: RunConfig) -> None:
    """Raise ConfigError, naming the keys, if resuming would change what the run is."""
    changed = [
        f"{part}.{key}"
        for part in ("data", "model", "embedding")
        for key, value in dataclasses.asdict(getattr(old, part)).items()
        if dataclasses.asdict(getattr(new, part))[key] != value and f"{part}.{key}" not in _FREE
    ]
    changed += ["seed"] if old.seed != new.seed else []
    if old.embedding.optimizer == "adam":
        raise ConfigError(
            "embedding.optimizer=adam: fbgemm keeps Adam's step count out of reach of a "
            "checkpoint, so a resumed run would not equal an uninterrupted one; start another run"
        )
    if changed:
        raise ConfigError(
            f"{', '.join(changed)}: differ from the run to resume in {old.run}; leave them as in "
            "its config.yaml, or start another run"
        )


def _environment(schema: StoreSchema) -> dict[str, Any]:
    versions = {}
    for package in _PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "commit": _commit(),
        "python": platform.python_version(),
        "machine": platform.machine(),
        "versions": versions,
        "store": schema.name,
        "store_digest": schema.digest,
    }


def _commit() -> str | None:
    root = Path(__file__).resolve().parent.parent
    try:
        found = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12"],
            cwd=root,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return found.stdout.strip()
