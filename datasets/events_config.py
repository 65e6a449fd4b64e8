"""Description of an event log, read from YAML and checked once."""

from __future__ import annotations

import types
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

import yaml

from datasets.errors import DataError, data_error
from datasets.manifest import is_plain

T = TypeVar("T")


@dataclass(frozen=True)
class Feature:
    """A feature made from a column of integers or text.

    Args:
        column: its name in the file.
        separator: the column holds several values; take the first one.
        prefix: keep so many characters of a text.
        min_frequency: values of fewer users or items share row 0.
    """

    column: str
    separator: str | None = None
    prefix: int | None = None
    min_frequency: int = 1


@dataclass(frozen=True)
class Side:
    """What an event tells besides its item, once it lies in the past.

    Args:
        column: its name in the file.
        values: the values of rows 1, 2, ...; by default those of the training events, the most
            frequent first.
    """

    column: str
    values: list[int | str] | None = None


@dataclass(frozen=True)
class Events:
    """The log.

    Args:
        file: Parquet file, relative to the source.
        user: column of the user, integer or text.
        item: column of the item, integer or text.
        order: column that puts a user's events in order; ties stay in the order of the file.
        label: column of 0 and 1.
        side: side columns of the histories by name.
    """

    file: str
    user: str
    item: str
    order: str
    label: str
    side: dict[str, Side] = field(default_factory=dict)


@dataclass(frozen=True)
class Entities:
    """Table of the users or of the items.

    Args:
        file: Parquet file, relative to the source, or None.
        key: column of the raw id.
        features: by name.
        vocabulary: "train" gives rows to ids with enough training events, "all" to every id.
        min_frequency: training events that an id needs under "train".
    """

    file: str | None = None
    key: str | None = None
    features: dict[str, Feature] = field(default_factory=dict)
    vocabulary: str = "train"
    min_frequency: int = 1


@dataclass(frozen=True)
class Vectors:
    """Table of frozen item vectors.

    Args:
        file: Parquet file, relative to the source.
        item: column of the raw id.
        column: column of lists of one width.
        dtype: type in the store: int8, float16 or float32.
    """

    file: str
    item: str
    column: str
    dtype: str = "float32"


@dataclass(frozen=True)
class Split:
    """Each user's events in order: the last are test, those before them valid, the rest train.

    Args:
        test_fraction: of a user's events, rounded down, but at least one event.
        valid_fraction: of a user's events, rounded down; 0 for no such split.
    """

    test_fraction: float = 0.2
    valid_fraction: float = 0.1


@dataclass(frozen=True)
class EventLog:
    """An event log and how to prepare it.

    Args:
        name: name of the data set.
        events: the log.
        users: the users.
        items: the items.
        vectors: item vectors, if any.
        split: the split rule.
    """

    name: str
    events: Events
    users: Entities = field(default_factory=Entities)
    items: Entities = field(default_factory=Entities)
    vectors: Vectors | None = None
    split: Split = field(default_factory=Split)


def read_config(file: Path) -> EventLog:
    """Read and check the description of an event log.

    Args:
        file: YAML.

    Raises:
        DataError: not there, not YAML, or an entry is missing, unknown or of another type.
    """
    try:
        tree = yaml.safe_load(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise data_error("no such file", "Check --config", file=file) from None
    except OSError as error:
        problem = f"cannot be read ({error.strerror})"
        raise data_error(problem, "Check --config", file=file) from None
    # A value error is text that is not UTF-8, or a date or number that there is not.
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        problem = f"not readable as YAML ({error})"
        raise data_error(problem, "Correct the file", file=file) from None
    config = _build(EventLog, tree, file, "")
    _check(config, file)
    return config


def _fail(file: Path, key: str, problem: str, advice: str) -> DataError:
    return data_error(problem, advice, file=file, key=key or "(top)")


def _build(kind: type[T], tree: object, file: Path, where: str) -> T:
    """Fill a dataclass from a mapping, refusing unknown keys and other types."""
    if not isinstance(tree, dict):
        raise _fail(file, where, f"{type(tree).__name__}, expected a mapping", "Correct the file")
    known = {entry.name: entry for entry in fields(kind)}  # type: ignore[arg-type]
    for key in tree:
        if key not in known:
            advice = f"Use one of {', '.join(known)}"
            raise _fail(file, f"{where}{key}", "unknown entry", advice)
    hints = get_type_hints(kind)
    values = {}
    for name, entry in known.items():
        if name in tree:
            values[name] = _value(hints[name], tree[name], file, f"{where}{name}")
        elif entry.default is MISSING and entry.default_factory is MISSING:
            raise _fail(file, f"{where}{name}", "entry is missing", "Add it")
    return kind(**values)


def _value(hint: Any, value: object, file: Path, where: str) -> Any:
    origin = get_origin(hint)
    if origin in (Union, types.UnionType):
        if value is None and type(None) in get_args(hint):
            return None
        kinds = [kind for kind in get_args(hint) if kind is not type(None)]
        if len(kinds) == 1:
            return _value(kinds[0], value, file, where)
        fits = any(type(value) is kind for kind in kinds)
        expected = " or ".join(kind.__name__ for kind in kinds)
    elif is_dataclass(hint):
        return _build(hint, value, file, f"{where}.")  # type: ignore[arg-type]
    elif origin is dict:
        if not isinstance(value, Mapping):
            raise _fail(file, where, "expected a mapping", "Correct the file")
        inner = get_args(hint)[1]
        return {str(k): _value(inner, v, file, f"{where}.{k}") for k, v in value.items()}
    elif origin is list:
        if not isinstance(value, list):
            raise _fail(file, where, "expected a list", "Correct the file")
        return [_value(get_args(hint)[0], entry, file, where) for entry in value]
    else:
        fits = type(value) is hint or (hint is float and type(value) is int)
        expected = hint.__name__
    if not fits:
        # A list is not quoted: a few lines of YAML can refer to more entries than memory holds.
        shown = type(value).__name__
        if isinstance(value, str | int | float):
            shown = f"{repr(value)[:60]} is {shown}"
        problem = f"{shown}, expected {expected}"
        raise _fail(file, where, problem, "Correct the file")
    return value


def _check_numbers(config: EventLog, file: Path) -> None:
    numbers: dict[str, int | None] = {}
    for name, entities in (("users", config.users), ("items", config.items)):
        numbers[f"{name}.min_frequency"] = entities.min_frequency
        for feature_name, feature in entities.features.items():
            where = f"{name}.features.{feature_name}"
            numbers[f"{where}.min_frequency"] = feature.min_frequency
            numbers[f"{where}.prefix"] = feature.prefix
    for where, number in numbers.items():
        if number is not None and not 1 <= number < 2**31:
            raise _fail(file, where, f"{number}", "Set a number of 1 or more")


def _check(config: EventLog, file: Path) -> None:
    """What types cannot say."""
    advice = "Correct the file"
    for name in ("users", "items"):
        entities: Entities = getattr(config, name)
        if entities.vocabulary not in ("train", "all"):
            raise _fail(file, f"{name}.vocabulary", f"'{entities.vocabulary}'", "Use train or all")
        if (entities.file is None) != (entities.key is None):
            raise _fail(file, name, "file and key must come together", advice)
        if entities.features and entities.file is None:
            raise _fail(file, f"{name}.features", "features without a file", advice)
    taken = {"user_id", "item"}
    named: dict[str, Mapping[str, object]] = {
        "users.features": config.users.features,
        "items.features": config.items.features,
        "events.side": config.events.side,
    }
    for where, names in named.items():
        for name in names:
            if not is_plain(name):
                problem = "the name cannot be a part of a file name"
                raise _fail(file, f"{where}.{name!r}", problem, "Choose another name")
            if name in taken:
                problem = "the name is taken, and each has a table of its own"
                raise _fail(file, f"{where}.{name}", problem, "Choose another name")
            taken.add(name)
    _check_numbers(config, file)
    for name, side in config.events.side.items():
        if side.values is not None and len({(type(v), v) for v in side.values}) < len(side.values):
            raise _fail(file, f"events.side.{name}.values", "a value comes twice", advice)
    test, valid = config.split.test_fraction, config.split.valid_fraction
    if not (0 < test < 1 and 0 <= valid < 1 and test + valid < 1):
        problem = f"test_fraction {test} and valid_fraction {valid} leave no training events"
        raise _fail(file, "split", problem, advice)
    if config.vectors is not None and config.vectors.dtype not in ("int8", "float16", "float32"):
        problem = f"'{config.vectors.dtype}'"
        raise _fail(file, "vectors.dtype", problem, "Use int8, float16 or float32")
