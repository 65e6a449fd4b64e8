"""Damaged and forged files of a prepared store: opened, read for an epoch, and verified.

Opening must refuse what could make reading fail; `verify` must refuse whatever differs.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from datasets.verify import verify
from tests.fuzz.harness import CASES, Outcome, Runner, check
from tests.fuzz.judging import attempt, content, fresh, judge
from tests.fuzz.mutations import Random, damage, random_of
from tests.fuzz.reading import read_store
from tests.fuzz.stores import make_store, reseal

_EDGES = (-1, -(2**31), 2**31 - 1, 2**62, -(2**62), 400, 401, 127)


def _edge(array: np.ndarray, random: Random) -> np.ndarray:
    if array.dtype.kind == "f":
        value = random.choice([np.nan, np.inf, -1.0, 1e30])
    else:
        bounds = np.iinfo(array.dtype)
        value = np.clip(random.choice(_EDGES), bounds.min, bounds.max)
    places = random.integers(array.size, size=int(random.integers(1, 4)))
    array.reshape(-1)[places] = value
    return array


def _last(array: np.ndarray, random: Random) -> np.ndarray:
    array.reshape(-1)[-1 - int(random.integers(3))] += array.dtype.type(random.integers(1, 9))
    return array


# Changes of an array's meaning, the file being a faultless .npy.
ARRAYS = {
    "an edge value": _edge,
    "shuffled": lambda array, random: random.permutation(array),
    "a later value": _last,
    "wider": lambda array, random: array.astype("f8" if array.dtype.kind == "f" else "i8"),
    "unsigned": lambda array, random: array.view(f"u{array.itemsize}"),
    "reversed": lambda array, random: array[::-1],
    "an edge value again": _edge,
    "longer": lambda array, random: np.concatenate([array, array[-1:]]),
    "column order": lambda array, random: np.asfortranarray(array),
    "big-endian": lambda array, random: array.astype(array.dtype.newbyteorder(">")),
    "two dimensions": lambda array, random: array.reshape(len(array), -1, 1),
    "empty": lambda array, random: array[:0],
    "no dimension": lambda array, random: np.array(array.flat[0]),
    "halved": lambda array, random: array // 2 if array.dtype.kind != "f" else array / 2,
}


def change_array(store: Path, number: int, random: Random) -> str:
    """Change one array and the manifest's checksum of it."""
    files = sorted(store.rglob("*.npy"))
    file = files[int(random.integers(len(files)))]
    name = list(ARRAYS)[number % len(ARRAYS)]
    np.save(file, ARRAYS[name](np.load(file), random))
    return f"{name} in {file.relative_to(store)}"


class KIND:
    """A store, opened by ctr and verified by datasets."""

    def __init__(self, folder: Path) -> None:
        self.pristine, self.work = make_store(folder / "store"), folder / "case"
        self.untouched, self.files = read_store(self.pristine), content(self.pristine)
        verify(self.pristine)

    def case(self, index: int) -> Outcome:
        """Damage what the manifest does not cover for, or forge its checksums as well."""
        store, random = fresh(self.pristine, self.work), random_of("store", index)
        forged = index % 3 > 0
        if index % 3 == 1:
            mutation = change_array(store, index // 3, random)
        else:
            files = [p for p in sorted(store.rglob("*")) if p.is_file() and p.suffix != ".json"]
            mutation = damage(store, files, index // 3, random)
        if forged:
            reseal(store)
            mutation += ", forged checksums"
        return self.judge(store, mutation, forged)

    def judge(self, store: Path, mutation: str, forged: bool) -> Outcome:
        """What opening, reading and verifying came to."""
        opened, verified = attempt(read_store, store), attempt(verify, store)
        places = [*self.files, str(store)]
        for found in (opened, verified):
            wrong = judge(mutation, found, places)
            if wrong is not None and wrong.word != "error":
                return wrong
        if verified[0] == "ok" and not forged and content(store) != self.files:
            return Outcome("unnoticed by verify", mutation)
        if opened[0] == "error":
            word = "error" if verified[0] == "error" else "refused though verify accepts it"
            return Outcome(word, mutation, opened[1])
        if opened[1] == self.untouched:
            return Outcome("equal", mutation)
        # With checksums that fit, a store of other valid numbers is another store.
        return Outcome("other" if verified[0] == "ok" else "verify", mutation, str(verified[1]))


@pytest.mark.parametrize("index", range(CASES))
def test_damage(index: int, runner: Runner, request: pytest.FixtureRequest) -> None:
    check(runner, index, request)
