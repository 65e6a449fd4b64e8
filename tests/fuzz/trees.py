"""Damage to JSON and YAML trees: values and names of every wrong kind, by hypothesis."""

from __future__ import annotations

import copy
import math
from typing import Any

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from tests.fuzz.mutations import Random

_NAMES = st.sampled_from(
    (
        *("", ".", "..", "../../x", "/etc/passwd", "a/b", "a\\b", "\x00", "é\u202e", "x" * 5000),
        *("__class__", "${oc.env:HOME}", "${data.store}", "item", "rows", "name", "-1", "nan"),
        *("*", "~"),
    )
)
_NUMBERS = st.one_of(
    st.sampled_from([0, -1, 1, 2**31, 2**63, -(2**63) - 1, 10**30, 10**300, 0.5, 1e-320]),
    st.sampled_from([math.nan, math.inf, -math.inf, -0.0, 1e308]),
    st.integers(),
    st.floats(),
)
_LEAVES = st.one_of(_NUMBERS, _NAMES, st.text(max_size=8), st.booleans(), st.none())
VALUES = st.recursive(
    _LEAVES,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(st.one_of(_NAMES, st.text(max_size=5)), inner, max_size=4),
    ),
    max_leaves=6,
)


def draw(strategy: st.SearchStrategy[Any], random: Random) -> Any:
    """A value of a strategy that follows from `random` alone."""
    found = []

    @seed(int(random.integers(2**32)))
    @settings(
        max_examples=8,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
        deadline=None,
    )
    @given(strategy)
    def take(value: Any) -> None:
        found.append(value)

    take()
    # Hypothesis begins with the simplest value, which would be the same in every case.
    return found[-1]


def _places(tree: Any, above: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Paths of all values below the top."""
    pairs = tree.items() if isinstance(tree, dict) else enumerate(tree)
    found = []
    for key, value in pairs:
        found.append((*above, key))
        if isinstance(value, dict | list):
            found += _places(value, (*above, key))
    return found


def _deep(levels: int) -> list[Any]:
    tree: list[Any] = []
    for _ in range(levels):
        tree = [tree]
    return tree


def mutate_tree(tree: Any, number: int, random: Random, places: Any = None) -> tuple[Any, str]:
    """A copy of a tree with one thing wrong, and what it is.

    Args:
        tree: of dictionaries and lists; number: chooses the way, each in turn; random: the rest.
        places: paths to choose from, None for all.
    """
    tree = copy.deepcopy(tree)
    places = places or _places(tree)
    # Each top-level key as often as any other: lists of files would get most of the cases.
    tops = sorted({str(place[0]) for place in places})
    top = tops[int(random.integers(len(tops)))]
    places = [place for place in places if str(place[0]) == top]
    *above, last = places[int(random.integers(len(places)))]
    holder = tree
    for key in above:
        holder = holder[key]
    where = ".".join(map(str, (*above, last)))
    way = number % 8
    if way in (0, 1, 2):
        holder[last] = draw(_NUMBERS if way == 0 else VALUES, random)
        what = f"{where} = {holder[last]!r:.80}"
    elif way == 3:
        del holder[last]
        what = f"no {where}"
    elif way == 4 and isinstance(holder, dict):
        name = draw(_NAMES, random)
        holder[name] = holder.pop(last)
        what = f"{where} renamed to {name!r:.40}"
    elif way == 5 and isinstance(holder, dict):
        name = draw(_NAMES, random)
        holder[name] = draw(VALUES, random)
        what = f"{where} gets a neighbour {name!r:.40}"
    elif way == 6:
        holder[last] = _deep(60)
        what = f"{where} = 60 lists in each other"
    else:
        others = places[int(random.integers(len(places)))]
        value = tree
        for key in others:
            value = value[key]
        holder[last] = copy.deepcopy(value)
        what = f"{where} = {'.'.join(map(str, others))}"
    return tree, what


# Texts that are no damage to a tree but attacks on its reader.
JSON_TEXTS = (
    "[" * 100_000,
    '{"a":' * 100_000,
    "[" * 3000 + "]" * 3000,
    "1" * 10_000,
    '{"format": "lifelong-ctr-store", "schema_version": 1' + "0" * 5000 + "}",
    "null",
    "[]",
    '"text"',
    "\ufeff{}",
    "{}" * 3,
)
YAML_TEXTS = (
    "[" * 5000,
    "a: " * 3000,
    "{a: " * 2000,
    "- " * 3000 + "x",
    "a: &a [x, x, x, x, x, x, x, x, x]\n"
    + "".join(
        f"{two}: &{two} [{', '.join([f'*{one}'] * 9)}]\n"
        for one, two in zip("abcdefghijk", "bcdefghijkl", strict=True)
    ),
    "name: &a [*a]",
    "data: &a\n  store: *a",
    "!!python/object/apply:os.system ['true']",
    "!!binary aGVsbG8=",
    "? [a, b]\n: c",
    "1" * 10_000,
    "a: 2026-99-99",
    "--- {}\n--- {}\n",
    "\t{",
    "<<: 3",
)


def _same(leaf: Any, value: Any) -> bool:
    """Whether a typed value is what a leaf says, be it as a number or as its text."""
    if isinstance(leaf, str) and "${" in leaf:
        return True  # a reference to another key, which stands for that key's value
    if str(leaf).lower() == str(value).lower():
        return True
    if isinstance(value, bool) and isinstance(leaf, int | float):
        return bool(leaf) == value
    try:
        return float(leaf) == float(value)
    except (TypeError, ValueError, OverflowError):
        return False


def says(tree: Any, config: Any) -> bool:
    """Whether a dataclass, dictionary or list holds whatever a tree of plain values says."""
    if isinstance(tree, dict):
        inner = config if isinstance(config, dict) else vars(config)
        return all(str(key) in inner and says(tree[key], inner[str(key)]) for key in tree)
    if isinstance(tree, list):
        return len(tree) == len(config) and all(map(says, tree, config))
    return _same(tree, config)
