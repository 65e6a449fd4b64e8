"""Slices of predictions: which rows share a value, and what to doubt of their metrics.

Shape legend: S rows, R resamples.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import polars as pl

from ctr.metrics.bootstrap import interval
from ctr.metrics.ties import Array

# A column of more values is cut: numbers into as many ranges as given, others to the most frequent.
MOST_NUMBERS = 8
MOST_VALUES = 20
RANGES = 4
FEW_USERS = 50


@dataclass(frozen=True)
class Slice:
    """Some of the rows.

    Attributes:
        column: that the rows are chosen by; values: of it, in words without its name.
        name: column and values.
        mask: bool [S].
    """

    column: str
    values: str
    name: str
    mask: Array


def slices_of(columns: Mapping[str, pl.Series], warnings: list[str]) -> Iterator[Slice]:
    """The slices of each column, in order; what is left out is added to the warnings.

    Each distinct value is a slice; numbers of more than 8 values are cut into 4 ranges of about
    equally many rows, after the 0 of a column of counts (whole numbers of 0 and more), which is a
    slice of its own: what was never trained on is unlike all else.

    Args:
        columns: values by name; an empty cell or NaN is in no slice.
        warnings: extended as the slices are read.
    """
    for column, given in columns.items():
        values = given.fill_nan(None) if given.dtype.is_float() else given
        gaps = values.null_count()
        if gaps == len(values):
            warnings.append(
                f"slice column {column!r}: empty in all {gaps:,} rows, so without a slice"
            )
        elif gaps:
            warnings.append(f"slice column {column!r}: {gaps:,} rows are empty and in no slice")
        distinct = values.drop_nulls().n_unique()
        if values.dtype.is_numeric() and distinct > MOST_NUMBERS:
            yield from _ranges(column, values)
            continue
        if distinct > MOST_VALUES:
            warnings.append(
                f"slice column {column!r}: {distinct:,} values; only the {MOST_VALUES} most "
                "frequent are compared"
            )
        counts = values.drop_nulls().value_counts(sort=True)
        for value in sorted(counts[values.name][:MOST_VALUES].to_list()):
            yield _equal(column, value, (values == value).fill_null(False).to_numpy())


def _equal(column: str, value: object, mask: Array) -> Slice:
    return Slice(column, str(value), f"{column} = {value}", mask)


def _ranges(column: str, values: pl.Series) -> Iterator[Slice]:
    number = values.cast(pl.Float64).to_numpy()
    inside = ~np.isnan(number)
    begin = ""
    if values.dtype.is_integer() and values.min() == 0:
        zero = number == 0
        yield _equal(column, 0, zero)
        inside &= ~zero
        begin = "0 < "
    cuts = np.linspace(0, 1, RANGES + 1)[1:-1]
    edges = np.unique(np.quantile(number[inside], cuts, method="lower"))
    place = np.searchsorted(edges, number)
    first, last = f"<= {edges[0]:g}", f"> {edges[-1]:g}"
    names = [
        (f"> 0 to {edges[0]:g}" if begin else first, f"{begin}{column} {first}"),
        *(
            (f"> {low:g} to {high:g}", f"{low:g} < {column} <= {high:g}")
            for low, high in itertools.pairwise(edges)
        ),
        (last, f"{column} {last}"),
    ]
    for index, (told, name) in enumerate(names):
        mask = (place == index) & inside
        if mask.any():
            yield Slice(column, told, name, mask)


def doubts(part: str, users: int, drawn: Mapping[str, Array]) -> list[str]:
    """What to know before trusting the metrics of some rows.

    Args:
        part: name of their slice, empty for all rows.
        users: that have any of them.
        drawn: float64 [R] by metric, of `resampled_metrics`.
    """
    found = []
    few = users < FEW_USERS
    if few:
        what = f"{part or 'all rows'}: {users:,} users are few"
        found.append(f"{what}; the interval may be too narrow")
    for metric, drawn_R in drawn.items():
        where = f"{metric}{f' where {part}' if part else ''}"
        lost = int(np.isnan(drawn_R).sum())
        if np.isnan(interval(drawn_R)[0]):
            found.append(f"{where}: undefined, its rows lack clicks or non-clicks")
        # Of few users many resamples have none, which is said already.
        elif lost and not few:
            found.append(f"{where}: undefined in {lost:,} of {len(drawn_R):,} resamples")
    return found
