"""Damaged manifests of a faultless store: bytes, JSON trees, and texts that attack the reader."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from datasets.verify import verify
from tests.fuzz.harness import CASES, Outcome, Runner, check
from tests.fuzz.judging import attempt, content, fresh, judge
from tests.fuzz.mutations import Random, damage, random_of
from tests.fuzz.reading import read_store
from tests.fuzz.stores import make_store
from tests.fuzz.trees import JSON_TEXTS, mutate_tree


def change_manifest(file: Path, index: int, random: Random) -> str:
    """Damage a manifest: one case of bytes, two of trees, and now and then a hostile text."""
    if index % 3 == 0:
        return damage(file.parent, [file], index // 3, random)
    if index % 12 == 4:
        text = JSON_TEXTS[index // 12 % len(JSON_TEXTS)]
        file.write_text(text)
        return f"the text {text[:30]}"
    tree = json.loads(file.read_text())
    # Without the checksum, as a manifest of an older release or of a stranger, every entry counts.
    del tree["checksum"]
    tree, what = mutate_tree(tree, index // 3 * 2 + index % 3, random)
    # As Python writes it: with NaN and Infinity, which its reader takes, and lone surrogates.
    file.write_text(json.dumps(tree))
    return what


class KIND:
    """A manifest, read by ctr with everything it describes, and verified by datasets."""

    def __init__(self, folder: Path) -> None:
        self.pristine, self.work = make_store(folder / "store"), folder / "case"
        self.untouched = read_store(self.pristine)
        self.places = ["manifest.json", *content(self.pristine), str(self.work)]

    def case(self, index: int) -> Outcome:
        """Damage the manifest, then open, read and verify."""
        store, random = fresh(self.pristine, self.work), random_of("manifest", index)
        mutation = change_manifest(store / "manifest.json", index, random)
        opened, verified = attempt(read_store, store), attempt(verify, store)
        for found in (opened, verified):
            wrong = judge(mutation, found, self.places)
            if wrong is not None and wrong.word != "error":
                return wrong
        if opened[0] == "error":
            return Outcome("error", mutation, opened[1])
        if opened[1] == self.untouched:
            return Outcome("equal", mutation)
        if verified[0] == "error":
            return Outcome("verify", mutation, verified[1])
        # Consistent in all that can be checked, as where a feature takes its rows from the table
        # of another one: only the checksum could tell, and whoever forges it can forge the rest.
        return Outcome("other" if index % 3 else "unnoticed", mutation)


@pytest.mark.parametrize("index", range(CASES))
def test_damage(index: int, runner: Runner, request: pytest.FixtureRequest) -> None:
    check(runner, index, request)
