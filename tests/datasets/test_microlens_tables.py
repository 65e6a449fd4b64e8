"""Bad MicroLens_1M_x1 tables: each gets an error that says where, and nothing is left behind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from datasets import microlens
from datasets.microlens_tables import SCHEMAS
from tests.datasets.microlens_tables import tables, write_tables

# name -> table, column, row, value to put there, and what the message must name besides them
VALUES: dict[str, tuple[str, str, int, Any, str]] = {
    "0 in the middle": ("train", "item_seq", 2, [0, 1, 0, 3], "0 among the items"),
    "0 on both sides": ("test", "item_seq", 0, [0, 2, 3, 0], "0 among the items"),
    "negative item of a sequence": ("valid", "item_seq", 1, [0, 0, -1, 4], "id -1"),
    "null sequence": ("train", "item_seq", 4, None, "null value"),
    "null in a sequence": ("train", "item_seq", 1, [0, None, 1, 1], "null inside"),
    "level above 10": ("train", "likes_level", 3, 11, "level 11, expected 0 to 10"),
    "level below 0": ("test", "views_level", 2, -1, "level -1, expected 0 to 10"),
    "null level": ("valid", "views_level", 0, None, "null value"),
    "label 2": ("train", "label", 1, 2, "label 2, expected 0 or 1"),
    "null label": ("valid", "label", 1, None, "null value"),
    "negative target": ("test", "item_id", 1, -3, "id -3"),
    "null user": ("train", "user_id", 0, None, "null value"),
    "short vector": ("item_info", "item_emb_d128", 3, [0.5] * 127, "width 127, expected 128"),
    "NaN in a vector": ("item_info", "item_emb_d128", 1, [float("nan")] * 128, "NaN"),
    "null vector": ("item_info", "item_emb_d128", 2, None, "null value"),
    "six tags": ("item_info", "item_tags", 4, [1] * 6, "6 tags, expected 5"),
    "negative tag": ("item_info", "item_tags", 2, [0, 0, 0, 5, -9], "id -9"),
    "negative item": ("item_info", "item_id", 4, -4, "id -4"),
}


def fails(raw: Path, capsys: pytest.CaptureFixture[str], *parts: str) -> None:
    """Preparation must end with 2, name all `parts`, and leave neither store nor traces."""
    out = raw.parent / "out" / "store"
    assert microlens.main(["--source", str(raw), "--out", str(out)]) == 2
    lines = capsys.readouterr().err.splitlines()
    message = next(line for line in lines if line.startswith("error: "))
    for part in parts:
        assert part in message
    assert not out.parent.exists() or list(out.parent.iterdir()) == []


@pytest.mark.parametrize("case", VALUES)
def test_bad_value(
    case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    table, column, row, value, problem = VALUES[case]
    columns = tables()
    columns[table][column][row] = value
    raw = write_tables(tmp_path / "raw", columns)
    # Rows are counted from the start of the file, not of the batch.
    monkeypatch.setattr("datasets.parquet._MAX_BATCH_ROWS", 2)
    fails(raw, capsys, f"{table}.parquet", f"'{column}'", f"row {row}:", problem)


@pytest.mark.parametrize("value", [0.5, float("nan")])
def test_a_label_between(value: float, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    raw = write_tables(tmp_path / "raw", tables())
    table = pq.read_table(raw / "valid.parquet")
    label = pa.array([1.0, value])
    pq.write_table(table.set_column(5, "label", label), raw / "valid.parquet")
    fails(raw, capsys, "valid.parquet", "'label'", "row 1", f"label {value}")


@pytest.mark.parametrize("table", SCHEMAS)
class TestFiles:
    """Every table in turn is absent, empty, or of other columns."""

    def test_missing_file(
        self, table: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        raw = write_tables(tmp_path / "raw", tables())
        (raw / f"{table}.parquet").unlink()
        fails(raw, capsys, f"{table}.parquet", "no such file")

    def test_missing_column(
        self, table: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        raw = write_tables(tmp_path / "raw", tables())
        file = raw / f"{table}.parquet"
        content = pq.read_table(file)
        last = content.schema.names[-1]
        pq.write_table(content.drop_columns([last]), file)
        fails(raw, capsys, f"{table}.parquet", f"'{last}'", "no such column")

    def test_other_types(
        self, table: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        raw = write_tables(tmp_path / "raw", tables())
        file = raw / f"{table}.parquet"
        for place, field in enumerate(SCHEMAS[table]):
            content = pq.read_table(file)
            text = pa.array(["x"] * len(content))
            pq.write_table(content.set_column(place, field.name, text), file)
            fails(raw, capsys, f"{table}.parquet", f"'{field.name}'", "type string")
            pq.write_table(content, file)

    def test_no_rows(self, table: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        columns = tables()
        columns[table] = {name: [] for name in columns[table]}
        raw = write_tables(tmp_path / "raw", columns)
        fails(raw, capsys, f"{table}.parquet", "no rows")
