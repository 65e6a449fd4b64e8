"""Damaged descriptions of event logs: bytes, YAML trees, and texts that attack the reader."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from datasets.events_config import read_config
from tests.fuzz.harness import CASES, ROOT, Outcome, Runner, check
from tests.fuzz.judging import attempt, fresh, judge
from tests.fuzz.mutations import Random, damage, random_of
from tests.fuzz.trees import YAML_TEXTS, mutate_tree, says


def change_description(file: Path, index: int, random: Random) -> str:
    """Bytes, a tree, or a hostile text."""
    if index % 3 == 0:
        return damage(file.parent, [file], index // 3, random)
    index = index // 3 * 2 + index % 3
    if index % 6 == 1:
        text = YAML_TEXTS[index // 6 % len(YAML_TEXTS)]
        # The same attack a level below, where an entry of another type is quoted in the message.
        file.write_text(text if index % 4 == 1 else "name:\n  " + text.replace("\n", "\n  "))
        return f"the text {text[:30]!r}"
    tree, what = mutate_tree(yaml.safe_load(file.read_text()), index, random)
    file.write_text(yaml.safe_dump(tree, allow_unicode=bool(index % 2)))
    return what


class KIND:
    """The description of a real log, read back."""

    def __init__(self, folder: Path) -> None:
        self.pristine, self.work = folder / "pristine", folder / "case"
        self.pristine.mkdir(exist_ok=True)
        source = ROOT / "datasets" / "ml1m.yaml"
        (self.pristine / "log.yaml").write_text(source.read_text())
        self.untouched = read_config(self.pristine / "log.yaml")

    def case(self, index: int) -> Outcome:
        """Damage the file and read it."""
        folder, random = fresh(self.pristine, self.work), random_of("description", index)
        file = folder / "log.yaml"
        mutation = change_description(file, index, random)
        found = attempt(read_config, file)
        wrong = judge(mutation, found, ["log.yaml"])
        if wrong is not None or found[1] == self.untouched:
            return wrong or Outcome("equal", mutation)
        # What a user writes is what is meant: it must be read as it stands.
        told = says(yaml.safe_load(file.read_text()), found[1])
        return Outcome("other" if told else "misread", mutation, str(found[1]))


@pytest.mark.parametrize("index", range(CASES))
def test_damage(index: int, runner: Runner, request: pytest.FixtureRequest) -> None:
    check(runner, index, request)
