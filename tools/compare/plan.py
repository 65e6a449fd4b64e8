"""What is to be compared: variants, points of a sweep, seeds; checked before the first run."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from ctr.config import ConfigError, RunConfig
from ctr.errors import UserError
from remote.path import RemoteError, location
from tools.composed import CONF, compose_run

_LABEL = re.compile(r"[\w.+-]+")
_NUMBER = re.compile(r"\d+(\.\d+)?(e-?\d+)?")
_UNSAFE = re.compile(r"[^\w.+=-]")
# A comma that another setting follows, and not the next value of a list.
_BETWEEN_SETTINGS = re.compile(r",(?=[+~]*[A-Za-z_][\w./@]*=)")


class PlanError(UserError):
    """A comparison that cannot be made; names the argument and says what to give instead."""


@dataclass(frozen=True)
class Variant:
    """What is trained with every seed.

    Attributes:
        label: its name in tables and folders.
        settings: of the command line of ctr/train.py.
        point: of the sweep; None where nothing is swept.
    """

    label: str
    settings: tuple[str, ...]
    point: str | None = None

    @property
    def name(self) -> str:
        """Label and point, for the folder of a run."""
        return self.label if self.point is None else f"{self.label}-{self.point}"


@dataclass(frozen=True)
class Sweep:
    """A key and the values it takes, from `hydra.sweeper.params` of an experiment."""

    experiment: str
    key: str
    values: tuple[str, ...]


@dataclass(frozen=True)
class Run:
    """A variant with a seed.

    Attributes:
        folder: of the run; settings: of its command line.
        split: to evaluate; best: evaluate the checkpoint that validated best, not the newest.
    """

    variant: Variant
    seed: int
    folder: Path
    settings: tuple[str, ...]
    split: str
    best: bool


def parse_variant(text: str) -> Variant:
    """A variant from `label:key=value,key=value`.

    Raises:
        PlanError: no label, or a setting without a value.
    """
    label, colon, rest = text.partition(":")
    settings = tuple(part for part in _BETWEEN_SETTINGS.split(rest) if part)
    if not colon or not _LABEL.fullmatch(label) or not all("=" in part for part in settings):
        raise PlanError(
            f"--variants {text}: write label:key=value,key=value, the label of letters, digits "
            "and . + - _"
        )
    return Variant(label, settings)


def read_sweep(experiment: str, conf: Path = CONF) -> Sweep:
    """The key that an experiment sweeps, and its values in their order.

    Raises:
        PlanError: there is no such experiment, or it sweeps none or several keys, or no numbers.
    """
    file = conf / "experiment" / f"{experiment}.yaml"
    if not file.is_file():
        raise PlanError(f"--sweep {experiment}: no {file}; there are {', '.join(_sweeps(conf))}")
    params = OmegaConf.select(OmegaConf.load(file), "hydra.sweeper.params") or {}
    if len(params) != 1:
        raise PlanError(
            f"{file}: hydra.sweeper.params has {len(params)} keys; a table and its plot need one"
        )
    ((key, values),) = params.items()
    override = OverridesParser.create().parse_override(f"{key}={values}")
    points = tuple(override.sweep_string_iterator()) if override.is_sweep_override() else ()
    if not points or not all(_NUMBER.fullmatch(point) for point in points):
        raise PlanError(
            f"{file}: hydra.sweeper.params.{key}={values}: give several numbers, such as 10, 20, 50"
        )
    return Sweep(experiment, str(key), points)


def _sweeps(conf: Path) -> list[str]:
    files = sorted((conf / "experiment").glob("*.yaml"))
    return [file.stem for file in files if "sweeper:" in file.read_text()]


def store_setting(store: str | None) -> list[str]:
    """The store as a setting of all runs, none for the configured one.

    Args:
        store: a local path, taken from here rather than from a run's folder, or a URL.

    Raises:
        PlanError: a URL that names no place, or holds a secret.
    """
    if store is None:
        return []
    try:
        found = location(store)
    except RemoteError as error:
        raise PlanError(f"--store: {error}") from None
    return [f"data.store={found.resolve() if isinstance(found, Path) else found}"]


def variants_of(
    models: Sequence[str], experiments: Sequence[str], written: Sequence[str], sweep: Sweep | None
) -> list[Variant]:
    """All rows of the table: each variant, at each point of the sweep.

    Raises:
        PlanError: nothing to compare, or two variants of one name.
    """
    if sweep and experiments:
        raise PlanError("--sweep is an experiment itself: name --models or --variants with it")
    found = [Variant(name, (f"model={name}",)) for name in models]
    found += [Variant(name, (f"experiment={name}",)) for name in experiments]
    found += [parse_variant(text) for text in written]
    if not found:
        raise PlanError("nothing to compare: give --models, --experiments or --variants")
    if sweep:
        found = [
            Variant(
                v.label,
                (f"experiment={sweep.experiment}", *v.settings, f"{sweep.key}={value}"),
                value,
            )
            for v in found
            for value in sweep.values
        ]
    names = [variant.name for variant in found]
    for name in names:
        if names.count(name) > 1:
            raise PlanError(f"two variants are called {name}; give each a label of its own")
    return found


def plan_runs(
    variants: Sequence[Variant],
    seeds: Sequence[int],
    out: Path,
    common: Sequence[str],
    split: str | None,
) -> list[Run]:
    """Every run of the comparison, all seeds of a variant one after another.

    Args:
        variants, seeds: of which all pairs are run.
        out: where the folders of the runs go.
        common: settings of all variants, before their own.
        split: to evaluate; None for the configured test split.

    Raises:
        ConfigError: a variant cannot run; names it.
    """
    runs = []
    for variant in variants:
        settings = (*common, *variant.settings, "trainer.progress=false")
        config = _composed(variant, settings)
        for seed in dict.fromkeys(seeds):
            runs.append(
                Run(
                    variant,
                    seed,
                    out / f"{_UNSAFE.sub('_', variant.name)}-{seed}",
                    (f"seed={seed}", *settings),
                    split or config.data.test_split,
                    best=config.trainer.keep_best is not None,
                )
            )
    folders = [run.folder for run in runs]
    for folder in folders:
        if folders.count(folder) > 1:
            raise PlanError(f"two runs would share {folder}; give each a label of its own")
    return runs


def _composed(variant: Variant, settings: Sequence[str]) -> RunConfig:
    try:
        return compose_run(settings)
    except ConfigError as error:
        raise ConfigError(f"{variant.name}: {error}") from None
