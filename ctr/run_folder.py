"""The folder of a run: configuration, versions, metrics, checkpoints, predictions."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.metadata
import json
import platform
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from ctr.config import ConfigError, RunConfig, parse_config
from ctr.schema import StoreSchema

# What may differ between a run and its resumption: batch_size, since another number of processes
# needs another one to make the same steps; vectors, since where they are changes no result.
_FREE = {"data.store", "data.batch_size", "data.workers", "data.prefetch", "data.vectors"}
_DEEPEST = 10
_SEAL = "# sha256 of the lines below: "
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

    def scores(self, samples: str) -> Path:
        """Scores of a split, or of a file of samples of that name, Parquet."""
        return self.path / f"scores_{samples}.parquet"

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
        """Write the configuration with its checksum, aside and renamed.

        Raises:
            ConfigError: the folder cannot be written.
        """
        aside = self.config.with_suffix(".tmp")
        try:
            text = OmegaConf.to_yaml(OmegaConf.structured(config))
            aside.write_text(f"{_SEAL}{_digest(text)}\n{text}", encoding="utf-8")
            aside.replace(self.config)
        except OSError as error:
            raise ConfigError(f"run={self.path}: cannot be written ({error})") from None

    def read_config(self) -> RunConfig:
        """The configuration of the run.

        Raises:
            ConfigError: no run here, a configuration of another release, or one that has changed
                since it was written.
        """
        with self._reading():
            config = parse_config(OmegaConf.create(_checked(self.config)))
        return dataclasses.replace(config, run=str(self.path))

    def read_values(self) -> dict[str, Any]:
        """What config.yaml says: keys and values of this release or of another.

        Raises:
            ConfigError: no run here, or a file that no run wrote or that has changed since.
        """
        with self._reading():
            values = OmegaConf.to_container(OmegaConf.create(_checked(self.config)))
            if not isinstance(values, dict):
                raise ConfigError("expected keys and values")
        return {str(key): value for key, value in values.items()}

    @contextmanager
    def _reading(self) -> Iterator[None]:
        """Whatever reading the configuration raises as a ConfigError that names the file."""
        if not self.config.is_file():
            raise ConfigError(f"run={self.path}: no config.yaml; is this the folder of a run?")
        try:
            yield
        except ConfigError as error:
            raise ConfigError(f"{self.config}: {error}") from None
        # OmegaConf asserts that there are keys.
        except (
            *(OSError, ValueError, YAMLError, OmegaConfBaseException),
            *(RecursionError, AssertionError),
        ) as error:
            raise ConfigError(f"{self.config}: cannot be read ({error})") from None

    def check_store(self, schema: StoreSchema, *, or_later: bool = False) -> None:
        """Raise ConfigError unless the store is the one that the run was trained on.

        Args:
            schema: of the store.
            or_later: a store that goes on from that one will do: its rows mean the same.
        """
        try:
            trained_on = json.loads(self.environment.read_text())["store_digest"]
        except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
            raise ConfigError(
                f"{self.environment}: cannot be read ({error}); the run is damaged"
            ) from None
        if trained_on != schema.digest and not (or_later and trained_on in schema.parents):
            raise ConfigError(
                f"run={self.path}: trained on another store than this '{schema.name}' "
                f"(manifest digest {trained_on}, here {schema.digest}); rows of its tables "
                "would mean other ids; set data.store to the original one"
                + (", or to one that goes on from it" if or_later else "")
            )


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _checked(file: Path) -> str:
    """The text of a configuration file, its checksum compared where it has one.

    Runs of the first releases have none.
    """
    text = file.read_text(encoding="utf-8")
    first, _, rest = text.partition("\n")
    if first.startswith(_SEAL) and first != f"{_SEAL}{_digest(rest)}":
        raise ConfigError(
            "changed since the run wrote it; to change a key, give it on the command line that "
            "resumes the run"
        )
    # A few lines of references to references stand for more values than memory holds, and reading
    # many brackets takes time with their number squared.
    depth = 0
    for event in yaml.parse(text):
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)
        if depth > _DEEPEST or isinstance(event, yaml.AliasEvent):
            raise ConfigError("has a reference (*name) or too many levels: no run wrote it")
    return text


def check_resumable(old: RunConfig, new: RunConfig) -> None:
    """Raise ConfigError, naming the keys, if resuming would change what the run is."""
    changed = [
        f"{part}.{key}"
        for part in ("data", "model", "embedding")
        for key, value in dataclasses.asdict(getattr(old, part)).items()
        if dataclasses.asdict(getattr(new, part))[key] != value and f"{part}.{key}" not in _FREE
    ]
    changed += [key for key in ("seed", "start_from") if getattr(old, key) != getattr(new, key)]
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
