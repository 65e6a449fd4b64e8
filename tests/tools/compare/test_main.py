"""A comparison from its command line to its files, the commands that it starts replaced."""

import json
import sys

import pytest

from tools.compare import __main__ as compare
from tools.compare.plots import draw

BOTH = ("--variants", "a:model=muse", "b:model=din", "--seeds", "1", "2")


@pytest.fixture
def start(commands, tmp_path, monkeypatch):
    """Starts the tool, which only says what it would draw; returns its exit code."""
    monkeypatch.setattr(compare, "_machine", lambda: {"device": "a CPU"})
    monkeypatch.setattr(
        compare, "draw", lambda rows, sweep, title, path: path.write_text(f"{len(rows)}: {title}")
    )

    def started(*arguments):
        return compare.main([*arguments, "--out", str(tmp_path / "out")])

    return started


def table(tmp_path):
    return json.loads((tmp_path / "out" / "table.json").read_text())


def test_two_variants_with_two_seeds_make_a_table(start, commands, tmp_path, capsys):
    commands.figures = {"a-1": (0.75, 1.0), "a-2": (0.77, 3.0)}
    assert start(*BOTH, "data.batch_size=5", "--processes", "3", "--store", str(tmp_path)) == 0
    text = capsys.readouterr().out
    assert text.startswith("| variant | seeds | AUC | GAUC | log loss | training samples/s |")
    assert "| a | 2 | 0.7600 ± 0.0141 (0.6329 to 0.8871) | - | 0.5000 ± 0.0000" in text
    assert "| 1,000 | 1,500 / 25,000 | 100.00 | 2.0 (50.0%) | 512 |" in text
    assert text == (tmp_path / "out" / "table.md").read_text() + "\n"
    assert (tmp_path / "out" / "plot.png").read_text() == "2: store made, commit abc"
    found = table(tmp_path)
    row = found["rows"][0]
    assert (row["label"], row["seeds"], row["auc"]["values"]) == ("a", [1, 2], [0.75, 0.77])
    assert [run["search_ms_per_step"] for run in row["runs"]] == [50.0, 150.0]
    assert found["environments"] == [
        {
            "commit": "abc",
            "versions": {"torch": "2"},
            "store": "made",
            "machine": {"device": "a CPU"},
        }
    ]
    command = commands.arguments["train", "a-2"]
    assert "--nproc-per-node=3" in command
    common = [f"data.store={tmp_path}", "model=muse", "trainer.progress=false"]
    assert command[-5:] == ["seed=2", "data.batch_size=5", *common]


def test_a_store_at_a_url_is_passed_on_as_it_was_given(start, commands, tmp_path, capsys):
    only = ("--variants", "a:model=muse", "--seeds", "1")
    assert start(*only, "--store", "s3://bucket/world") == 0
    assert "data.store=s3://bucket/world" in commands.arguments["train", "a-1"]
    assert table(tmp_path)["store"] == "s3://bucket/world"
    with pytest.raises(SystemExit):
        start(*only, "--store", "s3://key:hidden@bucket/world")
    said = capsys.readouterr().err
    assert "error: --store: s3://...: what stands before an '@'" in said
    assert "hidden" not in said


def test_finished_runs_are_kept_and_an_interrupted_one_is_made_again(start, commands, tmp_path):
    commands.killed = ("evaluate", "a-2")
    with pytest.raises(KeyboardInterrupt):
        start(*BOTH)
    # As if that kill had come in the middle of the next training.
    (tmp_path / "out" / "b-1").mkdir()
    note = json.loads((tmp_path / "out" / "a-1" / "compare.json").read_text())
    note["settings"] = ["seed=1", "model=din", "trainer.progress=false"]
    (tmp_path / "out" / "b-1" / "compare.json").write_text(json.dumps(note))
    (tmp_path / "out" / "b-1" / "metrics.jsonl").write_text('{"kind": "train"}\n')
    (tmp_path / "out" / "b-1" / "left").write_text("half done")
    commands.killed = None
    commands.calls.clear()
    assert start(*BOTH) == 0
    assert commands.calls == [
        ("evaluate", "a-2"),
        *(("train", "b-1"), ("evaluate", "b-1"), ("train", "b-2"), ("evaluate", "b-2")),
    ]
    assert not (tmp_path / "out" / "b-1" / "left").exists()
    commands.calls.clear()
    assert start(*BOTH) == 0
    assert commands.calls == []


def test_a_run_that_fails_is_named_and_the_others_go_on(start, commands, tmp_path, capsys):
    commands.failing = {("train", "a-1"), ("evaluate", "b-2")}
    assert start(*BOTH) == 1
    said = capsys.readouterr().err
    assert "failed: a, seed 1: exit code 2 (error: trainer.lr=0: set more); see" in said
    assert "failed: b, seed 2: exit code 2" in said
    rows = table(tmp_path)["rows"]
    assert [(r["seeds"], r["failed_seeds"]) for r in rows] == [([2], [1]), ([1], [2])]
    assert len(table(tmp_path)["failures"]) == 2
    commands.failing.clear()
    commands.calls.clear()
    assert start(*BOTH) == 0
    assert commands.calls == [("train", "a-1"), ("evaluate", "a-1"), ("evaluate", "b-2")]


def test_where_all_fail_there_is_a_table_without_figures(start, commands, tmp_path, capsys):
    commands.failing = {("train", "a-1")}
    assert start("--variants", "a:model=muse", "--seeds", "1") == 1
    assert "| a | 0 | - | - | - | - | - / - | - | - | - |" in capsys.readouterr().out
    assert not (tmp_path / "out" / "plot.png").exists()


def test_a_folder_of_other_settings_or_of_others_is_not_touched(start, commands, tmp_path, capsys):
    assert start("--variants", "a:model=muse", "--seeds", "1") == 0
    with pytest.raises(SystemExit) as caught:
        start("--variants", "a:model=din", "--seeds", "1")
    assert caught.value.code == 2
    assert "a-1: was made with settings" in capsys.readouterr().err
    kept = tmp_path / "out" / "b-1" / "mine"
    kept.parent.mkdir()
    kept.write_text("precious")
    with pytest.raises(SystemExit):
        start("--variants", "b:model=din", "--seeds", "1")
    assert "b-1: not made by this tool" in capsys.readouterr().err
    assert kept.read_text() == "precious"


def test_a_sweep_has_a_row_for_each_point(start, commands, tmp_path):
    points = (10, 20, 50, 100, 200, 400)
    commands.figures = {f"muse-{p}-1": (0.6 + p / 1000, p / 10) for p in points}
    commands.failing = {("train", "muse-200-1")}
    assert start("--sweep", "sweep_k", "--models", "muse", "--seeds", "1") == 1
    found = table(tmp_path)
    assert found["swept"] == "model.retrieved"
    assert [row["point"] for row in found["rows"]] == [str(p) for p in points]
    assert [row["failed_seeds"] for row in found["rows"]] == [[], [], [], [], [1], []]
    text = (tmp_path / "out" / "table.md").read_text()
    assert text.startswith("| variant | model.retrieved | seeds | AUC |")
    assert "| muse | 10 | 1 | 0.6100 | - |" in text
    settings = ["experiment=sweep_k", "model=muse", "model.retrieved=400"]
    assert commands.arguments["train", "muse-400-1"][-4:-1] == settings


def test_without_matplotlib_there_is_a_table_and_a_word(start, commands, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    monkeypatch.setattr(compare, "draw", draw)
    assert start("--variants", "a:model=muse", "--seeds", "1") == 0
    assert "no plot: plots need matplotlib" in capsys.readouterr().err
