"""The section on configuration and versions: what differs first, then everything."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tools.report.page import Cell, Fold, Row, Section, Table
from tools.report.runs import Run, differing, shown


def configuration(runs: Sequence[Run]) -> Section:
    """What the runs were trained with."""
    tables, texts = [], []
    configs = [run.config for run in runs]
    environments = [run.environment for run in runs]
    if len(runs) > 1:
        for name, values in (("configuration", configs), ("environment", environments)):
            keys = differing(values)
            if keys:
                tables.append(_table(f"What differs in the {name}", runs, values, keys))
            else:
                texts.append(f"All runs have the same {name}.")
    folds = [
        Fold("Whole configuration", [_table("config.yaml", runs, configs, _keys(configs))]),
        Fold(
            "Versions, machine and store",
            [_table("environment.json", runs, environments, _keys(environments))],
        ),
    ]
    return Section("configuration", "Configuration", texts=texts, tables=tables, folds=folds)


def _keys(tables: Sequence[dict[str, Any]]) -> list[str]:
    return list(dict.fromkeys(key for table in tables for key in table))


def _table(
    caption: str, runs: Sequence[Run], tables: Sequence[dict[str, Any]], keys: Sequence[str]
) -> Table:
    rows = [Row(key, [Cell(shown(table, key)) for table in tables]) for key in keys]
    return Table(caption, ["key", *(run.label for run in runs)], rows, words=True)
