"""Raw Parquet tables whose columns say something else, or the same in another way."""

from __future__ import annotations

import json
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from datasets.manifest import MANIFEST
from datasets.verify import verify
from tests.fuzz.judging import attempt
from tests.fuzz.mutations import Random

Values = list[Any]
_EDGES = (-1, 0, 2**31, 2**63 - 1, -(2**63), 2**62)
_ODD = (None, None, float("nan"), float("inf"), "text", b"\xff\xfe", True, 2**64 - 1, [], [None])


def _cells(values: Values, random: Random, change: Callable[[Any], Any]) -> Values:
    values = list(values)
    for place in random.integers(max(1, len(values)), size=int(random.integers(1, 4))).tolist():
        if values:
            old = values[place]
            if isinstance(old, list) and old and random.integers(2):
                inner = int(random.integers(len(old)))
                values[place] = [*old[:inner], change(old[inner]), *old[inner + 1 :]]
            else:
                values[place] = change(old)
    return values


def _same_kind(random: Random) -> Callable[[Any], Any]:
    def change(old: Any) -> Any:
        if isinstance(old, str):
            return ["", "\x00", old * 50, "\u202e"][random.integers(4)]
        if isinstance(old, list):
            return [old + old[:1], old[:-1], [], old[::-1]][random.integers(4)]
        if isinstance(old, float):
            return [float("nan"), float("-inf"), -old, 1e300][random.integers(4)]
        return _EDGES[random.integers(len(_EDGES))]

    return change


def _typed(values: Values, *kinds: pa.DataType | None) -> pa.Array:
    """The values as the first of the types that can hold them, or as text."""
    for kind in kinds:
        try:
            return pa.array(values, kind)
        except (pa.ArrowException, OverflowError, TypeError, ValueError):
            continue
    return pa.array([str(value) for value in values])


_KINDS: tuple[tuple[pa.DataType, Callable[[Any], Any]], ...] = (
    (pa.int32(), int),
    (pa.uint64(), abs),
    (pa.uint64(), lambda value: abs(value) + 2**63),
    (pa.int8(), int),
    (pa.float64(), float),
    (pa.string(), str),
    (pa.bool_(), bool),
    (pa.timestamp("us"), int),
    (pa.decimal128(38, 0), lambda value: Decimal(str(value))),
    (pa.null(), lambda value: None),
    (pa.binary(), lambda value: str(value).encode()),
)


def _convert(value: Any, change: Callable[[Any], Any]) -> Any:
    if isinstance(value, list):
        return [_convert(entry, change) for entry in value]
    try:
        return value if value is None else change(value)
    except (TypeError, ValueError, ArithmeticError):
        return value


def _other_type(values: Values, kind: pa.DataType, random: Random) -> pa.Array:
    wanted, change = _KINDS[random.integers(len(_KINDS))]
    changed = [_convert(value, change) for value in values]
    nested = pa.types.is_list(kind) and bool(random.integers(4))
    return _typed(changed, pa.list_(wanted) if nested else wanted)


def _column(table: pa.Table, number: int, random: Random) -> tuple[pa.Table, str]:
    place = int(random.integers(table.num_columns))
    name, kind = table.field(place).name, table.field(place).type
    values = table.column(place).to_pylist()
    way = number % 6
    if way == 0:
        array, what = _typed(_cells(values, random, _same_kind(random)), kind, None), "edge values"
    elif way == 1:
        odd = _ODD[random.integers(len(_ODD))]
        array, what = _typed(_cells(values, random, lambda _: odd), kind, None), f"{odd!r}"
    elif way == 2:
        array = _other_type(values, kind, random)
        what = f"as {array.type}"
    elif way == 3:
        if pa.types.is_list(kind):
            array, what = pa.array(values, pa.large_list(kind.value_type)), "as large lists"
        else:
            array, what = pa.array(values, kind).dictionary_encode(), "as a dictionary"
    elif way == 4:
        return table.drop_columns([name]), f"no {name}"
    else:
        array, what = pa.nulls(len(table), kind), "all null"
    return table.set_column(place, name, array), f"{name}: {what}"


def _rows(table: pa.Table, number: int, random: Random) -> tuple[pa.Table, str]:
    order = np.arange(len(table))
    ways = (
        ("no rows", order[:0]),
        ("rows shuffled", random.permutation(order)),
        ("a row twice", np.append(order, order[:1])),
        ("without a row", np.delete(order, random.integers(len(order)))),
        ("all rows twice", np.tile(order, 2)),
    )
    what, rows = ways[number % len(ways)]
    return table.take(pa.array(rows)), what


def _layout(table: pa.Table, number: int, random: Random) -> tuple[pa.Table, str, dict[str, Any]]:
    way = number % 5
    if way == 0:
        names = random.permutation(table.column_names).tolist()
        return table.select(names), "columns in another order", {}
    if way == 1:
        name = table.column_names[0]
        return table.append_column(name, table.column(0)), f"column {name} twice", {}
    if way == 2:
        extra = pa.array([{"a": [i]} for i in range(len(table))])
        return table.append_column("extra", extra), "a column more", {}
    if way == 3:
        return table, "rows in groups of 3", {"row_group_size": 3}
    return table, "other pages", {"data_page_version": "2.0", "compression": "gzip"}


def change_table(folder: Path, files: list[Path], number: int, random: Random) -> str:
    """Change the columns, rows or layout of one of the files, and say how."""
    file = files[int(random.integers(len(files)))]
    table, options = pq.read_table(file), {}
    way = number % 4
    if way < 2:
        table, what = _column(table, number // 4 * 2 + way, random)
    elif way == 2:
        table, what = _rows(table, number // 4, random)
    else:
        table, what, options = _layout(table, number // 4, random)
    pq.write_table(table, file, **options)
    return f"{what} in {file.relative_to(folder)}"


def rewrite(folder: Path, schemas: dict[str, pa.Schema]) -> None:
    """Write the tables anew, plainly and as published, from what PyArrow itself reads."""
    for name, schema in schemas.items():
        file = folder / name
        table = pq.read_table(file, page_checksum_verification=True)
        # A feature may be of integers or of text, whatever was published.
        columns = [_typed(table.column(f.name).to_pylist(), f.type, None) for f in schema]
        pq.write_table(pa.table(columns, names=schema.names), file)


def store_result(path: Path) -> dict[str, Any]:
    """A prepared store's content by digest, with its counts; the source is left out."""
    verify(path)
    manifest: dict[str, Any] = json.loads((path / MANIFEST).read_text())
    kept = ("tables", "features", "histories", "vectors", "splits", "counts", "files")
    return {key: manifest[key] for key in kept}


def reads_the_same(folder: Path, schemas: dict[str, pa.Schema], prepare: Any, found: Any) -> bool:
    """Whether a preparation of what PyArrow finds in the files gives the store that was found."""
    rewrite(folder, schemas)
    word, result = attempt(prepare, folder)
    return word == "ok" and bool(result == found)
