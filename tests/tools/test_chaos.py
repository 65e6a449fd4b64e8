"""A few kills through the code of `make chaos`, and that its comparison finds what it must."""

import dataclasses
import itertools
import json
import random

import pytest
import torch

from ctr import checkpoint
from tools.chaos.__main__ import figures, holds, plan, run_cases, short_plan, table
from tools.chaos.ending import count_samples, damaged_loads, differences, read_ending
from tools.chaos.points import PREPARING, RESUMING, STAGES, Point
from tools.chaos.start import Result, mark_of, start, worker
from tools.chaos.worker import resolve

# torch warns that the checkpoints of these tests are written by one process.
pytestmark = pytest.mark.filterwarnings("ignore:torch.distributed is disabled")


@pytest.mark.slow
def test_killed_and_resumed_runs_end_as_if_nothing_had_happened(tmp_path, capsys):
    chance = random.Random(0)
    results = run_cases(short_plan(chance), tmp_path / "chaos", chance)
    shown = capsys.readouterr().out
    assert holds(results), shown
    assert figures(results) == {
        "kills": 5,
        "resumes": 5,
        "bit-equal endings": 5,
        "samples seen twice": 0,
        "samples missed": 0,
        "damaged checkpoints used": 0,
    }
    assert "newest damaged; from step" in shown


@pytest.fixture
def make_run(tmp_path):
    """Writes the folder of a run of 2 epochs of 4 samples, 2 a step, on 2 processes."""

    def make(name, tensor=0.0, loss=0.5, steps=((0, 1), (2, 3), (3, 1), (0, 2)), best=0.7):
        run = tmp_path / name
        tensors = {"model.weight": torch.tensor([1.0, tensor, float("nan")])}
        progress = {"seconds": random.random(), "best": {"step": 4, "value": best}}
        checkpoint.save(tensors, checkpoint.Writer(run / "checkpoints", 4, progress, keep=2))
        rows = [{"kind": "train", "step": 4, "loss": loss, "samples_per_s": random.random()}]
        (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        (run / "samples").mkdir()
        for rank in range(2):
            lines = [
                json.dumps({"step": step, "samples": [ids[rank]] if rank < len(ids) else []})
                for step, ids in enumerate(steps, 1)
            ]
            (run / "samples" / f"rank-{rank:04d}.jsonl").write_text("\n".join(lines) + "\n")
        return read_ending(run)

    return make


def test_equal_runs_have_no_differences(make_run):
    assert differences(make_run("a"), make_run("b")) == []


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"tensor": 1e-45}, "model.weight differs"),
        ({"tensor": -0.0}, "model.weight differs"),
        ({"loss": 0.5 + 2**-53}, "metrics differ"),
        ({"best": 0.7000000000000001}, "progress"),
        ({"steps": ((0, 1), (2, 3), (1, 3), (0, 2))}, "samples of the steps differ"),
    ],
)
def test_a_difference_in_the_last_bit_is_found(make_run, change, told):
    (problem,) = differences(make_run("a", **change), make_run("b"))
    assert told in problem


def test_missing_and_foreign_things_are_found(make_run, tmp_path):
    whole, other = make_run("a"), make_run("b")
    del other.tensors["step-000000004"]["model.weight"]
    assert "one run only" in differences(other, whole)[0]
    assert "checkpoints []" in differences(dataclasses.replace(whole, tensors={}), whole)[0]
    (tmp_path / "a" / "checkpoints" / "step-000000008.tmp").mkdir()
    assert differences(read_ending(tmp_path / "a"), whole) == ["left behind: step-000000008.tmp"]
    assert "their number" in differences(dataclasses.replace(whole, rows=[]), whole)[0]


@pytest.mark.parametrize(
    ("steps", "twice", "missed"),
    [
        (((0, 1), (2, 3), (3, 1), (0, 2)), 0, 0),
        (((0, 1), (2, 3), (3, 1), (0, 3)), 1, 1),
        (((0, 1), (2, 3), (3, 1), (0,)), 0, 1),
        (((0, 1), (2, 3), (3, 1), (0, 2), (0, 2)), 2, 0),
        (((0, 1), (0, 1), (3, 1), (0, 2)), 2, 2),
        (((0, 1), (2, 3)), 0, 4),
    ],
)
def test_samples_are_counted_in_each_epoch(make_run, steps, twice, missed):
    assert count_samples(make_run("a", steps=steps).samples, size=4, epochs=2) == (twice, missed)


def test_rows_that_a_resume_should_have_dropped_are_counted():
    """The same step is logged twice: in one file, or by a process that is no longer there."""
    assert count_samples({0: [(1, [0, 1]), (1, [0, 1])]}, size=2, epochs=1) == (2, 0)
    assert count_samples({0: [(1, [0, 1])], 1: [(1, [1])]}, size=2, epochs=1) == (1, 0)


def test_a_damaged_checkpoint_that_is_loaded_counts(tmp_path):
    rows = [{"step": 3, "files": {"a": "1"}}, {"step": 6, "files": {"a": "2"}}]
    (tmp_path / "written.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    assert damaged_loads(tmp_path) == 0
    (tmp_path / "loaded.jsonl").write_text(json.dumps(rows[1]) + "\n")
    assert damaged_loads(tmp_path) == 0
    rows[1]["files"]["a"] = "3"
    (tmp_path / "loaded.jsonl").write_text(json.dumps(rows[1]) + "\n")
    assert damaged_loads(tmp_path) == 1


@pytest.mark.parametrize("kills", [1, 7, 30])
def test_a_plan_has_as_many_kills_as_asked_for(kills):
    cases = plan(kills, [1, 2, 4], random.Random(kills))
    points = [point for case in cases for point in case.points]
    assert len(points) == kills
    assert all(point.rank < max(1, case.processes) for case in cases for point in case.points)
    if kills == 30:
        assert {point.stage for point in points} >= {*STAGES, "preparation", "resuming"}
        assert {case.processes for case in cases} == {0, 1, 2, 4}
        assert any(case.damage for case in cases)


PLACES = [*itertools.chain(*STAGES.values()), *RESUMING, *PREPARING]


@pytest.mark.parametrize("function", sorted({place.function for place in PLACES}))
def test_what_a_process_dies_in_is_a_function_of_that_name(function):
    owner, name = resolve(function)
    assert callable(getattr(owner, name))


def test_a_function_that_has_moved_is_named():
    with pytest.raises(AttributeError, match=r"ctr\.distributed:shard: no such function"):
        resolve("ctr.distributed:shard")


def test_figures_fail_for_any_fault():
    good = Result(kills=1, resumes=1, equal=True)
    assert holds([good])
    for fault in ("twice", "missed", "damaged"):
        assert not holds([good, dataclasses.replace(good, **{fault: 1})])
    assert not holds([dataclasses.replace(good, equal=False)])
    assert not holds([dataclasses.replace(good, resumes=0)])
    assert not holds([dataclasses.replace(good, problems=["a process outlived the run"])])
    assert "bit-equal endings             1" in table([good])


def test_a_worker_dies_at_its_point_and_only_once(tmp_path):
    """The program looks for a store where there is none, which is an error of its own."""
    program = ["datasets.store", "verify", str(tmp_path / "store")]

    def code(key, call):
        point = Point("any", "datasets.verify:read_manifest", "before", call)
        return start(tmp_path / "log", worker(tmp_path, key, point, program))

    assert code("first", call=1) == -9
    assert mark_of(tmp_path, "first").exists()
    assert code("first", call=1) > 0
    assert "no such file" in (tmp_path / "log").read_text()
    assert code("second", call=2) > 0
    assert not mark_of(tmp_path, "second").exists()
