"""The loop's answers to what goes wrong: numbers that are none, SIGTERM, checkpoints that fail."""

import math
import os
import signal

import pytest
import torch

import ctr.step
from ctr import checkpoint
from ctr.checkpoint import CheckpointError, folder
from ctr.config import TrainerConfig
from ctr.distributed import make_deterministic
from ctr.faults import SpikeWatch
from ctr.run_folder import RunFolder
from ctr.schedule import rate_factor
from ctr.train import run
from ctr.trainer import StoppedError
from tests.ctr.saved import assert_same, elsewhere, rows_of, tensors_of


@pytest.fixture
def config(short_run):
    return short_run


def test_a_run_without_a_gpu_is_resumed_on_one(config, process, monkeypatch):
    config.trainer.max_steps = 2
    run(config, process)
    mine = ctr.trainer.random_tensors
    monkeypatch.setattr(
        ctr.trainer, "random_tensors", lambda p: {**mine(p), "random.0.cuda": torch.zeros(16)}
    )
    config.resume, config.trainer.max_steps = "true", 4
    assert run(config, process)["steps"] == 4


@pytest.mark.parametrize("optimizer", ["rowwise_adagrad", "dense_adam"])
def test_sigterm_saves_and_the_resumed_run_equals_an_uninterrupted_one(
    config, process, loss_at, tmp_path, optimizer
):
    config.embedding.optimizer, config.embedding.weight_decay = optimizer, 1e-3
    if optimizer == "dense_adam":
        config.embedding.sharding = ["data_parallel"]

    def interrupt(loss, logits):
        os.kill(os.getpid(), signal.SIGTERM)
        return loss

    handler = signal.getsignal(signal.SIGTERM)
    loss_at(3, interrupt)
    with pytest.raises(StoppedError, match="after step 3"):
        run(config, process)
    assert signal.getsignal(signal.SIGTERM) is handler
    newest = checkpoint.newest(RunFolder(config.run_path).checkpoints)
    assert newest.progress["step"] == 3
    config.resume = "auto"
    run(config, process)
    stopped, rows = tensors_of(config, 6), rows_of(config, "train")
    config.resume = "false"
    config = elsewhere(config, tmp_path)
    run(config, process)
    assert_same(stopped, tensors_of(config, 6))
    for row in [*rows, *rows_of(config, "train")]:
        del row["samples_per_s"]
    assert rows == [
        {k: v for k, v in row.items() if k != "samples_per_s"} for row in rows_of(config, "train")
    ]


@pytest.fixture
def failing(monkeypatch):
    """Lets the writing of one step's checkpoint fail as on a full disk."""

    def install(step):
        def fail(aside, final, number, progress):
            if number == step:
                raise OSError(28, "No space left on device")
            original(aside, final, number, progress)

        monkeypatch.setattr(folder, "complete", fail)

    original = folder.complete
    return install


@pytest.mark.parametrize("beside", [True, False])
def test_a_checkpoint_that_fails_may_be_gone_without(config, process, failing, beside):
    config.trainer.on_save_failure = "continue"
    config.trainer.async_checkpoints = beside
    failing(4)
    summary = run(config, process)
    assert summary["failed_checkpoints"] == 1
    names = sorted(p.name for p in RunFolder(config.run_path).checkpoints.iterdir())
    assert names == ["step-000000002", "step-000000006"]


@pytest.mark.parametrize("beside", [True, False])
def test_a_checkpoint_that_fails_stops(config, process, failing, beside):
    config.trainer.async_checkpoints = beside
    failing(4)
    with pytest.raises(CheckpointError, match=r"step-000000004: cannot be written.*No space left"):
        run(config, process)
    names = [p.name for p in RunFolder(config.run_path).checkpoints.iterdir()]
    assert names == ["step-000000002"]


@pytest.fixture
def validations(config, monkeypatch):
    """Gives epochs of a few steps the AUCs that a test names, run after run; keeps the best."""

    def install(*values):
        found = iter(values)
        monkeypatch.setattr(
            "ctr.parts.make_validation", lambda *rest: lambda: {"auc": next(found), "gauc": 0.5}
        )

    config.data.valid_split = "test"
    config.trainer.keep_best = "auc"
    config.trainer.max_steps = config.trainer.checkpoint_every = None
    config.data.batch_size = 900
    return install


def test_the_best_checkpoint_is_kept_and_found(config, process, validations):
    validations(0.6, 0.8, 0.7, 0.75)
    config.trainer.epochs = 4
    config.trainer.keep_checkpoints = 1
    steps = run(config, process)["steps"]
    folder_of_all = RunFolder(config.run_path).checkpoints
    assert checkpoint.newest(folder_of_all).progress["step"] == steps
    assert checkpoint.best(folder_of_all).progress["step"] == steps // 4 * 2
    assert len(list(folder_of_all.iterdir())) == 2


def test_a_validation_that_follows_a_checkpoint_of_its_step_is_in_it(config, process, validations):
    validations(0.6)
    config.trainer.max_steps, config.trainer.checkpoint_every = 1, 1
    run(config, process)
    assert checkpoint.best(RunFolder(config.run_path).checkpoints).progress["step"] == 1


def test_patience_ends_a_run_and_its_resumption(config, process, validations):
    validations(0.6, 0.5, 0.55, 0.9)
    config.trainer.epochs, config.trainer.patience = 4, 2
    summary = run(config, process)
    assert summary["stopped_early"] is True
    folder_of_all = RunFolder(config.run_path).checkpoints
    assert checkpoint.best(folder_of_all).progress["step"] == summary["steps"] // 3
    config.resume = "auto"
    assert run(config, process)["steps"] == summary["steps"]
    config.trainer.patience = 3
    summary = run(config, process)
    assert summary["stopped_early"] is False
    assert checkpoint.best(folder_of_all).progress["step"] == summary["steps"]


def test_a_plateau_goes_on_after_a_resume_as_if_nothing_had_happened(
    config, process, validations, loss_at, tmp_path
):
    def interrupt(loss, logits):
        os.kill(os.getpid(), signal.SIGTERM)
        return loss

    values = (0.6, 0.5, 0.4)
    config.trainer.epochs, config.trainer.plateau = 3, 0.5
    validations(*values)
    steps = run(config, process)["steps"]
    whole = tensors_of(config, steps)
    config.run = str(tmp_path / "stopped")
    validations(*values)
    loss_at(steps - 1, interrupt)
    with pytest.raises(StoppedError, match=f"after step {steps - 1}"):
        run(config, process)
    config.resume = "auto"
    run(config, process)
    assert_same(tensors_of(config, steps), whole)
    # The rates were halved for the last epoch only, for the dense part and for the tables.
    config = elsewhere(config, tmp_path, plateau=None)
    validations(*values)
    run(config, process)
    for name, tensor in tensors_of(config, steps).items():
        if name.startswith("model.") and tensor.is_floating_point():
            assert not torch.equal(tensor, whole[name]), name


def test_without_a_best_one_says_so(config, process):
    run(config, process)
    with pytest.raises(CheckpointError, match=r"no best checkpoint.*trainer\.keep_best"):
        checkpoint.best(RunFolder(config.run_path).checkpoints)


def test_a_warmup_begins_at_nothing_for_tables_and_dense_part(config, process, tmp_path):
    config.trainer.max_steps = 1
    config.trainer.warmup = 0.5
    config.trainer.weight_decay = 0.0
    run(config, process)
    still = tensors_of(config, 1)
    config = elsewhere(config, tmp_path, warmup=0.0, lr=1e-12)
    config.embedding.lr = 1e-12
    run(config, process)
    for name, tensor in tensors_of(config, 1).items():
        if name.startswith("model."):
            torch.testing.assert_close(still[name], tensor, atol=1e-9, rtol=0)
    config.trainer.lr = config.embedding.lr = 0.1
    config.run = str(tmp_path / "third")
    run(config, process)
    moved = tensors_of(config, 1)
    tables = [n for n in moved if n.startswith("model.") and "embeddings" in n]
    assert tables
    assert any(not torch.equal(moved[n], still[n]) for n in tables)


@pytest.mark.parametrize(
    ("schedule", "warmup", "done", "factor"),
    [
        ("constant", 0.0, 0.0, 1.0),
        ("constant", 0.2, 0.1, 0.5),
        ("linear", 0.0, 0.25, 0.75),
        ("linear", 0.5, 0.75, 0.5),
        ("cosine", 0.0, 0.5, 0.5),
        ("cosine", 0.0, 1.0, 0.0),
        ("cosine", 0.1, 0.1, 1.0),
    ],
)
def test_rates_follow_the_schedule(schedule, warmup, done, factor):
    config = TrainerConfig(schedule=schedule, warmup=warmup)
    assert rate_factor(done, config) == pytest.approx(factor, abs=1e-12)


def test_a_loss_that_jumps_is_a_spike_and_a_noisy_one_is_not():
    watch = SpikeWatch(6.0)
    losses = [0.5 + 0.01 * math.sin(7.0 * i) for i in range(60)]
    assert not any(watch.add(loss) for loss in losses)
    other = SpikeWatch(6.0)
    other.restore(watch.state())
    assert other.add(0.9)
    assert not SpikeWatch(None).add(1e9)


def test_tables_in_half_precision_learn_and_resume_as_they_were(config, process, tmp_path):
    config.embedding.precision = "fp16"
    config.embedding.init_std = 0.1
    run(config, process)
    whole = tensors_of(config, 6)
    tables = {name for name in whole if ".embeddings." in name and name.startswith("model.")}
    assert {whole[name].dtype for name in tables} == {torch.float16}
    states = {n for n in whole if n.startswith("sparse_optimizer.")}
    assert {whole[name].dtype for name in states} == {torch.float32}
    config = elsewhere(config, tmp_path, max_steps=4)
    run(config, process)
    before = tensors_of(config, 4)
    config.resume, config.trainer.max_steps = "true", 6
    run(config, process)
    assert_same(tensors_of(config, 6), whole)
    assert any(not torch.equal(before[name], whole[name]) for name in tables)


def test_a_run_needs_no_operation_that_the_switch_refuses(config, process):
    make_deterministic(True)
    try:
        with pytest.raises(RuntimeError, match="deterministic"):
            torch.zeros(2).put_(torch.tensor([0, 0]), torch.ones(2))
        assert run(config, process)["steps"] == 6
    finally:
        make_deterministic(False)
    assert not torch.are_deterministic_algorithms_enabled()


def test_what_is_written_beside_training_is_the_state_of_its_step(tmp_path, process):
    tensors = {"model.table": torch.arange(200_000.0), "model.bias": torch.ones(3)}
    keeper = checkpoint.Checkpointer(tmp_path, TrainerConfig())
    keeper.save(5, tensors, {})
    for tensor in tensors.values():
        tensor.fill_(-1.0)
    keeper.wait()
    found = {name: torch.zeros_like(tensor) for name, tensor in tensors.items()}
    checkpoint.load(checkpoint.newest(tmp_path), found)
    assert torch.equal(found["model.table"], torch.arange(200_000.0))
    assert torch.equal(found["model.bias"], torch.ones(3))
