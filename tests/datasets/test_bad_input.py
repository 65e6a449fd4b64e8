"""Bad Taobao-MM trees: each gets an error that says where, and nothing is left behind."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from datasets import taobao_mm

RAW = taobao_mm.RAW


def put(table: str, word: str, row: int, value: Any) -> Callable[[Any], None]:
    """Change one value of the small tree."""

    def change(columns: Any) -> None:
        columns[table][word][row] = value

    return change


def clear(table: str) -> Callable[[Any], None]:
    """Leave no rows in a table of the small tree."""

    def change(columns: Any) -> None:
        columns[table] = {word: [] for word in columns[table]}

    return change


# name -> change of the columns, and what the message must name
VALUES: dict[str, tuple[Callable[[Any], None], list[str]]] = {
    "null label": (
        put("train_samples", "label", 1, None),
        ["train_samples.parquet", RAW["label"], "row 1", "null"],
    ),
    "null inside a label": (
        put("train_samples", "label", 3, [1, None]),
        ["train_samples.parquet", RAW["label"], "row 3", "null"],
    ),
    "label outside 0 and 1": (
        put("test_samples", "label", 2, [0, 2]),
        ["test_samples.parquet", RAW["label"], "row 2", "[0, 2]"],
    ),
    "label with both": (
        put("test_samples", "label", 0, [1, 1]),
        ["test_samples.parquet", RAW["label"], "row 0", "not one-hot"],
    ),
    "label of wrong length": (
        put("train_samples", "label", 4, [0, 1, 0]),
        ["train_samples.parquet", RAW["label"], "row 4", "length 3"],
    ),
    "null user of a sample": (
        put("train_samples", "user_id", 2, None),
        ["train_samples.parquet", RAW["user_id"], "row 2", "null"],
    ),
    "lists of different lengths": (
        put("train_user_features", "history_category", 1, [5]),
        ["train_user_features.parquet", RAW["history_category"], "row 1", "1 categories for 2"],
    ),
    "null in a history": (
        put("test_user_features", "history_item", 2, [None]),
        ["test_user_features.parquet", RAW["history_item"], "row 2", "null inside"],
    ),
    "duplicate user": (
        put("test_user_features", "user_id", 1, 13),
        ["test_user_features.parquet", RAW["user_id"], "key 13", "2 times"],
    ),
    "vector of wrong width": (
        put("scl_embedding_int8_p90", "vector", 2, [1] * 127),
        ["scl_embedding_int8_p90.parquet", RAW["vector"], "row 2", "width 127, expected 128"],
    ),
    "null vector": (
        put("scl_embedding_int8_p90", "vector", 0, None),
        ["scl_embedding_int8_p90.parquet", RAW["vector"], "row 0", "null"],
    ),
    "empty split": (clear("test_samples"), ["'test'", "no samples"]),
}


def fails(tree: Path, capsys: pytest.CaptureFixture[str], *parts: str) -> None:
    """Preparation must end with 2, name all `parts`, and leave neither store nor traces."""
    out = tree.parent / "out" / "store"
    assert taobao_mm.main(["--source", str(tree), "--out", str(out)]) == 2
    message = capsys.readouterr().err
    line = next(line for line in message.splitlines() if line.startswith("error: "))
    for part in parts:
        assert part in line
    assert line.endswith(tuple("abcdefghijklmnopqrstuvwxyz0123456789")), "no advice at the end"
    assert not out.parent.exists() or list(out.parent.iterdir()) == []


@pytest.mark.parametrize("case", VALUES)
def test_bad_value(
    case: str,
    tmp_path: Path,
    taobao_columns: Any,
    write_tree: Callable[..., Path],
    capsys: pytest.CaptureFixture[str],
) -> None:
    change, parts = VALUES[case]
    change(taobao_columns)
    fails(write_tree(tmp_path / "raw", taobao_columns), capsys, *parts)


@pytest.mark.parametrize("table", taobao_mm.TABLES)
class TestFiles:
    """Every raw table in turn is absent, cut short, or of other columns."""

    @pytest.fixture
    def file(
        self, tmp_path: Path, taobao_columns: Any, write_tree: Callable[..., Path], table: str
    ) -> Path:
        """The table's file."""
        return write_tree(tmp_path / "raw", taobao_columns) / f"{table}.parquet"

    def test_missing_file(self, file: Path, capsys: pytest.CaptureFixture[str]) -> None:
        file.unlink()
        fails(file.parent, capsys, file.name)

    def test_truncated_file(self, file: Path, capsys: pytest.CaptureFixture[str]) -> None:
        file.write_bytes(file.read_bytes()[:-10])
        fails(file.parent, capsys, file.name, "truncated or damaged")

    def test_damaged_page(self, file: Path, capsys: pytest.CaptureFixture[str]) -> None:
        content = bytearray(file.read_bytes())
        content[4:60] = bytes(56)
        file.write_bytes(content)
        fails(file.parent, capsys, file.name, "truncated or damaged")

    def test_missing_column(self, file: Path, capsys: pytest.CaptureFixture[str]) -> None:
        table = pq.read_table(file)
        last = table.column_names[-1]
        pq.write_table(table.drop_columns([last]), file)
        fails(file.parent, capsys, file.name, f"'{last}'", "no such column")

    def test_wrong_type(self, file: Path, capsys: pytest.CaptureFixture[str]) -> None:
        table = pq.read_table(file)
        first = table.column_names[0]
        text = pa.array(["x"] * len(table))
        pq.write_table(table.set_column(0, first, text), file)
        fails(file.parent, capsys, file.name, f"'{first}'", "type string")


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ([0.5] * 128, "int8 cannot hold"),
        ([200.0] * 128, "int8 cannot hold"),
        ([float("nan")] * 128, "NaN"),
    ],
)
def test_float_vectors(
    values: list[float],
    problem: str,
    tmp_path: Path,
    taobao_columns: Any,
    write_tree: Callable[..., Path],
    capsys: pytest.CaptureFixture[str],
) -> None:
    tree = write_tree(tmp_path / "raw", taobao_columns)
    file = tree / "scl_embedding_int8_p90.parquet"
    frame = pl.DataFrame({RAW["item"]: [1, 2], RAW["vector"]: [[3.0] * 128, values]})
    frame.write_parquet(file)
    fails(tree, capsys, file.name, RAW["vector"], "row 1", problem)


@pytest.mark.parametrize(
    ("table", "word", "place"),
    [
        ("train_samples", "user_id", 3),
        ("test_user_features", "profile_2", 1),
        ("train_user_features", "history_item", (2, 1)),
    ],
)
def test_numbers_beyond_signed_integers(
    table: str,
    word: str,
    place: Any,
    tmp_path: Path,
    taobao_columns: Any,
    write_tree: Callable[..., Path],
    capsys: pytest.CaptureFixture[str],
) -> None:
    tree = write_tree(tmp_path / "raw", taobao_columns)
    file = tree / f"{table}.parquet"
    values = taobao_columns[table][word]
    if isinstance(place, tuple):
        values[place[0]][place[1]] = 2**63
        array, row = pa.array(values, pa.list_(pa.uint64())), place[0]
    else:
        values[place] = 2**63
        array, row = pa.array([abs(value) for value in values], pa.uint64()), place
    raw = pq.read_table(file)
    pq.write_table(raw.set_column(raw.column_names.index(RAW[word]), RAW[word], array), file)
    fails(tree, capsys, file.name, RAW[word], f"row {row}", str(2**63))


def test_a_column_that_comes_twice(
    tmp_path: Path,
    taobao_columns: Any,
    write_tree: Callable[..., Path],
    capsys: pytest.CaptureFixture[str],
) -> None:
    tree = write_tree(tmp_path / "raw", taobao_columns)
    file = tree / "item_features.parquet"
    table = pq.read_table(file)
    pq.write_table(table.append_column(RAW["brand"], table.column(RAW["shop"])), file)
    fails(tree, capsys, file.name, RAW["brand"], "comes twice")


def test_a_flipped_bit_in_a_page_with_a_checksum(
    tmp_path: Path,
    taobao_columns: Any,
    write_tree: Callable[..., Path],
    capsys: pytest.CaptureFixture[str],
) -> None:
    tree = write_tree(tmp_path / "raw", taobao_columns)
    file = tree / "item_features.parquet"
    table = pq.read_table(file)
    options = {"compression": "none", "use_dictionary": False, "column_encoding": "PLAIN"}
    pq.write_table(table, file, write_page_checksum=True, **options)
    content = bytearray(file.read_bytes())
    content[content.index((201).to_bytes(8, "little"))] ^= 2
    file.write_bytes(content)
    fails(tree, capsys, file.name, "truncated or damaged")


def test_row_of_a_later_batch(
    tmp_path: Path,
    taobao_columns: Any,
    write_tree: Callable[..., Path],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("datasets.parquet._MAX_BATCH_ROWS", 2)
    taobao_columns["train_samples"]["label"][4] = [0, 0]
    tree = write_tree(tmp_path / "raw", taobao_columns)
    fails(tree, capsys, "train_samples.parquet", "row 4")


@pytest.mark.parametrize("pieces", [False, True])
@pytest.mark.parametrize("other", [[1, 2, 3, 4], [9, 2, 3], [1, 9, 3], [1, 2, 9], None, []])
def test_joined_form_with_two_histories_of_a_user(
    pieces: bool,
    other: list[int] | None,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if pieces:
        monkeypatch.setattr("datasets.taobao_mm_joined.BATCHES_A_PIECE", 0)
    frame: dict[str, list[Any]] = {RAW[word]: [1, 1, 1] for word in ("user_id", *taobao_mm.PROFILE)}
    frame |= {RAW[word]: [5, 6, 7] for word in ("item", *taobao_mm.ITEM_FEATURES)}
    lists = [[1, 2, 3], [1, 2, 3], other]
    frame |= {
        RAW["label"]: [[0, 1]] * 3,
        RAW["history_item"]: lists,
        RAW["history_category"]: lists,
    }
    for split in taobao_mm.SPLITS:
        (tmp_path / "raw" / split).mkdir(parents=True)
        file = tmp_path / "raw" / split / f"{split}-shard-000000.parquet"
        pl.DataFrame(frame).write_parquet(file, row_group_size=1 if pieces else None)
    fails(tmp_path / "raw", capsys, "train-shard-000000.parquet", "row 2", "another history")
