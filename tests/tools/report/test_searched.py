"""What `tools.search_report` wrote, and what it cannot have written."""

import json

import pytest

from tools.report.errors import ReportError
from tools.report.searched import read_search


@pytest.fixture
def written(make_run, tmp_path):
    return make_run(tmp_path / "run", gsu="cosine") / "gsu_test.json"


def test_what_is_read(written):
    found = read_search(written, "test")
    assert (found.gsu, found.k, found.samples) == ("cosine", 50, 1600)
    assert list(found.shares.values()) == [0.125, 0.31, 0.74]
    assert [name for name in found.shares if "category" in name]
    assert not [name for name in found.shares if "recent" in name]
    assert found.similarity.counts.tolist() == [0, 700, 300]
    assert read_search(written.with_name("gsu_valid.json"), "valid") is None


def test_what_was_not_counted_is_left_out(written):
    text = json.loads(written.read_text())
    text |= {"similarity": None, "attention_recall": None, "overlap": {}}
    written.write_text(json.dumps(text))
    found = read_search(written, "test")
    assert found.similarity is None
    assert list(found.shares.values()) == [0.125]


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"fewer_than_k": 1.5}, "1.5 is no share"),
        ({"overlap": {"recent": float("nan")}}, "nan is no share"),
        ({"age": {"edges": [1, 2], "counts": [1, 2]}}, "age: its edges and counts"),
        ({"age": {"edges": [1, 2, 2], "counts": [1, 2]}}, "age: its edges and counts"),
        ({"age": {"edges": [1, 2, 3], "counts": [1, -2]}}, "age: its edges and counts"),
        ({"similarity": {"edges": [0, 1]}}, "no 'counts'"),
        ({"similarity": 7}, "not subscriptable"),
        ({"k": "many"}, "invalid literal"),
        ({"overlap": 3}, "no attribute"),
    ],
)
def test_nonsense_is_refused_with_what_to_do(changes, told, written):
    written.write_text(json.dumps(json.loads(written.read_text()) | changes))
    with pytest.raises(ReportError, match=told) as stopped:
        read_search(written, "test")
    assert str(written) in str(stopped.value)
    assert "python -m tools.search_report" in str(stopped.value)
