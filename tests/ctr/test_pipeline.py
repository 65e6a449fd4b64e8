"""Runs with batches in flight: what counts as read, what is resumed, what stops a step."""

import json

import pytest
import torch

from ctr.data.loader import Loader
from ctr.model.prepared import Prepared
from ctr.parts import make_parts
from ctr.pipeline import Pipeline
from ctr.run_folder import RunFolder
from ctr.train import run


@pytest.fixture
def config(config, tmp_path):
    config.data.batch_size = 170
    config.model.hidden = [16]
    config.trainer.progress = False
    config.trainer.log_every = 1
    config.run = str(tmp_path / "run")
    return config


@pytest.fixture
def ahead(store, config, process):
    """A pipeline that works ahead, and its loader."""
    config.trainer.pipeline = "true"
    parts = make_parts(config, store, process)
    return parts.pipeline, parts.loader


def test_steps_come_whole_in_order_and_count_when_they_are_handed_out(store, ahead):
    pipeline, loader = ahead
    plain = Loader(store, loader.split, batch_size=170, history_length=60, seed=loader.seed)
    read = 0
    for step, batch in zip(pipeline.steps(loader), plain, strict=True):
        assert isinstance(step.inputs, Prepared)
        assert torch.equal(step.host.sample_B, batch.sample_B)
        assert torch.equal(step.inputs.batch.sample_B, batch.sample_B)
        read += batch.step_samples
        assert loader.state_dict() == {"epoch": 0, "samples_done": read}
    assert loader.state_dict() == {"epoch": 1, "samples_done": 0}


def test_what_is_in_flight_when_reading_stops_is_read_again(ahead):
    pipeline, loader = ahead
    order = [step.host.sample_B for step in pipeline.steps(loader)]
    loader.load_state_dict({"epoch": 0, "samples_done": 0})
    first = []
    for step in pipeline.steps(loader):
        first.append(step.host.sample_B)
        if len(first) == 3:
            break
    rest = [step.host.sample_B for step in pipeline.steps(loader)]
    assert torch.equal(torch.cat(first + rest), torch.cat(order))


def test_a_resumed_run_equals_a_whole_one(config, process, tmp_path):
    losses = {}
    for name, steps in (("whole", (7,)), ("resumed", (3, 7))):
        config.run, config.resume = str(tmp_path / name), "false"
        config.trainer.pipeline = "true"
        for count in steps:
            config.trainer.max_steps = count
            run(config, process)
            config.resume = "true"
        rows = (RunFolder(config.run_path).metrics).read_text().splitlines()
        losses[name] = [r["loss"] for r in map(json.loads, rows) if r["kind"] == "train"]
    assert len(losses["whole"]) == 7
    assert losses["resumed"] == losses["whole"]


def test_a_search_that_reads_trained_tables_is_not_done_ahead(store, config, process):
    config.model.gsu = "id_soft"
    config.trainer.pipeline = "true"
    parts = make_parts(config, store, process)
    step = next(iter(parts.pipeline.steps(parts.loader)))
    assert step.inputs is step.batch


def test_what_goes_wrong_in_the_search_stops_the_step(ahead, monkeypatch):
    pipeline, loader = ahead

    def fails(batch):
        raise ValueError("no such row")

    monkeypatch.setattr(pipeline.network, "prepare", fails)
    with pytest.raises(ValueError, match="no such row"):
        next(iter(pipeline.steps(loader)))


def test_in_turn_nothing_is_prepared(store, config, process):
    parts = make_parts(config, store, process)
    pipeline = Pipeline(parts.pipeline.network, process.device, ahead=False)
    step = next(iter(pipeline.steps(parts.loader)))
    assert step.inputs is step.batch
