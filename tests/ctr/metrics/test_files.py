"""Prediction files of any system: types, dictionaries, and what is wrong with a file."""

import datetime

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ctr.metrics import files
from ctr.metrics.files import PredictionFile
from ctr.metrics.ties import PredictionError, score_keys

LABEL, SCORE = [0, 1, 0, 1], np.array([0.1, 0.2, 0.3, 0.4], dtype=np.float32)


def write(path, **columns):
    pq.write_table(pa.table({"label": LABEL, "score": SCORE} | columns), path, row_group_size=3)
    return PredictionFile(path)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "p.parquet"


@pytest.mark.parametrize("label", [pa.bool_(), pa.int8(), pa.uint64(), pa.float32(), pa.float64()])
def test_labels_of_any_type(path, label):
    file = write(path, label=pa.array(LABEL, pa.int8()).cast(label))
    assert file.read_keys("label", "score").tolist() == score_keys(np.array(LABEL), SCORE).tolist()


def test_scores_keep_their_precision(path):
    fine = np.array([0.1, 0.1 + 1e-12, 0.3, 0.4])
    keys = write(path, score=fine).read_keys("label", "score")
    assert keys.dtype == np.uint64
    assert len(np.unique(keys >> np.uint64(1))) == 4


@pytest.mark.parametrize(
    ("values", "unknown", "place"),
    [
        ([5, 0, 5, 4_294_967_295], "0", 1),
        ([-1, 3, -1, 2**40], "-1", 0),
        (["b", "", "b", "long" * 9], "", 1),
        (pa.array(["b", "a", "b", "c"]).dictionary_encode(), "c", 3),
        (pa.array(["b", "a", "b", "c"], pa.large_string()), "a", 1),
        ([True, False, True, True], None, None),
        ([datetime.date(2024, 1, day) for day in (1, 2, 1, 3)], "2024-01-02", 1),
        ([7, 8, 7, 9], "1", None),
    ],
)
def test_groups_of_any_type(path, values, unknown, place):
    codes, code = write(path, user=values).read_codes("user", unknown)
    plain = values.to_pylist() if isinstance(values, pa.Array) else values
    for i in range(4):
        for j in range(4):
            assert (codes[i] == codes[j]) == (plain[i] == plain[j])
    assert code not in codes if place is None else code == codes[place]


@pytest.mark.parametrize("width", [1, 3, 1000])
def test_distinct_values_are_joined_over_batches(path, width, monkeypatch):
    monkeypatch.setattr(files, "_BATCH_ROWS", 16)
    monkeypatch.setattr(files, "_CODED_ROWS", 40)
    random = np.random.default_rng(width)
    user = [f"user {number}" for number in random.integers(0, width, 500)]
    file = write(path, label=np.zeros(500), score=np.zeros(500), user=user)
    codes, unknown = file.read_codes("user", "user 0")
    assert len(set(codes.tolist())) == len(set(user)) == len(set(zip(user, codes, strict=True)))
    assert unknown == (codes[user.index("user 0")] if "user 0" in user else None)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"score": [0.1, 0.2, 0.3, 1.5]}, "column 'score': row 3 is 1.5, must be a probability"),
        ({"score": [0.1, float("nan"), 0.3, 0.5]}, "column 'score': row 1 is nan"),
        ({"score": [0.1, 0.2, 0.3, None]}, "column 'score': row 3 is empty"),
        ({"score": ["a", "b", "c", "d"]}, "column 'score': of type string, must hold floating"),
        ({"label": [0, 1, 2, 0]}, "column 'label': values other than 0 and 1: row 2 is 2"),
        ({"label": [0, 1, None, 0]}, "column 'label': row 2 is empty"),
        ({"label": ["0", "1", "0", "1"]}, "column 'label': of type string, must hold 0 and 1"),
    ],
)
def test_a_value_that_must_not_be_is_named_with_file_column_and_row(path, columns, message):
    with pytest.raises(PredictionError) as raised:
        write(path, **columns).read_keys("label", "score")
    assert str(raised.value).startswith(f"{path}: {message}")


def test_groups_that_cannot_be_read(path):
    file = write(path, user=["a", None, "b", "b"], number=[1, 2, 3, 4])
    with pytest.raises(PredictionError, match="column 'user': row 1 is empty"):
        file.read_codes("user")
    with pytest.raises(PredictionError, match="has no column 'users'; it has 'label', 'score', "):
        file.read_codes("users")
    with pytest.raises(PredictionError, match="column 'number': 'x' is no value of it"):
        file.read_codes("number", "x")


def test_files_that_cannot_be_read(path):
    with pytest.raises(PredictionError, match="cannot be read as Parquet"):
        PredictionFile(path)
    path.write_bytes(b"label,score\n0,0.5\n")
    with pytest.raises(PredictionError, match="cannot be read as Parquet"):
        PredictionFile(path)
    pq.write_table(pa.table({"label": pa.array([], pa.int8())}), path)
    with pytest.raises(PredictionError, match="has no rows"):
        PredictionFile(path)


def test_a_damaged_page(path):
    rows = 5000
    write(path, label=np.zeros(rows), score=np.random.default_rng(0).random(rows))
    raw = bytearray(path.read_bytes())
    raw[2000:30000] = bytes(28000)
    path.write_bytes(raw)
    with pytest.raises(PredictionError, match="cannot be read"):
        PredictionFile(path).read_keys("label", "score")
