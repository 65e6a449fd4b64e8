"""Predictions of MicroLens_1M_x1's test rows -> the zip that the MMCTR challenge takes (task 2)."""

from __future__ import annotations

import argparse
import io
import os
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from datasets.batches import Batch
from datasets.command import run
from datasets.errors import data_error
from datasets.manifest import sync
from datasets.microlens_tables import open_table
from datasets.parquet import INTEGER, NUMBER, ParquetSource
from remote.path import Location, location

CSV_NAME = "prediction.csv"
_ID = "ID"


def read_ids(source: Location) -> NDArray[np.int64]:
    """What the challenge calls each row of `test`: its `ID`, else its place: int64 [n].

    Args:
        source: folder of the tables.

    Raises:
        DataError: the file is missing, damaged or empty, or an ID is null or comes twice.
    """
    table = open_table(source, "test", "item_id")
    file = table.files[0]
    if _ID not in table.names:
        return np.arange(table.rows)
    batches = open_table(source, "test", _ID).batches("IDs")
    ids = np.concatenate([batch.integers(_ID) for batch in batches])
    first = np.unique(ids, return_index=True)[1]
    if len(first) < len(ids):
        row = int(np.setdiff1d(np.arange(len(ids)), first)[0])
        problem = f"ID {ids[row]} comes twice"
        raise data_error(problem, "Fetch the file again", file=file, column=_ID, row=row)
    return ids


def _scores(batch: Batch) -> NDArray[Any]:
    scores = batch.numbers("score")
    bad = np.flatnonzero(~((scores >= 0) & (scores <= 1)))
    if len(bad):
        problem = f"score {scores[bad[0]]}"
        raise batch.fail(problem, "Write probabilities, from 0 to 1", "score", int(bad[0]))
    return scores


def read_scores(predictions: Path, rows: int) -> NDArray[Any]:
    """The score of every row of `test`, in its order, float [rows].

    Args:
        predictions: Parquet file with `source_row` and `score`.
        rows: of `test`.

    Raises:
        DataError: bad input, or a row of `test` that has no score or several.
    """
    table = ParquetSource([predictions], {"source_row": INTEGER, "score": NUMBER})
    places, scores = [np.empty(0, np.int64)], []
    for batch in table.batches("predictions"):
        places.append(batch.integers("source_row"))
        scores.append(_scores(batch))
    place = np.concatenate(places)
    known = (place >= 0) & (place < rows)
    first = np.full(rows, -1, np.int64)
    first[place[known][::-1]] = np.flatnonzero(known)[::-1]
    bad = np.flatnonzero(~known)
    if not len(bad):
        bad = np.flatnonzero(first[place] != np.arange(len(place)))
    if len(bad):
        row = int(bad[0])
        problem = f"row {place[row]} of test " + ("comes twice" if known[row] else "is not there")
        advice = f"Predict the test split of {rows} rows, each once"
        raise data_error(problem, advice, file=predictions, column="source_row", row=row)
    missing = np.flatnonzero(first < 0)
    if len(missing):
        problem = f"no score for row {missing[0]} of test ({len(missing)} such rows)"
        advice = f"Predict all {rows} rows of the test split"
        raise data_error(problem, advice, file=predictions, column="source_row")
    ordered: NDArray[Any] = np.concatenate(scores)[first]
    return ordered


def write_submission(
    source: Location, predictions: Path, out: Path, *, overwrite: bool = False
) -> None:
    """Check predictions and write the submission; equal predictions give equal bytes.

    Args:
        source: folder of the tables, for the rows of `test` and their IDs.
        predictions: Parquet file with `source_row` (row of `test`) and `score`.
        out: zip file to write; it holds one CSV with columns `ID` and `Task2`, in the order of
            the source.
        overwrite: replace a file that is already there.

    Raises:
        DataError: bad input, or `out` exists.
    """
    if out.exists() and not overwrite:
        raise data_error("already exists", "Choose another --out or add --overwrite", file=out)
    ids = read_ids(source)
    scores = read_scores(predictions, len(ids))
    text = io.BytesIO()
    pl.DataFrame({_ID: ids, "Task2": scores}).write_csv(text)
    aside = out.with_name(f"{out.name}.tmp-{os.getpid()}")
    try:
        out.absolute().parent.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(aside, "w", zipfile.ZIP_DEFLATED, compresslevel=6) as archive:
            # Given no time, the entry is of 1980: writing by name would put in the present one.
            entry = zipfile.ZipInfo(CSV_NAME)
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, text.getvalue())
        sync(aside)
        aside.rename(out)
    finally:
        aside.unlink(missing_ok=True)


def main(argv: list[str] | None = None) -> int:
    """Command line: write the submission of some predictions."""
    parser = argparse.ArgumentParser(prog="datasets.microlens_submission", description=__doc__)
    parser.add_argument("--source", required=True, help="folder of the raw tables")
    parser.add_argument("--predictions", type=Path, required=True, help="Parquet file")
    parser.add_argument("--out", type=Path, required=True, help="zip file to write")
    parser.add_argument("--overwrite", action="store_true")
    arguments = vars(parser.parse_args(argv))
    source = arguments.pop("source")
    return run(lambda: write_submission(location(source), **arguments))


if __name__ == "__main__":
    sys.exit(main())
