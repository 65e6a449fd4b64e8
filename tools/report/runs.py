"""Runs as a report needs them: read from their folders, and checked to belong together."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ctr.run_folder import RunFolder
from tools.compare_runs import predictions_of
from tools.report.errors import ReportError
from tools.report.searched import SearchSummary, read_search

# As many as there are colours that can be told apart.
MOST_RUNS = 8
# What a run may be without: no question of what was trained.
_NOT_COMPARED = ("run", "resume")
_KINDS = ("train", "valid", "skipped", "spike", "summary")


@dataclass(frozen=True)
class Run:
    """What the folder of an evaluated run holds.

    Attributes:
        label: short name, unlike those of the other runs.
        folder: of the run; predictions: of the split that is reported.
        config, environment: values by dotted key.
        log: rows of metrics.jsonl by kind, in order.
        evaluation: metrics that the evaluation wrote; None if it is not there.
        search: what the search found; None if it was not looked at.
    """

    label: str
    folder: RunFolder
    predictions: Path
    config: dict[str, Any]
    environment: dict[str, Any]
    log: dict[str, list[dict[str, Any]]]
    evaluation: dict[str, Any] | None
    search: SearchSummary | None

    @property
    def searches(self) -> bool:
        """Whether the run's model has a search at all."""
        return self.config.get("model.gsu") != "none"

    @property
    def store(self) -> str:
        """Name and digest of the store that the run was trained on."""
        return f"{self.environment['store']} ({self.environment['store_digest']})"


def read_runs(paths: Sequence[Path], split: str) -> list[Run]:
    """Read the folders, in the order given.

    Args:
        paths: of the folders.
        split: whose evaluation is reported.

    Raises:
        ReportError: too many runs, one given twice, a damaged file, or runs on different stores.
        UserError: no run in a folder, or none that was evaluated on the split.
    """
    if len(paths) > MOST_RUNS:
        raise ReportError(f"{len(paths)} runs given; a report takes at most {MOST_RUNS}")
    labels = _labels([path.resolve() for path in paths])
    runs = [_read(path, label, split) for path, label in zip(paths, labels, strict=True)]
    first, *others = runs
    for other in others:
        if other.environment["store_digest"] != first.environment["store_digest"]:
            raise ReportError(
                f"{other.folder.path} was trained on store {other.store}, {first.folder.path} on "
                f"{first.store}: their rows cannot be compared; report them one by one"
            )
    return runs


def differing(tables: Sequence[dict[str, Any]]) -> list[str]:
    """Keys whose values are not the same in all tables, in the order of their first occurrence."""
    keys = dict.fromkeys(key for table in tables for key in table if key not in _NOT_COMPARED)
    return [key for key in keys if any(shown(t, key) != shown(tables[0], key) for t in tables)]


def shown(table: dict[str, Any], key: str) -> str:
    """A value as text; a dash where the table has none."""
    if key not in table:
        return "–"
    value = table[key]
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _labels(paths: Sequence[Path]) -> list[str]:
    """The last parts of each path, as few as no other path ends in."""
    if len(set(paths)) < len(paths):
        twice = next(path for path in paths if paths.count(path) > 1)
        raise ReportError(f"{twice}: given twice; give every run once")
    labels = []
    for path in paths:
        others = [other.parts for other in paths if other != path]
        parts = 1
        while any(other[-parts:] == path.parts[-parts:] for other in others):
            parts += 1
        labels.append("/".join(path.parts[-parts:]))
    return labels


def _read(path: Path, label: str, split: str) -> Run:
    folder = RunFolder(path)
    config = folder.read_values()
    environment = _read_json(folder.environment)
    for key in ("store", "store_digest"):
        if not isinstance(environment.get(key), str):
            raise ReportError(f"{folder.environment}: has no {key!r}; the run is damaged")
    evaluation = folder.evaluation(split)
    return Run(
        label=label,
        folder=folder,
        predictions=predictions_of(path, split),
        config=dict(_flat(config)),
        environment=dict(_flat(environment)),
        log=_read_log(folder.metrics),
        evaluation=_read_json(evaluation) if evaluation.is_file() else None,
        search=read_search(path / f"gsu_{split}.json", split),
    )


def _read_json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ReportError(f"{path}: cannot be read ({error}); the run is damaged") from None
    if not isinstance(found, dict):
        raise ReportError(f"{path}: holds no JSON object; the run is damaged")
    return found


def _flat(values: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _read_log(path: Path) -> dict[str, list[dict[str, Any]]]:
    """Rows by kind; a last line without its end is one that the run was killed over."""
    rows: dict[str, list[dict[str, Any]]] = {kind: [] for kind in _KINDS}
    try:
        lines = path.read_text(encoding="utf-8").split("\n")[:-1]
    except (OSError, ValueError) as error:
        raise ReportError(f"{path}: cannot be read ({error}); the run is damaged") from None
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
            kind, step = row["kind"], row["step"]
        except (ValueError, RecursionError, TypeError, KeyError):
            kind, step = None, None
        if not isinstance(kind, str) or not isinstance(step, int):
            raise ReportError(f"{path}: line {number} is no row of a run's log; the run is damaged")
        rows.setdefault(kind, []).append(row)
    return rows


def number(row: dict[str, Any], name: str) -> float:
    """A number of a row of the log; NaN where it has none."""
    value = row.get(name)
    return float(value) if isinstance(value, int | float) else math.nan
