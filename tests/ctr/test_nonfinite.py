"""Losses and gradients that are no number: what is skipped, what stops, and what is kept of it."""

import math
import os
import signal

import pytest
import torch

import ctr.step
from ctr import checkpoint
from ctr.evidence import read_batch
from ctr.run_folder import RunFolder
from ctr.stages import Stages
from ctr.step import TrainingError
from ctr.train import run
from ctr.trainer import StoppedError
from tests.ctr.saved import assert_same, elsewhere, rows_of, tensors_in, tensors_of


@pytest.fixture
def config(short_run):
    return short_run


def test_a_loss_that_is_no_number_stops_with_batch_and_state(config, process, loss_at):
    loss_at(3, lambda loss, logits: loss * math.nan)
    with pytest.raises(TrainingError, match=r"step 3: the loss is not finite.*replay_batch"):
        run(config, process)
    evidence = RunFolder(config.run_path).nonfinite
    batch = read_batch(evidence / "step-000000003.rank-0000.pt")
    assert len(batch) == 100
    state = checkpoint.read(evidence / "step-000000003")
    assert state.progress["what"] == "loss"
    assert all(tensor.isfinite().all() for tensor in tensors_in(state.path).values())
    assert checkpoint.newest(RunFolder(config.run_path).checkpoints).progress["step"] == 2


def test_evidence_of_a_gradient_holds_no_trace_of_the_step(config, process, loss_at):
    """The tables are updated within the backward pass, before anyone sees the gradient."""

    def steep(loss, logits):
        # Finite, but for its gradient.
        return loss + (logits - logits.detach()).abs().sqrt().sum()

    loss_at(3, steep)
    with pytest.raises(TrainingError, match="step 3: the gradient is not finite"):
        run(config, process)
    state = checkpoint.read(RunFolder(config.run_path).nonfinite / "step-000000003")
    assert state.progress["what"] == "gradient"
    before, found = tensors_of(config, 2), tensors_in(state.path)
    for name, tensor in found.items():
        assert tensor.isfinite().all(), name
        if "running" in name:
            assert torch.equal(tensor, before[name]), name
    assert any("running" in name for name in found)


@pytest.mark.parametrize("cause", ["sigterm", "loss"])
def test_what_is_saved_in_between_has_the_time_of_a_checkpoint(
    cause, config, process, loss_at, monkeypatch
):
    stages = Stages()
    seen = []

    def note(original):
        def noted(*args, **kwargs):
            seen.append(stages.now.name)
            return original(*args, **kwargs)

        return noted

    def fail(loss, logits):
        if cause == "loss":
            return loss * math.nan
        os.kill(os.getpid(), signal.SIGTERM)
        return loss

    loss_at(3, fail)
    monkeypatch.setattr("ctr.train.Stages", lambda: stages)
    for name in ("wait", "save"):
        original = getattr(checkpoint.Checkpointer, name)
        monkeypatch.setattr(checkpoint.Checkpointer, name, note(original))
    monkeypatch.setattr("ctr.step.write_batch", note(ctr.step.write_batch))
    with pytest.raises((TrainingError, StoppedError)):
        run(config, process)
    assert len(seen) > 3
    assert set(seen) == {"checkpoint"}


def test_a_skipped_loss_changes_nothing_and_is_counted(config, process, loss_at, tmp_path):
    config.trainer.on_nonfinite = "skip"
    config.trainer.max_steps = 2
    run(config, process)
    before = tensors_of(config, 2)
    config = elsewhere(config, tmp_path, max_steps=3)
    loss_at(3, lambda loss, logits: loss * math.inf)
    assert run(config, process)["skipped_steps"] == 1
    assert rows_of(config, "skipped") == [
        {"kind": "skipped", "step": 3, "what": "loss", "skipped": 1}
    ]
    assert_same(tensors_of(config, 3), before)


def test_a_skipped_gradient_leaves_every_weight_a_number(config, process, loss_at, tmp_path):
    config.trainer.on_nonfinite = "skip"
    config.trainer.max_steps = 2
    run(config, process)
    before = tensors_of(config, 2)
    config = elsewhere(config, tmp_path, max_steps=3)
    # The root of 0 has an infinite slope, and infinity times 0 is no number.
    loss_at(3, lambda loss, logits: loss + (logits * 0).abs().sqrt().sum())
    assert run(config, process)["skipped_steps"] == 1
    after = tensors_of(config, 3)
    for name, tensor in after.items():
        assert tensor.isfinite().all(), name
        if name.startswith("dense_optimizer."):
            assert torch.equal(tensor, before[name]), name


def test_a_gradient_that_is_no_number_stops(config, process, loss_at):
    loss_at(2, lambda loss, logits: loss + (logits * 0).abs().sqrt().sum())
    with pytest.raises(TrainingError, match="step 2: the gradient is not finite"):
        run(config, process)
