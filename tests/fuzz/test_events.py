"""Damaged event logs, without page checksums, and their descriptions: prepared and verified.

A flipped bit of a value cannot be told from a value there: the store must hold what PyArrow reads.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from datasets import events
from datasets.events_config import read_config
from tests.datasets.event_log import CONFIG
from tests.fuzz.harness import CASES, Outcome, Runner, check
from tests.fuzz.judging import attempt, fresh, judge
from tests.fuzz.mutations import Random, damage, random_of
from tests.fuzz.tables import change_table, reads_the_same, store_result
from tests.fuzz.trees import mutate_tree

SCHEMAS = {
    "log.parquet": pa.schema(
        {
            "who": pa.string(),
            "what": pa.int64(),
            "when": pa.float64(),
            "like": pa.int64(),
            "device": pa.string(),
        }
    ),
    "users.parquet": pa.schema({"who": pa.string(), "age": pa.int64()}),
    "items.parquet": pa.schema({"what": pa.int64(), "genres": pa.string(), "year": pa.string()}),
    "vectors.parquet": pa.schema({"what": pa.int64(), "v": pa.list_(pa.float32())}),
}


def write_log(folder: Path) -> None:
    """A log of 12 users and 30 items, its tables and its description."""
    random = np.random.default_rng(0)
    items = np.arange(1, 31)
    who = [f"user {n}" for n in random.integers(12, size=150)]
    device = [None, "phone", "tablet", "phone"]
    columns: dict[str, dict[str, Any]] = {
        "log.parquet": {
            "who": who,
            "what": random.integers(1, 33, size=150),
            "when": np.round(random.random(150) * 100),
            "like": random.integers(2, size=150),
            "device": [device[n] for n in random.integers(4, size=150)],
        },
        "users.parquet": {
            "who": sorted(set(who))[1:],
            "age": random.integers(9, 60, size=len(set(who)) - 1),
        },
        "items.parquet": {
            "what": items,
            "genres": [["War|Drama", "Drama", None][n % 3] for n in items],
            "year": [str(1990 + n % 7) for n in items],
        },
        "vectors.parquet": {
            "what": items[:-3],
            "v": list(random.normal(size=(27, 4)).astype(np.float32)),
        },
    }
    folder.mkdir(exist_ok=True)
    for name, schema in SCHEMAS.items():
        pq.write_table(pa.table(columns[name], schema=schema), folder / name, compression="none")
    (folder / "log.yaml").write_text(yaml.safe_dump(CONFIG))


class KIND:
    """A small event log, prepared."""

    def __init__(self, folder: Path) -> None:
        self.pristine, self.work = folder / "raw", folder / "case"
        write_log(self.pristine)
        self.untouched = self.prepare(fresh(self.pristine, self.work))

    def prepare(self, folder: Path) -> dict[str, Any]:
        """The store of a folder with a log."""
        out = folder.with_name("out") / "store"
        shutil.rmtree(out.parent, ignore_errors=True)
        events.prepare(read_config(folder / "log.yaml"), folder, out)
        return store_result(out)

    def change(self, folder: Path, index: int, random: Random) -> str:
        """Bytes, columns, or the description that tells what they are."""
        files = sorted(folder.glob("*.parquet"))
        if index % 4 == 0:
            tree, what = mutate_tree(CONFIG, index // 4, random)
            (folder / "log.yaml").write_text(yaml.safe_dump(tree))
            return what
        if index % 4 == 1:
            return damage(folder, files, index // 4, random)
        return change_table(folder, files, index // 4 * 2 + index % 2, random)

    def case(self, index: int) -> Outcome:
        """Change one thing and prepare."""
        folder, random = fresh(self.pristine, self.work), random_of("events", index)
        mutation = self.change(folder, index, random)
        found = attempt(self.prepare, folder)
        wrong = judge(mutation, found, [str(folder), "log.yaml", "key", "split"])
        out = folder.with_name("out")
        if found[0] != "ok" and out.exists() and any(out.iterdir()):
            return Outcome("left something behind", mutation, found[1])
        if wrong is not None or found[1] == self.untouched:
            return wrong or Outcome("equal", mutation)
        if not reads_the_same(folder, SCHEMAS, self.prepare, found[1]):
            return Outcome("misread", mutation)
        counted = found[1]["counts"] != self.untouched["counts"]
        return Outcome("warning" if counted else "other", mutation)


@pytest.mark.parametrize("index", range(CASES))
def test_damage(index: int, runner: Runner, request: pytest.FixtureRequest) -> None:
    check(runner, index, request)
