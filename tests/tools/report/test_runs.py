"""Folders of runs: damaged files are named, and runs get names that tell them apart."""

import json

import pytest

from ctr.errors import UserError
from tools.report.runs import ReportError, differing, read_runs, shown


def test_labels_are_as_short_as_tells_runs_apart(make_run, tmp_path):
    paths = [make_run(tmp_path / part) for part in ("a/x/run", "b/x/run", "c")]
    assert [run.label for run in read_runs(paths, "test")] == ["a/x/run", "b/x/run", "c"]
    assert [run.label for run in read_runs(paths[1:], "test")] == ["run", "c"]


def test_what_is_read(runs):
    din, muse = read_runs(runs, "test")
    assert (din.searches, muse.searches) == (False, True)
    assert din.search is None
    assert muse.config["model.gsu"] == "cosine"
    assert muse.environment["versions.torch"] == "2.13.0"
    # The last line was cut short by a kill.
    assert len(muse.log["train"]) == 40
    assert muse.log["summary"][0]["samples"] == 4000
    assert muse.evaluation is None


def test_what_differs():
    tables = [{"a": 1, "b": None, "run": "x"}, {"a": 1.0, "b": None, "run": "y", "c": "text"}]
    assert differing(tables) == ["a", "c"]
    assert [shown(table, "c") for table in tables] == ["–", "text"]
    assert shown(tables[0], "b") == "null"


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("environment.json", "{", "cannot be read"),
        ("environment.json", "[]", "holds no JSON object"),
        ("environment.json", '{"store": "world"}', "has no 'store_digest'"),
        ("environment.json", "[" * 100_000, "cannot be read"),
        ("evaluation_test.json", "nonsense", "cannot be read"),
        ("metrics.jsonl", '{"kind": "train"}\n', "line 1 is no row"),
        ("metrics.jsonl", '{"kind": "train", "step": 1}\n7\n', "line 2 is no row"),
        ("metrics.jsonl", "[" * 100_000 + "\n", "line 1 is no row"),
        ("config.yaml", "- 1\n", "expected keys and values"),
        ("config.yaml", "# sha256 of the lines below: 00\na: 1\n", "changed since"),
        ("gsu_test.json", '{"split": "valid"}', "it is of split valid"),
    ],
)
def test_damaged_files_are_named(name, text, told, make_run, tmp_path):
    run = make_run(tmp_path / "run")
    (run / name).write_text(text)
    with pytest.raises(UserError, match=told) as stopped:
        read_runs([run], "test")
    assert str(run / name) in str(stopped.value)


def test_a_configuration_of_another_release_is_shown(make_run, tmp_path):
    run = make_run(tmp_path / "run")
    (run / "config.yaml").write_text("model:\n  heads_of_another_release: 3\n")
    (found,) = read_runs([run], "test")
    assert found.config == {"model.heads_of_another_release": 3}


def test_a_store_of_the_same_name_is_not_the_same_store(make_run, tmp_path):
    runs = [make_run(tmp_path / digest, store=digest) for digest in ("aa", "bb")]
    with pytest.raises(ReportError, match="their rows cannot be compared"):
        read_runs(runs, "test")
    environment = json.loads((runs[1] / "environment.json").read_text())
    (runs[1] / "environment.json").write_text(json.dumps(environment | {"store_digest": "aa"}))
    assert len(read_runs(runs, "test")) == 2
