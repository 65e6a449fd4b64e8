"""The submission: every row of test once, in its order, the same bytes every time."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow.parquet as pq
import pytest

from datasets import microlens_submission
from tests.datasets.microlens_tables import tables, write_tables

SCORES = [np.float32(0.1), 0.0, 1.0, 1e-7, np.float32(1 / 3)]


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """Tables with five rows in test."""
    columns = tables()
    columns["test"] = {name: [*values, *values[:2]] for name, values in columns["test"].items()}
    return write_tables(tmp_path / "raw", columns)


def predict(folder: Path, rows: list[int], scores: list[Any], dtype: Any = pl.Float32) -> Path:
    """Write predictions, with a column more than is asked for."""
    file = folder / "predictions.parquet"
    columns = [
        pl.Series("sample", range(len(rows))),
        pl.Series("source_row", rows, dtype=pl.Int64),
        pl.Series("score", scores, dtype=dtype),
    ]
    pl.DataFrame(columns).write_parquet(file)
    return file


def submit(raw: Path, file: Path, *more: str) -> tuple[int, Path]:
    """Write a submission by the command line."""
    out = raw.parent / "zip" / "submission.zip"
    arguments = ["--source", str(raw), "--predictions", str(file), "--out", str(out), *more]
    return microlens_submission.main(arguments), out


def csv(out: Path) -> str:
    with zipfile.ZipFile(out) as archive:
        assert archive.namelist() == ["prediction.csv"]
        assert archive.testzip() is None
        return archive.read("prediction.csv").decode()


@pytest.mark.parametrize("dtype", [pl.Float32, pl.Float64])
def test_round_trip(raw: Path, tmp_path: Path, dtype: Any) -> None:
    rows = [3, 0, 4, 1, 2]
    code, out = submit(raw, predict(tmp_path, rows, [SCORES[row] for row in rows], dtype))
    assert code == 0
    text = csv(out)
    assert text.splitlines()[0] == "ID,Task2"
    frame = pl.read_csv(io.StringIO(text))
    assert frame["ID"].to_list() == [0, 1, 2, 3, 4]
    assert frame["Task2"].cast(dtype).to_list() == pl.Series(SCORES, dtype=dtype).to_list()
    assert [path.name for path in out.parent.iterdir()] == ["submission.zip"]


def test_bytes_do_not_depend_on_time_or_order(raw: Path, tmp_path: Path) -> None:
    code, out = submit(raw, predict(tmp_path, [0, 1, 2, 3, 4], SCORES))
    assert code == 0
    first = out.read_bytes()
    backwards = predict(tmp_path, [4, 3, 2, 1, 0], SCORES[::-1])
    assert submit(raw, backwards)[0] == 2
    out.unlink()
    assert submit(raw, backwards)[0] == 0
    assert out.read_bytes() == first
    with zipfile.ZipFile(out) as archive:
        assert archive.infolist()[0].date_time == (1980, 1, 1, 0, 0, 0)


def test_existing_file_stays_unless_asked(
    raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, out = submit(raw, predict(tmp_path, [0, 1, 2, 3, 4], SCORES))
    before = out.read_bytes()
    other = predict(tmp_path, [0, 1, 2, 3, 4], [0.5] * 5)
    assert submit(raw, other)[0] == 2
    assert "--overwrite" in capsys.readouterr().err
    assert out.read_bytes() == before
    assert submit(raw, other, "--overwrite")[0] == 0
    assert out.read_bytes() != before


def give_ids(raw: Path, ids: list[int | None]) -> None:
    """Put a column ID into test."""
    file = raw / "test.parquet"
    table = pq.read_table(file)
    pq.write_table(table.append_column("ID", [pl.Series(ids, dtype=pl.Int64).to_arrow()]), file)


def test_ids_of_the_test_file(raw: Path, tmp_path: Path) -> None:
    give_ids(raw, [50, 40, 30, 20, 10])
    code, out = submit(raw, predict(tmp_path, [4, 3, 2, 1, 0], SCORES[::-1]))
    assert code == 0
    assert [line.split(",")[0] for line in csv(out).split()] == ["ID", "50", "40", "30", "20", "10"]


BAD: dict[str, tuple[list[int], list[Any], str]] = {
    "a row twice": ([0, 1, 2, 3, 4, 2], [*SCORES, 0.5], "row 5: row 2 of test comes twice"),
    "two rows in one": ([0, 1, 2, 3, 3], SCORES, "row 4: row 3 of test comes twice"),
    "another file's rows": ([0, 1, 2, 3, 5], SCORES, "row 4: row 5 of test is not there"),
    "a negative row": ([0, -1, 2, 3, 4], SCORES, "row 1: row -1 of test is not there"),
    "too few": ([0, 1, 3], SCORES[:3], "no score for row 2 of test (2 such rows)"),
    "none": ([], [], "no score for row 0 of test (5 such rows)"),
    "NaN": ([0, 1, 2, 3, 4], [0.5, 0.5, 0.5, float("nan"), 0.5], "'score', row 3: score nan"),
    "null": ([0, 1, 2, 3, 4], [0.5, None, 0.5, 0.5, 0.5], "'score', row 1: null value"),
    "above 1": ([0, 1, 2, 3, 4], [0.5, 0.5, 1.5, 0.5, 0.5], "'score', row 2: score 1.5"),
    "a logit": ([0, 1, 2, 3, 4], [-0.5, 0.5, 0.5, 0.5, 0.5], "'score', row 0: score -0.5"),
}


def fails(raw: Path, file: Path, problem: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out = submit(raw, file)
    assert code == 2
    message = capsys.readouterr().err
    assert message.startswith("error: ")
    assert problem in message
    assert not out.parent.exists() or list(out.parent.iterdir()) == []


@pytest.mark.parametrize("case", BAD)
def test_bad_predictions(
    case: str, raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows, scores, problem = BAD[case]
    fails(raw, predict(tmp_path, rows, scores), problem, capsys)


def test_predictions_of_other_columns(
    raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = predict(tmp_path, [0, 1, 2, 3, 4], SCORES)
    pl.read_parquet(file).drop("source_row").write_parquet(file)
    fails(raw, file, "'source_row': no such column", capsys)
    fails(raw, predict(tmp_path, [0], ["x"], pl.String), "'score': type", capsys)
    file.unlink()
    fails(raw, file, "predictions.parquet: no such file", capsys)


@pytest.mark.parametrize(
    ("ids", "problem"),
    [
        ([5, 6, 7, 6, 9], "test.parquet, column 'ID', row 3: ID 6 comes twice"),
        ([5, 6, None, 8, 9], "test.parquet, column 'ID', row 2: null value"),
    ],
)
def test_bad_ids(
    raw: Path,
    tmp_path: Path,
    ids: list[int | None],
    problem: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    give_ids(raw, ids)
    fails(raw, predict(tmp_path, [0, 1, 2, 3, 4], SCORES), problem, capsys)
