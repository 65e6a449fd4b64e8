"""The runner of cases survives what it is there to find, and repeats itself."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from tests.fuzz import harness
from tests.fuzz.harness import Outcome, Runner
from tests.fuzz.mutations import CONTENT, damage, random_of
from tests.fuzz.trees import VALUES, draw, mutate_tree


class KIND:
    """Crashes, hangs, prints or answers, by the index."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def case(self, index: int) -> Outcome:
        """What the index stands for."""
        if index == 0:
            os.abort()
        if index == 1:
            time.sleep(1000)
        os.write(1, b"a library prints\n")
        return Outcome("equal", "nothing", "x" * 100_000)


def test_a_crash_and_a_hang_end_their_case_only(
    runner: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert runner.case(2).word == "equal"
    crash = runner.case(0)
    assert crash.word == "crash"
    assert "Aborted" in crash.detail, "the stack of the crash is told"
    monkeypatch.setattr(harness, "CASE_SECONDS", 2)
    assert runner.case(1).word == "hang"
    assert runner.child is None
    assert runner.case(3).word == "equal"


def test_what_is_not_accepted_fails_and_names_the_case(
    runner: Runner, request: pytest.FixtureRequest
) -> None:
    with pytest.raises(AssertionError, match=r"^harness 0: crash by"):
        harness.check(runner, 0, request)
    # The line that counts outcomes at the end is for those of files.
    request.node.user_properties.clear()


@pytest.mark.parametrize("number", range(len(CONTENT) + 4))
def test_damage_follows_from_the_case(number: int, tmp_path: Path) -> None:
    found = []
    for name in ("one", "two"):
        folder = tmp_path / name
        folder.mkdir()
        for file in ("a", "b"):
            (folder / file).write_bytes(bytes(range(200)) * 5)
        told = damage(folder, sorted(folder.iterdir()), number, random_of("kind", number))
        left = {p.name: p.is_file() and p.read_bytes() for p in folder.iterdir()}
        found.append((told, left))
    assert found[0] == found[1]


def test_drawn_values_follow_from_the_case() -> None:
    drawn = [repr([draw(VALUES, random_of("kind", i)) for i in range(20)]) for _ in range(2)]
    assert drawn[0] == drawn[1]


@pytest.mark.parametrize("number", range(16))
def test_a_changed_tree_follows_from_the_case_and_leaves_the_tree(number: int) -> None:
    tree = {"a": {"b": [1, 2]}, "c": 3}
    changed = [repr(mutate_tree(tree, number, random_of("kind", number))) for _ in range(2)]
    assert changed[0] == changed[1]
    assert tree == {"a": {"b": [1, 2]}, "c": 3}
