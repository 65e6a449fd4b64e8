"""Damaged configurations of a run's folder: bytes, YAML trees, and texts that attack the reader."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from ctr.config import RunConfig
from ctr.run_folder import RunFolder
from ctr.schema import StoreSchema
from tests.fuzz.harness import CASES, Outcome, Runner, check
from tests.fuzz.judging import attempt, fresh, judge
from tests.fuzz.mutations import Random, damage, random_of
from tests.fuzz.trees import YAML_TEXTS, mutate_tree, says

SCHEMA = StoreSchema("small", {"item": 2}, (), (), (), (), 1, None, {}, "0123456789abcdef")


def change_config(file: Path, index: int, random: Random) -> str:
    """Change the values of a configuration that has no checksum, as a stranger's may be."""
    if index % 6 == 1:
        text = YAML_TEXTS[index // 6 % len(YAML_TEXTS)]
        file.write_text(text)
        return f"the text {text[:30]!r}"
    tree, what = mutate_tree(yaml.safe_load(file.read_text()), index, random)
    file.write_text(yaml.safe_dump(tree, allow_unicode=bool(index % 2)))
    return what


class KIND:
    """A run's folder, read as for its resumption."""

    def __init__(self, folder: Path) -> None:
        self.pristine, self.work = folder / "run", folder / "case"
        if not self.pristine.exists():
            RunFolder(self.pristine).create(RunConfig(), SCHEMA)
        self.untouched = self.read(fresh(self.pristine, self.work))

    def read(self, folder: Path) -> RunConfig:
        """The configuration, once it is known that the store is the run's."""
        run = RunFolder(folder)
        run.check_store(SCHEMA)
        return run.read_config()

    def case(self, index: int) -> Outcome:
        """Damage the files' bytes, or what the configuration says."""
        folder, random = fresh(self.pristine, self.work), random_of("config", index)
        file, sealed = folder / "config.yaml", index % 3 == 0
        if sealed:
            files = [file, file, folder / "environment.json"]
            mutation = damage(folder, files, index // 3, random)
        else:
            mutation = change_config(file, index // 3 * 2 + index % 3, random)
        found = attempt(self.read, folder)
        wrong = judge(mutation, found, ["config.yaml", "environment.json"])
        if wrong is not None or found[1] == self.untouched:
            return wrong or Outcome("equal", mutation)
        return Outcome("unnoticed" if sealed else self.told(file, found[1]), mutation)

    def told(self, file: Path, config: Any) -> str:
        """`other` if the configuration is what another reader finds in the file."""
        tree = yaml.safe_load(file.read_text())
        # A run may have been moved: where it is counts, not where it was.
        return "other" if says(tree | {"run": config.run}, config) else "misread"


@pytest.mark.parametrize("index", range(CASES))
def test_damage(index: int, runner: Runner, request: pytest.FixtureRequest) -> None:
    check(runner, index, request)
