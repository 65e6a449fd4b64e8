"""Stretches of a Parquet file are of the size asked for, and name the rows of what is wrong."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ctr.data import raw_file
from ctr.data.raw_file import RawFile, SamplesError


@pytest.fixture
def write(tmp_path):
    def write(columns, **options):
        pq.write_table(pa.table(columns), tmp_path / "file.parquet", **options)
        return RawFile(tmp_path / "file.parquet")

    return write


@pytest.mark.parametrize("rows", [1, 3, 7, 8, 40, 99])
@pytest.mark.parametrize("batch", [1, 4, 1 << 16])
def test_stretches_have_the_size_asked_for(write, monkeypatch, rows, batch):
    monkeypatch.setattr(raw_file, "_BATCH_ROWS", batch)
    file = write({"a": range(40), "b": range(40)}, row_group_size=7)
    found = list(file.stretches(["a"], rows))
    assert [s.first for s in found] == list(range(0, 40, rows))
    assert {s.table.num_rows for s in found[:-1]} <= {rows}
    assert [n for s in found for n in s.values("a").to_list()] == list(range(40))
    assert found[0].table.column_names == ["a"]


def test_no_rows_no_stretches(write):
    assert list(write({"a": pa.array([], pa.int64())}).stretches(["a"], 5)) == []


@pytest.mark.parametrize(
    ("given", "dtype"),
    [
        (pa.array([3, None, 5], pa.uint8()), "Int64"),
        (pa.array([3, None, 5], pa.uint64()), "Int64"),
        (pa.array([3, None, 5]).dictionary_encode(), "Int64"),
        (pa.array(["x", None, "y"]), "String"),
        (pa.array(["x", None, "y"]).dictionary_encode(), "String"),
        (pa.array(["x", None, "y"], pa.large_string()), "String"),
    ],
)
def test_columns_in_any_dress(write, given, dtype):
    file = write({"a": given})
    file.require_kind("a", dtype == "Int64", "ids")
    (stretch,) = file.stretches(["a"], 10)
    assert str(stretch.values("a").dtype) == dtype
    assert stretch.values("a").to_list() == given.to_pylist()
    with pytest.raises(SamplesError, match=r"column 'a', row 1: empty; give every row a value"):
        stretch.full_values("a")


@pytest.mark.parametrize(
    ("given", "integers"),
    [
        (pa.array(["x"]), True),
        (pa.array([1.0]), True),
        (pa.array([True]), True),
        (pa.array([], pa.float64()), True),
        (pa.array([1]), False),
        (pa.array([[1]]), True),
    ],
)
def test_a_column_of_another_type(write, given, integers):
    file = write({"a": given})
    wanted = "integers" if integers else "text"
    with pytest.raises(SamplesError, match=rf"column 'a', row 0: .*, of type .*; ids are {wanted}"):
        file.require_kind("a", integers, "ids")


def test_the_row_is_that_of_the_file(write):
    values = [*range(10), 2**63, 2**64 - 1]
    stretches = write({"a": pa.array(values, pa.uint64())}).stretches(["a"], 4)
    assert next(stretches).full_values("a").to_list() == [0, 1, 2, 3]
    assert next(stretches).full_values("a").to_list() == [4, 5, 6, 7]
    with pytest.raises(SamplesError, match=r"file\.parquet: column 'a', row 10: 92233720368547"):
        next(stretches).full_values("a")


def test_columns_that_are_not_there_or_twice(tmp_path, write):
    with pytest.raises(SamplesError, match="column 'c' is not there; the file has 'a', 'b'"):
        write({"a": [1], "b": [2]}).require(["a", "c"])
    table = pa.Table.from_arrays([pa.array([1]), pa.array([2])], names=["a", "a"])
    pq.write_table(table, tmp_path / "twice.parquet")
    with pytest.raises(SamplesError, match="column 'a' is there twice"):
        RawFile(tmp_path / "twice.parquet").require(["a"])


def test_a_page_that_changed(write, tmp_path):
    options = {"row_group_size": 1000, "compression": "none", "use_dictionary": False}
    file = write({"a": range(3000)}, write_page_checksum=True, **options)
    place = file._file.metadata.row_group(1).column(0).data_page_offset
    raw = bytearray((tmp_path / "file.parquet").read_bytes())
    raw[place + 5000] ^= 1
    (tmp_path / "file.parquet").write_bytes(raw)
    file = RawFile(tmp_path / "file.parquet")
    with pytest.raises(SamplesError, match=r"file\.parquet: damaged from row \d+ on"):
        list(file.stretches(["a"], 500))
    with pytest.raises(SamplesError, match=r"file\.parquet: row group 1 is damaged"):
        list(file.row_groups())
