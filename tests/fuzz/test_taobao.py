"""Damaged raw Taobao-MM tables, with page checksums: prepared, and the store verified."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from datasets import taobao_mm
from datasets.snapshots import Options
from tests.fuzz.harness import CASES, Outcome, Runner, check
from tests.fuzz.judging import attempt, fresh, judge
from tests.fuzz.mutations import damage, random_of
from tests.fuzz.stores import make_store
from tests.fuzz.tables import change_table, reads_the_same, store_result

SCHEMAS = {f"{table}.parquet": taobao_mm.raw_schema(table) for table in taobao_mm.TABLES}


class KIND:
    """A small world's raw tables, prepared."""

    def __init__(self, folder: Path) -> None:
        self.pristine, self.work = folder / "raw", folder / "case"
        make_store(folder / "store", self.pristine)
        for name, schema in SCHEMAS.items():
            # Its first rows are enough, and every page tells whether it is what was written.
            table = pq.read_table(self.pristine / name).slice(0, 60).cast(schema)
            pq.write_table(table, self.pristine / name, write_page_checksum=True)
        for truth in self.pristine.glob("truth_*"):
            truth.unlink()
        self.untouched = self.prepare(fresh(self.pristine, self.work))

    def prepare(self, folder: Path) -> dict[str, Any]:
        """The store of a folder of raw tables."""
        out = folder.with_name("out") / "store"
        shutil.rmtree(out.parent, ignore_errors=True)
        taobao_mm.prepare_tree(folder, out, Options())
        return store_result(out)

    def case(self, index: int) -> Outcome:
        """Damage the bytes of a file, or what its columns say."""
        folder, random = fresh(self.pristine, self.work), random_of("taobao", index)
        files = sorted(folder.iterdir())
        damaged = index % 2 == 0
        change = damage if damaged else change_table
        mutation = change(folder, files, index // 2, random)
        found = attempt(self.prepare, folder)
        wrong = judge(mutation, found, [str(folder), "split"])
        out = folder.with_name("out")
        if found[0] != "ok" and out.exists() and any(out.iterdir()):
            return Outcome("left something behind", mutation, found[1])
        if wrong is not None or found[1] == self.untouched:
            return wrong or Outcome("equal", mutation)
        if not reads_the_same(folder, SCHEMAS, self.prepare, found[1]):
            return Outcome("misread", mutation)
        # A table in another's place may be a faultless one, as train's in that of test.
        if damaged and not mutation.startswith(("swap", "copy")):
            return Outcome("unnoticed", mutation)
        counted = found[1]["counts"] != self.untouched["counts"]
        return Outcome("warning" if counted else "other", mutation)


@pytest.mark.parametrize("index", range(CASES))
def test_damage(index: int, runner: Runner, request: pytest.FixtureRequest) -> None:
    check(runner, index, request)
