"""Several runs in one process: a Hydra multirun of a sweep, as `ctr/train.py -m` starts it."""

import json
import runpy
import signal

import pytest
import torch.distributed as dist

from ctr.run_folder import RunFolder
from tools.chaos.ending import differences, read_ending


@pytest.fixture
def start(tiny_store, repository, monkeypatch):
    """Starts training with a command line, in this process."""

    def started(*arguments):
        settings = ["data.history_length=60", "model.recent_length=10", "model.hidden=[16]"]
        settings += [f"data.store={tiny_store}", "trainer.max_steps=2", "trainer.progress=false"]
        settings += ["data.batch_size=100", "device=cpu"]
        monkeypatch.setattr("sys.argv", ["train.py", *arguments, *settings])
        runpy.run_path(str(repository / "ctr" / "train.py"), run_name="__main__")

    return started


def test_the_points_of_a_sweep_are_runs_like_any_others(start, tmp_path):
    """Each in a folder of its own, and equal to a run alone, whatever came before it."""
    handlers = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    sweep = ["experiment=sweep_k", f"hydra.sweep.dir={tmp_path / 'sweep'}"]
    folder = tmp_path / "k-${model.retrieved}"
    start("-m", *sweep, "model.retrieved=5,12", f"run={folder}")
    for retrieved in (5, 12):
        run = RunFolder(tmp_path / f"k-{retrieved}")
        assert run.read_config().model.retrieved == retrieved
        assert json.loads(run.metrics.read_text().splitlines()[-1])["steps"] == 2
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == handlers
    assert not dist.is_initialized()
    start("experiment=sweep_k", "model.retrieved=12", f"run={tmp_path / 'alone'}")
    assert differences(read_ending(tmp_path / "k-12"), read_ending(tmp_path / "alone")) == []


def test_a_point_that_cannot_run_ends_the_sweep_with_its_error(start, tmp_path, capsys):
    sweep = ["experiment=sweep_k", f"hydra.sweep.dir={tmp_path / 'sweep'}"]
    with pytest.raises(SystemExit) as caught:
        start("-m", *sweep, "model.retrieved=500,5", f"run={tmp_path}/k-${{model.retrieved}}")
    assert caught.value.code == 2
    assert "error: model.retrieved=500: more than data.history_length=60" in capsys.readouterr().err
    assert not (tmp_path / "k-5").exists()
