"""Whole runs with real processes: torchrun, evaluation on other numbers of processes, resume."""

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml

from ctr.slices import SLICE_COLUMNS
from datasets import taobao_mm
from tests import starter

SMALL_MODEL = [
    "data.batch_size=125",
    "data.history_length=200",
    "model.recent_length=20",
    "model.retrieved=20",
    "model.hidden=[64,32]",
    "trainer.lr=2e-3",
    "embedding.lr=0.05",
    "trainer.log_every=10",
    "trainer.progress=false",
]


@pytest.fixture(scope="module")
def world(make_world):
    """Large enough for a model to learn something."""
    return make_world(users=1500, history_length=200, items=8000, categories=40, seed=2)


def launch(processes, script, *arguments, expect=0):
    done = starter.run(processes, f"ctr/{script}", *arguments)
    assert (done.returncode == 0) == (expect == 0), done.stdout[-2000:] + done.stderr[-4000:]
    return done


@pytest.fixture(scope="module")
def torchrun(repository):
    """The command itself, as a user types it."""

    def start(processes, script, *arguments):
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
        command += [f"--nproc-per-node={processes}", f"ctr/{script}", *arguments]
        environment = {**os.environ, "PYTHONPATH": str(repository), "PYTHONWARNINGS": "ignore"}
        done = subprocess.run(
            command, cwd=repository, env=environment, capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]

    return start


@pytest.fixture(scope="module")
def trained(world, torchrun, tmp_path_factory):
    run = tmp_path_factory.mktemp("runs") / "muse"
    torchrun(2, "train.py", f"data.store={world}", f"run={run}", *SMALL_MODEL)
    return run


def rows_of(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_loss_falls_and_auc_beats_the_floor(trained, world, torchrun):
    losses = [row["loss"] for row in rows_of(trained) if row["kind"] == "train"]
    assert losses[-1] < losses[0] - 0.05
    torchrun(1, "evaluate.py", f"run={trained}", "progress=false")
    found = json.loads((trained / "evaluation_test.json").read_text())
    split = {n: np.load(world / "splits" / "train" / f"{n}.npy") for n in ("item", "label")}
    test = {n: np.load(world / "splits" / "test" / f"{n}.npy") for n in ("item", "label")}
    size = int(max(split["item"].max(), test["item"].max())) + 1
    shown = np.bincount(split["item"], minlength=size)
    clicked = np.bincount(split["item"], weights=split["label"], minlength=size)
    smoothed = (clicked + 10 * split["label"].mean()) / (shown + 10)
    from sklearn.metrics import roc_auc_score

    floor = roc_auc_score(test["label"], smoothed[test["item"]])
    assert found["auc"] > floor + 0.03
    assert found["gauc"] > 0.6


def test_evaluation_is_the_same_on_any_number_of_processes(trained, world):
    metrics, scores, columns = [], [], []
    for processes in (1, 3, 4):
        launch(processes, "evaluate.py", f"run={trained}", "progress=false")
        metrics.append(json.loads((trained / "evaluation_test.json").read_text()))
        table = pq.read_table(trained / "predictions_test.parquet")
        samples = len(np.load(world / "splits" / "test" / "label.npy"))
        assert table["sample"].to_pylist() == list(range(samples))
        scores.append(table["score"].to_numpy())
        columns.append({name: table[name].to_numpy() for name in SLICE_COLUMNS})
    for other, found in zip(scores[1:], metrics[1:], strict=True):
        np.testing.assert_allclose(scores[0], other, atol=1e-6)
        for name, value in metrics[0].items():
            assert found[name] == pytest.approx(value, abs=1e-6), name
    for other in columns[1:]:
        for name, column in columns[0].items():
            np.testing.assert_array_equal(column, other[name], name)


def test_openmp_waits_passively_in_training(repository):
    """libgomp reads its policy when torch is loaded, so ctr must be imported before torch."""
    script = "import ctr.train, torch; torch.ones(9).sum()"
    environment = {**os.environ, "PYTHONPATH": str(repository), "OMP_DISPLAY_ENV": "VERBOSE"}
    environment.pop("OMP_WAIT_POLICY", None)
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True
    )
    assert "OMP_WAIT_POLICY = 'PASSIVE'" in done.stderr


def test_run_folder_tells_how_it_was_made(trained):
    config = yaml.safe_load((trained / "config.yaml").read_text())
    assert config["model"]["retrieved"] == 20
    assert config["trainer"]["epochs"] == 1
    environment = json.loads((trained / "environment.json").read_text())
    assert {"torch", "torchrec"} <= environment["versions"].keys()
    assert list((trained / "tensorboard").iterdir())
    assert rows_of(trained)[-1]["kind"] == "summary"


def test_resumed_run_equals_an_uninterrupted_one(trained, world, tmp_path):
    run = tmp_path / "stopped"
    launch(2, "train.py", f"data.store={world}", f"run={run}", *SMALL_MODEL, "trainer.max_steps=30")
    assert rows_of(run)[-1]["steps"] == 30
    launch(2, "train.py", f"run={run}", "resume=true", "trainer.max_steps=null")
    for folder in (run, trained):
        launch(1, "evaluate.py", f"run={folder}", "progress=false")
    resumed, whole = (pq.read_table(f / "predictions_test.parquet") for f in (run, trained))
    assert resumed["score"].to_numpy().tolist() == whole["score"].to_numpy().tolist()
    steps = [row["step"] for row in rows_of(run)]
    assert steps == sorted(steps), "rows of before the resume came twice"
    assert rows_of(run)[-1]["samples"] == rows_of(trained)[-1]["samples"]


def test_resumes_on_another_number_of_processes(trained, world, tmp_path):
    """The same steps of 250 samples, the first 30 on two processes and the rest on one."""
    run = tmp_path / "moved"
    launch(2, "train.py", f"data.store={world}", f"run={run}", *SMALL_MODEL, "trainer.max_steps=30")
    options = ["resume=true", "trainer.max_steps=null", "data.batch_size=250"]
    launch(1, "train.py", f"run={run}", *options)
    launch(1, "evaluate.py", f"run={run}", "progress=false")
    launch(1, "evaluate.py", f"run={trained}", "progress=false")
    moved, whole = (pq.read_table(f / "predictions_test.parquet") for f in (run, trained))
    np.testing.assert_allclose(moved["score"].to_numpy(), whole["score"].to_numpy(), atol=1e-4)


@pytest.mark.parametrize("model", ["muse_paper", "muse_qin"])
def test_trains_in_bfloat16_with_clipped_gradients(model, tiny_store, tmp_path):
    run = tmp_path / model
    options = ["data.history_length=60", "trainer.max_steps=2", "trainer.precision=bf16"]
    options += ["trainer.clip_norm=1.0", "trainer.progress=false"]
    launch(1, "train.py", f"model={model}", f"data.store={tiny_store}", f"run={run}", *options)
    launch(1, "evaluate.py", f"run={run}", "progress=false")
    assert json.loads((run / "evaluation_test.json").read_text())["samples"] > 0


def test_taobao_excerpt_trains_a_step_with_idle_processes(shared_data, tmp_path):
    """Ten real rows that do not join with each other; in the last step two processes get none."""
    store, run = tmp_path / "store", tmp_path / "run"
    source = str(shared_data / "taobao_mm_demo")
    assert taobao_mm.main(["--source", source, "--out", str(store)]) == 0
    options = ["experiment=taobao_mm_muse", "data.batch_size=3", "trainer.progress=false"]
    launch(3, "train.py", f"data.store={store}", f"run={run}", *options)
    launch(1, "evaluate.py", f"run={run}", "progress=false")
    assert json.loads((run / "evaluation_test.json").read_text())["samples"] == 10


def test_a_run_killed_before_its_first_checkpoint_starts_over(tiny_store, tmp_path):
    run = tmp_path / "run"
    command = ["model=din", f"data.store={tiny_store}", f"run={run}", "trainer.progress=false"]
    launch(1, "train.py", *command, "data.history_length=60", "trainer.max_steps=1")
    shutil.rmtree(run / "checkpoints")
    again = [*command, "data.history_length=60", "trainer.max_steps=2"]
    launch(1, "train.py", *again, "resume=true")
    assert rows_of(run)[-1]["steps"] == 2


def test_a_loss_that_explodes_ends_in_one_line(tiny_store, tmp_path):
    options = ["data.history_length=60", "trainer.lr=1e30", "trainer.log_every=1"]
    options += [f"data.store={tiny_store}", f"run={tmp_path / 'run'}", "trainer.progress=false"]
    done = launch(1, "train.py", *options, "data.batch_size=50", expect=2)
    assert "error: step" in done.stderr
    assert "trainer.lr" in done.stderr


def test_resuming_as_another_model_is_refused(trained):
    done = launch(1, "train.py", f"run={trained}", "resume=true", "model.retrieved=10", expect=2)
    assert "model.retrieved" in done.stderr
    assert "Traceback" not in done.stderr.split("error:")[0]
