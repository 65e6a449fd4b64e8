"""Where a step's time goes: the arithmetic of spans, the ids of a step, and the whole command."""

import json
from argparse import Namespace

import pytest
import torch

from ctr.data.loader import Loader
from ctr.data.store import Store
from ctr.stages import Span
from tools.profile_step.__main__ import main
from tools.profile_step.ids import ids_per_sample, ids_sent
from tools.profile_step.spans import COMPUTE, overlap, stage_times
from tools.trained_run import opened_run


def test_overlap_is_what_lies_in_both():
    assert overlap([(0.0, 2.0), (3.0, 5.0)], [(1.0, 4.0)]) == pytest.approx(2.0)
    assert overlap([(0.0, 1.0)], [(1.0, 2.0)]) == 0.0


def test_stages_of_two_steps_and_what_runs_beside_them():
    spans = [
        Span("update", "MainThread", 0.0, 1.0),
        Span("forward", "MainThread", 1.0, 3.0),
        Span("update", "MainThread", 3.0, 4.0),
        Span("wait for the search", "MainThread", 4.0, 5.0),
        Span("forward", "MainThread", 5.0, 9.0),
        Span("update", "MainThread", 9.0, 10.0),
        Span("search", "search_0", 2.0, 5.0),
    ]
    steps = [(1.0, 4.0), (4.0, 10.0)]
    found = {(s.thread, s.name): s for s in stage_times(spans, steps)}
    assert found["main", "forward"].seconds == pytest.approx(3.0)
    assert found["main", "wait for the search"].seconds == pytest.approx(0.5)
    # Two seconds of the search lie beside the first forward and update, one beside the waiting.
    assert found["search", "search"].beside == pytest.approx(2 / 3)
    assert found["main", "forward"].beside is None
    assert [s.thread for s in stage_times(spans, steps)][-1] == "search"


def test_ids_are_counted_by_hand(opened):
    store: Store = opened.store
    split = store.split("train")
    batch = next(iter(Loader(store, split, batch_size=40, history_length=60)))
    ready = opened.network.prepare(batch)
    asked = 0
    picked = ready.retrieved.mask_BK.sum(1)
    for sample in range(len(batch)):
        begin, end = int(batch.history_begin_B[sample]), int(batch.history_end_B[sample])
        behaviours = min(end - begin, opened.config.model.recent_length) + int(picked[sample])
        # A behaviour has an item and a category; a target an item and every item feature.
        asked += 2 * behaviours + 1 + len(store.schema.item) + len(store.schema.user)
    assert ids_per_sample(ready) == asked
    tables = ready.wanted.lookup.distinct()
    assert (
        tables["item"]
        == torch.unique(
            torch.cat(
                [
                    batch.target_item_B,
                    batch.history_item_T.long()[ready.windows.position_R],
                    batch.history_item_T.long()[ready.retrieved.index_BK][ready.retrieved.mask_BK],
                    # Where nothing was picked stands the padding row.
                    torch.zeros(int((~ready.retrieved.mask_BK).any()), dtype=torch.int64),
                ]
            )
        ).numel()
    )
    assert ids_sent(ready) == sum(tables.values()) < asked


@pytest.fixture
def opened(trained):
    options = Namespace(run=trained.path, split=None, checkpoint="newest", store=None, device="cpu")
    with opened_run(options) as run:
        yield run


SETTINGS = ["data.history_length=60", "data.batch_size=40", "model.recent_length=10"]


def test_the_command_compares_three_manners(trained, tmp_path, capsys):
    store = f"data.store={trained.read_config().data.store}"
    numbers, trace = tmp_path / "numbers.json", tmp_path / "trace.json"
    counts = ["--steps", "4", "--warmup", "2", "--json", str(numbers), "--trace", str(trace)]
    assert main([store, *SETTINGS, "model.retrieved=12", *counts]) == 0
    said = capsys.readouterr().out
    assert "equal to the last bit" in said
    found = json.loads(numbers.read_text())
    assert set(found["manners"]) == {"in turn", "pipeline", "searched before"}
    assert {"forward", "backward", "update", "search"} <= {s["name"] for s in found["stages"]}
    assert found["ids_per_sample"] > found["ids_sent"] > 0
    events = [event for event in json.loads(trace.read_text())["traceEvents"] if "name" in event]
    threads = {event["name"]: event["tid"] for event in events if event.get("ph") == "X"}
    assert threads["search"] != threads["forward"]


def test_one_step_is_enough(trained, tmp_path):
    store, numbers = f"data.store={trained.read_config().data.store}", tmp_path / "numbers.json"
    counts = ["--steps", "1", "--warmup", "1", "--json", str(numbers)]
    assert main([store, *SETTINGS, "model.retrieved=12", *counts]) == 0
    found = json.loads(numbers.read_text())
    shares = {stage["name"]: stage["share"] for stage in found["stages"]}
    assert 0 < shares["forward"] < sum(shares[name] for name in COMPUTE) < 1


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--steps", "0"], "argument --steps: '0' given, must be a whole number of 1 or more"),
        (["--warmup", "²"], "argument --warmup: '²' given, must be a whole number"),
        (["--json", "/nowhere/a.json"], "--json /nowhere/a.json: no folder /nowhere; make it"),
        (["--trace", "/"], "--trace /: is a folder; name a file"),
    ],
)
def test_what_cannot_end_well_is_refused_before_anything_is_measured(
    trained, capsys, monkeypatch, arguments, reason
):
    monkeypatch.setattr("tools.profile_step.__main__.rehearse", None)
    store = f"data.store={trained.read_config().data.store}"
    with pytest.raises(SystemExit) as stop:
        main([store, *SETTINGS, "model.retrieved=12", *arguments])
    assert stop.value.code == 2
    assert reason in capsys.readouterr().err


def test_more_steps_than_an_epoch_has_are_refused(trained, capsys):
    store = f"data.store={trained.read_config().data.store}"
    with pytest.raises(SystemExit) as stop:
        main([store, *SETTINGS, "model.retrieved=12", "--steps", "100000"])
    assert stop.value.code == 2
    assert "an epoch has" in capsys.readouterr().err


def test_a_search_that_reads_trained_tables_is_refused(trained, capsys):
    store = f"data.store={trained.read_config().data.store}"
    counts = ["--steps", "4", "--warmup", "2"]
    with pytest.raises(SystemExit) as stop:
        main([store, *SETTINGS, "model=sim_soft", "model.retrieved=12", *counts])
    assert stop.value.code == 2
    assert "model.gsu=id_soft" in capsys.readouterr().err
