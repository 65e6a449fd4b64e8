"""Prediction files of the same rows, read and brought into one order.

Shape legend: S rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from ctr.metrics.files import PredictionFile
from ctr.metrics.ties import Array, PredictionError

_SCORE = "__score_{}"


@dataclass(frozen=True)
class Columns:
    """Names of the columns.

    Attributes:
        key: which together name a row, the same in all files; none for a file by itself.
        label, score, user: as usual; user and group are read from the first file.
        group: what GAUC looks into; slices: further columns of the first file.
        unknown: of the user, that stands for no one; as text.
    """

    key: tuple[str, ...] = ("sample",)
    label: str = "label"
    score: str = "score"
    user: str = "user"
    group: str | None = None
    slices: tuple[str, ...] = ()
    unknown: str | None = None


@dataclass(frozen=True)
class Aligned:
    """Predictions of the same rows, in order of the key if there is one.

    Attributes:
        label: uint8 [S]; user: int64 [S], users numbered from 0, rows of no known user each as one.
        known: bool [S], whether the user is known.
        group: uint32 [S], numbered from 0.
        scores: float [S] each, in the order of the files.
        slices: by column, its values.
        warnings: what was bent, counted.
    """

    label: Array
    user: Array
    known: Array
    group: Array
    scores: tuple[Array, ...]
    slices: dict[str, pl.Series]
    warnings: tuple[str, ...]


def read_aligned(
    paths: Sequence[Path],
    columns: Columns,
    common_rows: bool = False,
    slices_from: Path | None = None,
) -> Aligned:
    """Read the files and match their rows by key.

    Args:
        paths: of the files.
        columns: names.
        common_rows: compare the rows that all files have, rather than stop where some lack.
        slices_from: a file with the key and the slice columns, if the first has not these.

    Raises:
        PredictionError: missing columns, keys that occur twice, rows that do not match, labels that
            differ, values that no metric is defined for.
    """
    first, *others = [
        _read(path, columns, number, slices_from is not None) for number, path in enumerate(paths)
    ]
    warnings = []
    for number, (path, other) in enumerate(zip(paths[1:], others, strict=True), 1):
        first, count = _match(first, other, (paths[0], path), columns, number, common_rows)
        if count:
            warnings.append(f"{count:,} rows are not in both {paths[0]} and {path}: left out")
    if slices_from is not None:
        first = _add_slices(first, slices_from, columns, paths[0])
    if columns.key:
        first = first.sort(columns.key)
    group, user, known = _codes(first, columns, paths[0])
    return Aligned(
        label=first[columns.label].to_numpy(),
        user=user,
        known=known,
        group=group,
        scores=tuple(first[_SCORE.format(n)].to_numpy() for n in range(len(paths))),
        slices={name: first[name] for name in columns.slices},
        warnings=tuple(warnings),
    )


def _read(path: Path, columns: Columns, number: int, elsewhere: bool) -> pl.DataFrame:
    """Key, label (uint8) and score of a file, of the first also user, group and slices.

    Where slices may be `elsewhere` too, the first file need not have them.
    """
    wanted = [*columns.key, columns.label, columns.score]
    file = PredictionFile(path)
    if number == 0:
        wanted += [columns.user, *([columns.group] if columns.group else [])]
        wanted += [name for name in columns.slices if name in file.types or not elsewhere]
    file.require(wanted)
    # Reads label and score once more, but finds whatever is wrong with them, with its row.
    file.read_keys(columns.label, columns.score)
    frame = pl.read_parquet(path, columns=list(dict.fromkeys(wanted)))
    twice = frame.select(columns.key).is_duplicated() if columns.key else pl.Series([False])
    if twice.any():
        raise PredictionError(
            f"{path}: key {_shown(frame.filter(twice), columns.key)} occurs more than once, as do "
            f"{int(twice.sum()):,} rows in all; name more columns with --key"
        )
    label = pl.col(columns.label).cast(pl.UInt8)
    return frame.with_columns(label, pl.col(columns.score).alias(_SCORE.format(number)))


def _match(
    first: pl.DataFrame,
    other: pl.DataFrame,
    paths: tuple[Path, Path],
    columns: Columns,
    number: int,
    common_rows: bool,
) -> tuple[pl.DataFrame, int]:
    """The first with the score of the other, and how many rows only one of them has."""
    key, label = list(columns.key), columns.label
    other = _with_key_of(first, other, key, paths)
    lonely = [first.join(other, on=key, how="anti"), other.join(first, on=key, how="anti")]
    count = sum(map(len, lonely))
    if count and not common_rows:
        said = [
            f"{len(rows):,} keys are only in {path} (first: {_shown(rows.sort(key), columns.key)})"
            for path, rows in zip(paths, lonely, strict=True)
            if len(rows)
        ]
        raise PredictionError(f"{'; '.join(said)}; --common-rows compares the rows of both")
    score = _SCORE.format(number)
    both = first.join(other.select(*key, pl.col(label).alias("__label"), score), on=key)
    if both.is_empty():
        raise PredictionError(f"{paths[0]} and {paths[1]}: no key is in both")
    wrong = both.filter(pl.col("__label") != pl.col(label))
    if len(wrong):
        raise PredictionError(
            f"{paths[1]}: {len(wrong):,} labels differ from those of {paths[0]} (first: "
            f"{_shown(wrong.sort(key), columns.key)}); are these predictions of the same rows?"
        )
    return both.drop("__label"), count


def _with_key_of(
    first: pl.DataFrame, other: pl.DataFrame, key: Sequence[str], paths: tuple[Path, Path]
) -> pl.DataFrame:
    """The other with its key in the types of the first, so that they can be joined."""
    try:
        return other.with_columns(pl.col(name).cast(first.schema[name]) for name in key)
    except pl.exceptions.PolarsError:
        types = [", ".join(f"{name}: {f.schema[name]}" for name in key) for f in (first, other)]
        raise PredictionError(
            f"{paths[1]}: its key ({types[1]}) cannot be compared with that of {paths[0]} "
            f"({types[0]})"
        ) from None


def _add_slices(
    first: pl.DataFrame, path: Path, columns: Columns, first_path: Path
) -> pl.DataFrame:
    key = list(columns.key)
    new = [name for name in columns.slices if name not in first.columns]
    PredictionFile(path).require([*key, *new])
    frame = pl.read_parquet(path, columns=[*key, *new])
    frame = _with_key_of(first, frame, key, (first_path, path))
    if frame.select(key).is_duplicated().any():
        raise PredictionError(f"{path}: key {key} occurs more than once")
    return first.join(frame, on=key, how="left")


def _codes(first: pl.DataFrame, columns: Columns, path: Path) -> tuple[Array, Array, Array]:
    """Group, user and whether the user is known, of each row."""
    for name in (columns.user, columns.group or columns.user):
        if first[name].null_count():
            raise PredictionError(f"{path}: column {name!r} has {first[name].null_count():,} gaps")
    known = np.ones(len(first), dtype=bool)
    if columns.unknown is not None:
        known = (first[columns.user].cast(pl.String) != columns.unknown).to_numpy()
    user = _numbers(first[columns.user])
    # Rows of no known user come from different people.
    user[~known] = user.max(initial=0) + 1 + np.arange(int((~known).sum()))
    user = np.unique(user, return_inverse=True)[1]
    if columns.group is None:
        return user.astype(np.uint32), user, known
    group = _numbers(first[columns.group])
    pairs = np.unique(np.stack([group[known], user[known]]), axis=1)
    if pairs.shape[1] > len(np.unique(pairs[0])):
        raise PredictionError(
            f"{path}: groups of column {columns.group!r} hold rows of several values of "
            f"{columns.user!r}; a bootstrap over users needs each group within one user"
        )
    return group.astype(np.uint32), user, known


def _numbers(values: pl.Series) -> Array:
    return values.rank("dense").to_numpy().astype(np.int64) - 1


def _shown(rows: pl.DataFrame, key: Sequence[str]) -> str:
    return ", ".join(f"{name}={rows[name][0]!r}" for name in key)
